"""The seam: job file, sweep folder, progress file, shard. Nothing here imports torch."""
