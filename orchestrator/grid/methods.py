"""The methods of a spec: those of its grid, and those that run behind them at the best places of one before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.errors import SpecError
from orchestrator.grid.autoencoders import with_autoencoder
from orchestrator.spec.schema import SweepSpec, ThenSection
from workers.files.folder import SweepFolder
from workers.methods.base_settings import MethodError
from workers.methods.settings import method_label, method_variants


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A method of the grid, or of a step behind it: its seeds, and at whose best places it runs."""

    method: dict[str, Any]
    seeds: tuple[int, ...]
    after: str = ""
    best: int = 0


def methods_of(spec: SweepSpec, folder: SweepFolder | None) -> tuple[list[Step], dict[str, Path]]:
    """Every method with its settings, and the autoencoders that they read, by hash. Raises: SpecError."""
    found: list[Step] = []
    autoencoders: dict[str, Path] = {}
    thens = [(f"then[{index}].method", section.method, section) for index, section in enumerate(spec.then)]
    for key, method, section in [*((key, method, None) for key, method in spec.methods()), *thens]:
        labels = [method_label(step.method) for step in found]
        after = _after(spec, key, section, labels) if section else ""
        try:
            for settings in method_variants(method.name, method.settings()):
                planned, files = with_autoencoder(settings, folder)
                autoencoders |= files
                label = method_label(planned)
                if section and label in labels:
                    raise MethodError(f"name: {label!r} is run before; a further step needs another method or width")
                seeds = (section.seeds if section else ()) or spec.grid.seeds
                found.append(Step(method=planned, seeds=seeds, after=after, best=section.best if section else 0))
        except MethodError as error:
            raise placed(spec, key, error) from error
    return found, autoencoders


def _after(spec: SweepSpec, key: str, section: ThenSection, labels: Sequence[str]) -> str:
    """The label of the method at whose best places a step runs. Raises: SpecError."""
    if section.after in labels:
        return section.after
    if section.after or len(labels) != 1:
        right = f"expected the method at whose best places it runs: one of {', '.join(labels)}"
        raise spec.error(key.replace("method", "after"), section.after, right)
    return labels[0]


def placed(spec: SweepSpec, key: str, error: Exception) -> SpecError:
    """A task's or method's `KEY: got ..` at its place in the spec."""
    name, colon, rest = str(error).partition(": ")
    if colon and name.isidentifier():
        return SpecError(f"{spec.source}: key `{key}.{name}`: {rest}")
    return SpecError(f"{spec.source}: key `{key}`: {error}")
