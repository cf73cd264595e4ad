"""The command `causalsweep`, and `python -m orchestrator`: Ctrl-C ends it with 130, while modules load too."""

import sys


def main() -> None:
    """Run the command line. Until it is loaded this module is all that there is, so that it loads at once."""
    try:
        from orchestrator.cli import main as command_line

        command_line()
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
