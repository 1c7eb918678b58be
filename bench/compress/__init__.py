"""Our quantizers beside the best peers, on one trained checkpoint; run with `python -m bench.compress`."""
