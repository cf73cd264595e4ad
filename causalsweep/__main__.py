"""`python -m causalsweep` is the command `causalsweep`."""

from orchestrator.cli import main

if __name__ == "__main__":
    main()
