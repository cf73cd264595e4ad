"""Pairs from a file: read once when the sweep is planned, encoded in bulk, and carried to the nodes as token ids."""
