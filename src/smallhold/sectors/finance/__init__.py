"""Finance: the tone of a headline, and what a bank's customer wants. Declared in `sector.toml`; no code of its own."""
