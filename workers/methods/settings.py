"""The settings of each method, with their defaults, and the registry of methods. No torch here.

A new method is a file in this folder (`fit` in `methods/NAME.py`) and an entry in `METHODS`; settings of its own, if it
has any, are a class here, each with the type of `values.numbers` that bounds it.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final, Literal, Self

from pydantic import ValidationError, model_validator

from values.numbers import Count, CountOrNone, NotNegative, OpenShare, Positive, Real, Share, ShareBelowOne
from values.problems import right
from workers.files.job import content_key
from workers.files.metrics import DECODING
from workers.files.place import AnyPlace
from workers.methods.base_settings import ClassSettings, MethodError, MethodSettings
from workers.methods.reading_settings import (
    AttentionKnockoutSettings,
    AttentionPatternSettings,
    LogitAttributionSettings,
    LogitLensSettings,
    ReadingVectorSettings,
    SkillNeuronsSettings,
    TunedLensSettings,
)

_LABEL_LETTERS: Final = 8  # a word's, in a label
_LABEL_LIST: Final = 32  # letters of a list in a label, before its hash stands for it
MOST_CLASSES: Final = 256  # values of one variable that a method tells apart
_TYPES: Final[Mapping[str, str]] = {"int_type": "int", "float_type": "float"}


class DifferenceOfMeansSettings(ClassSettings):
    """Difference of means: the subspace in which the means of the `classes` lie."""

    subspace_of_each = True


class InterchangeSettings(MethodSettings):
    """Interchange of the whole vector: nothing to set."""

    fits = "not at all"
    whole_vector = True


class KmeansSettings(MethodSettings):
    """The line between two clusters: nothing to set."""

    subspace_of_each = True

    tells_classes = True


class LdaSettings(ClassSettings):
    """The linear discriminants of the `classes`; the covariance is shrunk by `shrinkage` towards its mean variance."""

    subspace_of_each = True

    shrinkage: OpenShare = 0.01


class ProbeDirectionSettings(ClassSettings):
    """The weights of a linear probe with these settings (`LinearProbeSettings`)."""

    subspace_of_each = True

    penalty: Positive = 1e-3
    max_steps: Count = 200


class StepSettings(MethodSettings):
    """What methods that learn by gradient share."""

    fits = "by gradient"

    epochs: Count = 3
    batch_size: Count = 64
    warmup: ShareBelowOne = 0.1  # share of the steps in which the learning rates rise from 0
    eval_every: CountOrNone = 0  # steps between evaluations on all validation pairs; 0: as `workers.methods.curve` says


class TrainingSettings(StepSettings):
    """What methods that learn a rotation share."""

    subspace_of_each = True

    rotation_lr: Positive = 1e-3


class AutoencoderSettings(MethodSettings):
    """A sparse autoencoder: `path` is its folder, or `params.npz`. A plan takes the path out and fills in the SHA-256
    of the files, the width of the vectors that the autoencoder reads, and the number of its features."""

    path: str = ""
    sha256: str = ""
    width: CountOrNone = 0
    n_features: CountOrNone = 0

    def why_not(self, *, width: int, n_variables: int) -> str:
        """It reads vectors of one size."""
        if self.width in (0, width):
            return ""
        return f"path: the autoencoder reads vectors of {self.width}, and a token has {width} numbers here"


class SaeSettings(AutoencoderSettings):
    """Features of a sparse autoencoder: for each variable the `k` that tell its classes best apart, or all (k = 0), or
    those in `features`, by number."""

    label_keys = ("k", "features", "sha256")
    tells_classes = True

    k: CountOrNone = 32
    features: list[CountOrNone] = []  # noqa: RUF012 (pydantic copies a default)

    @model_validator(mode="after")
    def _check_features(self) -> Self:
        if len(set(self.features)) < len(self.features):  # its change would be decoded twice
            raise ValueError(f"features: got {self.features!r}; expected each feature once")
        return self


class DbmSettings(AutoencoderSettings, StepSettings):
    """A mask over the units of a fixed `basis`, whose theta begins at `mask_start`; each unit that is let through costs
    `mask_penalty`."""

    label_keys = ("basis", "sha256")

    basis: Literal["neurons", "pca", "svd", "sae"] = "neurons"
    mask_lr: Positive = 1e-2
    mask_penalty: NotNegative = 1e-3
    mask_start: Real = 0.1
    temperature_start: Positive = 1.0
    temperature_end: Positive = 0.01


class SteeringSettings(MethodSettings):
    """Activation addition: `coefficient` times the difference between the prompts of the `contrast`."""

    label_keys = ("contrast", "coefficient")

    coefficient: Real = 1.0
    contrast: Literal["answers", "pairs"] = "answers"


class TaskVectorSettings(MethodSettings):
    """The mean state of the training pairs' sources: nothing to set."""


