"""Why a cell is in its state, and whether a sweep's files agree: read from the files, row by row."""
