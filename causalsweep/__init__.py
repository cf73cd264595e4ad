"""The public interface: `Sweep` and `load_alignment`. Importing it loads neither torch nor a scheduler's library."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from orchestrator import __version__

if TYPE_CHECKING:
    from orchestrator.learned import load_alignment
    from orchestrator.sweep import Sweep

__all__ = ["Sweep", "__version__", "load_alignment"]


def __getattr__(name: str) -> Any:
    """A public name, imported when it is first asked for, so that `import causalsweep` is quick."""
    if name == "Sweep":
        from orchestrator.sweep import Sweep

        return Sweep
    if name == "load_alignment":
        from orchestrator.learned import load_alignment

        return load_alignment
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
