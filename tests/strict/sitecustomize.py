"""Loaded by every Python that a test starts, and called by tests/conftest.py: our deprecated calls are errors.

A warning that Python attributes to one of our modules is an error. What transformers says of a deprecated call it only
logs: that is an error too, raised where it is logged, so that the traceback shows the call.
"""

import logging
import warnings

OURS = ("causalsweep", "orchestrator", "workers", "cluster", "values", "__main__")


class _Deprecated(logging.Handler):
    """Raises for a message on something deprecated."""

    def emit(self, record: logging.LogRecord) -> None:
        """Raises: DeprecationWarning."""
        if "deprecat" in record.getMessage().lower():
            raise DeprecationWarning(record.getMessage())


def be_strict() -> None:
    """Turn these warnings and messages into errors in this process."""
    warnings.filterwarnings("error", module=rf"({'|'.join(OURS)})(\.|$)")
    logging.getLogger("transformers").addHandler(_Deprecated())


if __name__ == "sitecustomize":  # as Python loads it when it starts
    be_strict()
