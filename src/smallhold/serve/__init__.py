"""A bundle behind an OpenAI-compatible HTTP interface on this machine."""
