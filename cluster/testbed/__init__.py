"""Real clusters in miniature, on one machine and in one folder each: to try a sweep on, and for the tests."""
