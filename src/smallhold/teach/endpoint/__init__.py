"""An OpenAI-compatible API as teacher: labels, rationales and soft labels for a text task."""