class FunctionVectorSettings(MethodSettings):
    """The sum of the mean outputs of the `n_heads` attention heads of the largest causal effect."""

    label_keys = ("n_heads",)

    n_heads: Count = 10


class BoundlessDasSettings(TrainingSettings):
    """Boundless DAS (Wu et al., NeurIPS 2023, section 3). Temperatures are for hidden size 4096 and scale with it."""

    boundary_lr: Positive = 1e-2
    temperature_start: Positive = 50.0
    temperature_end: Positive = 0.1
    boundary_penalty: NotNegative = 1.0
    boundary_start: Share = 0.5
    boundary_min: OpenShare = 1e-3

    @model_validator(mode="after")
    def _check_start(self) -> Self:
        if self.boundary_start < self.boundary_min:
            raise ValueError(f"boundary_start: got {self.boundary_start!r}; expected from boundary_min to 1")
        return self


class _OwnDimensions(MethodSettings):
    """`k` dimensions for each variable."""

    subspace_of_each = True

    label_keys = ("k",)

    k: Count = 1

    def why_not(self, *, width: int, n_variables: int) -> str:
        """Each variable has `k` dimensions to itself."""
        if self.k * n_variables <= width:
            return ""
        return (
            f"k: {n_variables} x {self.k} dimensions do not fit into a vector of {width}; "
            f"expected {width // n_variables} or less"
        )


class DasSettings(TrainingSettings, _OwnDimensions):
    """DAS (Geiger et al., 2023): `k` dimensions a variable."""


class RandomDirectionSettings(_OwnDimensions):
    """`k` random dimensions a variable."""

    fits = "not at all"


class PcaSettings(MethodSettings):
    """The first `k` principal components."""

    subspace_of_each = True

    label_keys = ("k",)

    k: Count = 1

    def why_not(self, *, width: int, n_variables: int) -> str:
        """There are as many components as dimensions."""
        wide = f"k: got {self.k}; a vector of {width} has no more components than that"
        return wide if self.k > width else ""


class LinearProbeSettings(ClassSettings):
    """A logistic regression on the `classes`: `penalty` times half the squared weights of standardised activations is
    added to the mean loss, which is lowered in at most `max_steps` steps."""

    metric = DECODING
    changes_model = False

    penalty: Positive = 1e-3
    max_steps: Count = 200


class SparseProbeSettings(LinearProbeSettings):
    """A logistic regression on the `k` neurons that tell the classes best apart one by one."""

    label_keys = ("k", "classes")

    k: Count = 1

    def why_not(self, *, width: int, n_variables: int) -> str:
        """There are as many neurons as dimensions."""
        wide = f"k: got {self.k}; a vector of {width} has no more neurons than that"
        return wide if self.k > width else ""


