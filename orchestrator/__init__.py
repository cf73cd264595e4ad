"""Grid in, results out: expands, plans, submits, watches and gathers a sweep. Never imports torch, ray or submitit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

__all__ = ["Sweep", "__version__"]

__version__ = "0.1.0"  # the one place: pyproject.toml reads it here


def __getattr__(name: str) -> Any:
    """`Sweep`, imported when it is first asked for: the command line's --help needs none of what it needs."""
    if name == "Sweep":
        from orchestrator.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
