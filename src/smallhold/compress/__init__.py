"""Make a model smaller: quantization."""
