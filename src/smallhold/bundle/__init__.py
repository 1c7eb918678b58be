"""From a trained checkpoint to a signed bundle that devices can verify."""
