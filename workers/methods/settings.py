"""The settings of each method, with their defaults, and the registry of methods. No torch here.

A new method is a file in this folder (`fit` in `methods/NAME.py`) and an entry in `METHODS`; settings of its own, if it
has any, are a dataclass here.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal


class MethodError(ValueError):
    """A method or a setting of it must be mended; the message names key, value and what would be right."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodSettings:
    """A method without settings, and what planning must know of any method.

    `sites`: those that the method works at; none: all of them. `metric`: interchange intervention accuracy (`iia`), or
    the accuracy of a probe (`decoding`). `fits`: what a cell costs before it is evaluated. `label_keys`: settings that
    tell the cells of one grid apart, so that they are part of the method's label.
    """

    metric: ClassVar[Literal["iia", "decoding"]] = "iia"
    fits: ClassVar[Literal["by gradient", "on activations", "not at all"]] = "on activations"
    label_keys: ClassVar[tuple[str, ...]] = ()
    sites: ClassVar[tuple[str, ...]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InterchangeSettings(MethodSettings):
    """Interchange of the whole vector: nothing to set."""

    fits = "not at all"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings(MethodSettings):
    """What methods that learn a rotation share."""

    fits = "by gradient"

    epochs: int = 3
    batch_size: int = 64
    rotation_lr: float = 1e-3
    warmup: float = 0.1  # share of the steps in which the learning rates rise from 0
    eval_every: int = 0  # steps between evaluations in training; 0: none

    def __post_init__(self) -> None:
        _check(self, "epochs", self.epochs >= 1, "1 or more")
        _check(self, "batch_size", self.batch_size >= 1, "1 or more")
        _check(self, "rotation_lr", self.rotation_lr > 0, "above 0")
        _check(self, "warmup", 0 <= self.warmup < 1, "from 0 to below 1")
        _check(self, "eval_every", self.eval_every >= 0, "0 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundlessDasSettings(TrainingSettings):
    """Boundless DAS (Wu et al., NeurIPS 2023, section 3). Temperatures are for hidden size 4096 and scale with it."""

    boundary_lr: float = 1e-2
    temperature_start: float = 50.0
    temperature_end: float = 0.1
    boundary_penalty: float = 1.0
    boundary_start: float = 0.5
    boundary_min: float = 1e-3

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        for key in ("boundary_lr", "temperature_start", "temperature_end"):
            _check(self, key, getattr(self, key) > 0, "above 0")
        _check(self, "boundary_penalty", self.boundary_penalty >= 0, "0 or more")
        _check(self, "boundary_min", 0 < self.boundary_min < 1, "between 0 and 1")
        _check(self, "boundary_start", self.boundary_min <= self.boundary_start <= 1, "from boundary_min to 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DasSettings(TrainingSettings):
    """DAS (Geiger et al., 2023): `k` dimensions a variable."""

    label_keys = ("k",)

    k: int = 1

    def __post_init__(self) -> None:
        TrainingSettings.__post_init__(self)
        _check(self, "k", self.k >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class PcaSettings(MethodSettings):
    """The first `k` principal components."""

    label_keys = ("k",)

    k: int = 1

    def __post_init__(self) -> None:
        _check(self, "k", self.k >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearProbeSettings(MethodSettings):
    """A logistic regression: `penalty` times half the squared weights of standardised activations is added to the mean
    loss, which is lowered in at most `max_steps` steps."""

    metric = "decoding"

    penalty: float = 1e-3
    max_steps: int = 200

    def __post_init__(self) -> None:
        _check(self, "penalty", self.penalty > 0, "above 0")
        _check(self, "max_steps", self.max_steps >= 1, "1 or more")


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseProbeSettings(LinearProbeSettings):
    """A logistic regression on the `k` neurons that tell the classes best apart one by one."""

    label_keys = ("k",)

    k: int = 1

    def __post_init__(self) -> None:
        LinearProbeSettings.__post_init__(self)
        _check(self, "k", self.k >= 1, "1 or more")


METHODS: dict[str, type[MethodSettings]] = {
    "boundless_das": BoundlessDasSettings,
    "das": DasSettings,
    "interchange": InterchangeSettings,
    "difference_of_means": MethodSettings,
    "pca": PcaSettings,
    "linear_probe": LinearProbeSettings,
    "sparse_probe": SparseProbeSettings,
}


def method_settings(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a method, the given ones over the defaults, with the method's name: part of every cell key.

    Raises: MethodError for an unknown method or key, a wrong type, or a value out of range.
    """
    if name not in METHODS:
        raise MethodError(f"name: got {name!r}; {_instead(name, METHODS)}")
    kind = METHODS[name]
    types = {key: type(value) for key, value in asdict(kind()).items()}
    for key, value in overrides.items():
        if key not in types:
            raise MethodError(f"{key}: unknown setting of method {name!r}; {_instead(key, types)}")
        if isinstance(value, bool) or not isinstance(value, (int, types[key]) if types[key] is float else types[key]):
            raise MethodError(f"{key}: got {value!r}; {types[key].__name__} is right")
    values = {key: types[key](value) for key, value in overrides.items()}
    return {"name": name} | asdict(kind(**values))


def method_variants(name: str, overrides: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`method_settings` of each combination of the values that `overrides` gives as lists: `k: [1, 4, 16]` are three
    methods. Raises: as `method_settings`."""
    lists = [value if isinstance(value, (list, tuple)) else [value] for value in overrides.values()]
    for key, values in zip(overrides, lists, strict=True):
        if not values:
            raise MethodError(f"{key}: got an empty list; give at least one value")
    return [method_settings(name, dict(zip(overrides, values, strict=True))) for values in itertools.product(*lists)]


def method_label(settings: Mapping[str, Any]) -> str:
    """How a method of these settings is called in rows, filters and maps: `das_k4`."""
    name = str(settings["name"])
    return "_".join([name, *(f"{key}{settings[key]}" for key in METHODS[name].label_keys)])


def _check(settings: Any, key: str, right: bool, wanted: str) -> None:
    if not right:
        raise MethodError(f"{key}: got {getattr(settings, key)!r}; {wanted} is right")


def _instead(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known)) or 'none'}"
