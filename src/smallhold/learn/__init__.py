"""The torch model, checkpoints on disk, the training loop."""
