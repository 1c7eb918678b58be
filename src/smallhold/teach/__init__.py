"""Teachers, recipes, and the runs that train a small model."""
