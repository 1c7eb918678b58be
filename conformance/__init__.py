"""The same prompts and decisions on every runtime: `make conformance`."""
