"""Cells -> jobs: what a cell costs, how jobs are packed, and for which machines."""
