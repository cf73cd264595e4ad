"""`python -m orchestrator` is `causalsweep`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
