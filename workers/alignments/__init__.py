"""What cells have learned, for use outside a sweep: their subspaces, and the intervention in a plain model."""
