"""SweepSpec -> cells: the axes, the expansion, the file of planned cells, and a prompt to look at."""
