"""A federation over several machines: a folder for each, what runs there, who is let in, and whether it is in order."""
