"""The user's text: `sweep.yaml` -> SweepSpec, filters on cells, and the wording of every problem."""
