"""The public interface: `from causalsweep import Sweep`. Importing it loads neither torch nor a scheduler's library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator import __version__

if TYPE_CHECKING:
    from orchestrator.sweep import Sweep

__all__ = ["Sweep", "__version__"]


def __getattr__(name: str) -> Any:
    """`Sweep`, imported when it is first asked for, so that `import causalsweep` is quick."""
    if name == "Sweep":
        from orchestrator.sweep import Sweep

        return Sweep
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
