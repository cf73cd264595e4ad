"""Shards -> results, and the statistics of their counts."""
