"""Searching a method's settings with Ray Tune."""
