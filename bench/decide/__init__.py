"""Decisions in processor time, ours beside what people use: `make bench-decide`."""
