"""`python -m cluster.testbed slurm|ray ...`: each kind of cluster has a module with a `main`."""

from __future__ import annotations

import importlib
import sys

KINDS = ("slurm", "ray")

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in KINDS:
        sys.exit(f"usage: python -m cluster.testbed {'|'.join(KINDS)} up|down|status|... DIR")
    sys.exit(importlib.import_module(f"cluster.testbed.{sys.argv[1]}").main(sys.argv[2:]))
