"""The registry of methods: settings, lists of them, labels."""

from __future__ import annotations

import importlib
import re
from typing import Any

import pytest

from workers.methods.settings import METHODS, MethodError, method_label, method_settings, method_variants


@pytest.mark.parametrize("name", METHODS)
def test_every_registered_method_can_be_fitted(name: str) -> None:
    """A line of the registry has its module, with `fit` in it."""
    assert callable(importlib.import_module(f"workers.methods.{name}").fit)


def test_every_setting_is_part_of_the_cell_key() -> None:
    """The defaults are written out, and whole numbers become what the setting is."""
    assert method_settings("sparse_probe", {"k": 3, "penalty": 1}) == {
        "name": "sparse_probe",
        "penalty": 1.0,
        "max_steps": 200,
        "k": 3,
    }


def test_a_list_is_several_methods() -> None:
    """Every combination of the listed values, in their order; what is not listed is shared."""
    variants = method_variants("das", {"k": [1, 4], "epochs": [2, 3], "batch_size": 32})
    assert [(one["k"], one["epochs"], one["batch_size"]) for one in variants] == [
        (1, 2, 32),
        (1, 3, 32),
        (4, 2, 32),
        (4, 3, 32),
    ]


@pytest.mark.parametrize(
    ("name", "settings", "label"),
    [("das", {"k": 4}, "das_k4"), ("pca", {}, "pca_k1"), ("boundless_das", {"epochs": 9}, "boundless_das")],
)
def test_a_label_tells_methods_of_one_grid_apart(name: str, settings: dict[str, Any], label: str) -> None:
    """The width is in the label; what does not tell cells apart is not."""
    assert method_label(method_settings(name, settings)) == label


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("dass", {}, "name: got 'dass'; did you mean 'das'?"),
        ("das", {"k": 0}, "k: got 0; expected 1 or more"),
        ("das", {"k": 1.5}, "k: got 1.5; expected int"),
        ("das", {"k": []}, "k: got an empty list; give at least one value"),
        ("das", {"boundary_lr": 0.1}, "boundary_lr: unknown setting of method 'das'"),
        ("linear_probe", {"penalty": 0.0}, "penalty: got 0.0; expected above 0"),
        ("interchange", {"k": 1}, "k: unknown setting of method 'interchange'; there are none"),
    ],
)
def test_bad_settings_are_named(name: str, settings: dict[str, Any], message: str) -> None:
    """Key, value, and what is expected."""
    with pytest.raises(MethodError) as caught:
        method_variants(name, settings)
    assert str(caught.value).startswith(message)


def test_a_feature_is_named_once() -> None:
    """Named twice, what the source changes in it would be decoded twice."""
    with pytest.raises(MethodError, match=re.escape("features: got [3, 7, 3]; expected each feature once")):
        method_settings("sae", {"features": [3, 7, 3]})
