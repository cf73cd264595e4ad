"""Where jobs run: this machine, SLURM, Ray. Knows nothing of cells."""
