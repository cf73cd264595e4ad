"""What is known of every cell and job now: derived from files and clusters, never stored."""
