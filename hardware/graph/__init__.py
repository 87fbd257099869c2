"""A `.nir` file as a checked graph."""