METHODS: dict[str, type[MethodSettings]] = {
    "boundless_das": BoundlessDasSettings,
    "das": DasSettings,
    "interchange": InterchangeSettings,
    "difference_of_means": DifferenceOfMeansSettings,
    "kmeans": KmeansSettings,
    "lda": LdaSettings,
    "probe_direction": ProbeDirectionSettings,
    "random_direction": RandomDirectionSettings,
    "pca": PcaSettings,
    "dbm": DbmSettings,
    "sae": SaeSettings,
    "steering": SteeringSettings,
    "task_vector": TaskVectorSettings,
    "function_vector": FunctionVectorSettings,
    "linear_probe": LinearProbeSettings,
    "sparse_probe": SparseProbeSettings,
    "logit_lens": LogitLensSettings,
    "tuned_lens": TunedLensSettings,
    "reading_vector": ReadingVectorSettings,
    "skill_neurons": SkillNeuronsSettings,
    "logit_attribution": LogitAttributionSettings,
    "attention_pattern": AttentionPatternSettings,
    "attention_knockout": AttentionKnockoutSettings,
}


def method_settings(name: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting of a method, the given ones over the defaults, with the method's name: part of every cell key.

    Raises: MethodError for an unknown method or key, a wrong type, or a value out of range.
    """
    if name not in METHODS:
        raise MethodError(f"name: got {name!r}; {_instead(name, METHODS)}")
    try:
        settings = METHODS[name].model_validate(dict(overrides))
    except ValidationError as error:
        raise MethodError(_first_problem(error, name)) from None
    values, kind = settings.model_dump(), METHODS[name]
    unchanged = [key for key in kind.later if values[key] == kind.model_fields[key].default]
    return {"name": name} | {key: value for key, value in values.items() if key not in unchanged}


def settings_object(settings: Mapping[str, Any]) -> MethodSettings:
    """The settings of a cell's method as an object of its class."""
    return METHODS[settings["name"]](**{key: value for key, value in settings.items() if key != "name"})


def why_not(settings: Mapping[str, Any], *, width: int, n_variables: int) -> str:
    """Why a method of these settings has no meaning for that number of variables in a vector of this size; empty where
    it has."""
    return settings_object(settings).why_not(width=width, n_variables=n_variables)


def places_read(settings: Mapping[str, Any], places: Iterable[AnyPlace], n_layers: int) -> list[AnyPlace]:
    """Every place that a method of these settings reads for cells at `places`, each once."""
    method = settings_object(settings)
    return list(dict.fromkeys(one for place in places for one in method.reads(place, n_layers)))


def why_no_classes(method: str, hypothesis: str, variable: str, values: Collection[float], *, most: int = 0) -> str:
    """Why a method that tells classes of a variable apart cannot, by the values that it was seen to have; empty where
    it can. With `most` each value is a class, and there must not be more. NaN stands for a value that is no number, or
    then for one that is neither number nor text."""
    why = ""
    if any(map(math.isnan, values)):
        why = "has values that are no numbers" + (" and no texts" if most else ", and so no order")
    elif len(set(values)) < 2:
        why = "has one value only on the training pairs"
    elif most and len(set(values)) > most:
        why = f"has {len(set(values)):,} values on the training pairs; expected {most} or less"
    needed = "classes" if most else "two classes"
    return why and f"{method} needs {needed}: variable {variable!r} of hypothesis {hypothesis!r} {why}"


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
    told = (_labelled(key, settings[key]) for key in METHODS[name].label_keys if key in settings)
    return "_".join([name, *filter(None, told)])


def _labelled(key: str, value: Any) -> str:
    """A setting in a label: a word, or the beginning of a hash."""
    if isinstance(value, str):
        return value[:_LABEL_LETTERS]
    if isinstance(value, list):
        text = "-".join(map(str, value))
        return key + (text if len(text) <= _LABEL_LIST else content_key(value)[:_LABEL_LETTERS]) if value else ""
    return f"{key}{value}"


def _first_problem(error: ValidationError, name: str) -> str:
    problem = error.errors()[0]
    if not problem["loc"]:  # from a validator of ours, which says where
        return right(problem)
    key = problem["loc"][0]
    if problem["type"] == "extra_forbidden":
        return f"{key}: unknown setting of method {name!r}; {_instead(str(key), METHODS[name].model_fields)}"
    return f"{key}: got {problem['input']!r}; expected {_TYPES.get(problem['type'], right(problem))}"


def _instead(word: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(sorted(known)) or 'none'}"
