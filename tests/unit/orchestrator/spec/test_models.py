"""`grid.models`: what a spec says of several models, what they are called, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.schema import SweepSpec, load_spec
from tests.unit.orchestrator.specs import raw_spec, spec_of

GRID = raw_spec()["grid"]
TMP = Path("/specs")


def spec_with(models: Any, *, model: Any = None, **changes: Any) -> SweepSpec:
    raw = raw_spec(grid=GRID | {"models": models}, **changes)
    del raw["model"]
    return spec_of(raw | ({"model": model} if model is not None else {}), TMP)


def names(spec: SweepSpec) -> list[str]:
    return [choice.name for choice in spec.models()]


def test_one_model_is_as_before() -> None:
    """Without the axis the spec's model is the one model, called by its folder."""
    (choice,) = spec_of(raw_spec(), TMP).models()
    assert (choice.key, choice.name, choice.path) == ("model", "/specs/demo-model", "/specs/demo-model")
    assert (choice.dtype, choice.untrained_seed) == ("float32", None)


def test_entries_are_folders_relative_to_the_spec_and_share_the_dtype() -> None:
    """A text alone is a path; `model` has what all share, and may be left out."""
    spec = spec_with(["./a/step1", {"path": "./a/step2"}], model={"dtype": "float16"})
    assert [choice.path for choice in spec.models()] == ["/specs/a/step1", "/specs/a/step2"]
    assert {choice.dtype for choice in spec.models()} == {"float16"}
    assert {choice.dtype for choice in spec_with(["a"]).models()} == {"bfloat16"}


def test_entries_may_share_the_path() -> None:
    """Revisions of one model of the Hub: `model.path` is that of every entry that has none."""
    spec = spec_with([{"revision": "step1"}, {"revision": "step2"}], model={"path": "Lab/tiny"})
    assert [(choice.path, choice.revision) for choice in spec.models()] == [
        ("Lab/tiny", "step1"),
        ("Lab/tiny", "step2"),
    ]
    assert names(spec) == ["Lab/tiny@step1", "Lab/tiny@step2"]


def test_a_model_is_called_by_as_much_of_its_path_as_tells_it_apart() -> None:
    """The folder's name, or with the folder around it; an id of the Hub; a name of one's own comes first."""
    assert names(spec_with(["./runs/step1", "./runs/step2"])) == ["step1", "step2"]
    assert names(spec_with(["./a/step1", "./b/step1", "./b/step2"])) == ["a/step1", "b/step1", "step2"]
    assert names(spec_with(["Lab/tiny", "Lab/small"])) == ["Lab/tiny", "Lab/small"]
    assert names(spec_with([{"path": "a", "name": "old"}, {"path": "b"}])) == ["old", "b"]


def test_an_untrained_model_is_called_so() -> None:
    """An entry of its own, with a seed where there are several."""
    spec = spec_with(["a", {"path": "a", "untrained": True}])
    assert [(choice.name, choice.untrained_seed) for choice in spec.models()] == [("a", None), ("a untrained", 0)]
    two = spec_with([{"path": "a", "untrained": True}, {"path": "a", "untrained": True, "seed": 1}])
    assert names(two) == ["a untrained 0", "a untrained 1"]


def test_untrained_beside_the_one_model() -> None:
    """`grid.untrained: true` is short for two entries."""
    spec = spec_of(raw_spec(grid=GRID | {"untrained": True}), TMP)
    assert [(choice.name, choice.untrained_seed) for choice in spec.models()] == [
        ("demo-model", None),
        ("demo-model untrained", 0),
    ]
    assert {choice.dtype for choice in spec.models()} == {"float32"}


def test_the_resolved_spec_is_read_back(tmp_path: Path) -> None:
    """sweep.yaml names the same models, by the same names, wherever it lies."""
    for grid in ({"models": [{"revision": "step1"}, {"path": "b", "untrained": True}]}, {"untrained": True}):
        spec = spec_of(raw_spec(grid=GRID | grid, model={"path": "Lab/tiny"}), TMP)
        path = tmp_path / "sweep.yaml"
        path.write_text(spec.to_yaml(), encoding="utf-8")
        again = load_spec(path)
        assert again.model_dump() == spec.model_dump()
        assert names(again) == names(spec)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["a", "b", "./a"], "key `grid.models[2].path`: got '/specs/a'; it is the same model as grid.models[0]"),
        (["Lab/x", {"path": "Lab/x", "revision": "main"}], "key `grid.models[1].path`: got 'Lab/x'; it is the same"),
        (
            [{"path": "a", "untrained": True}, {"path": "a", "untrained": True}],
            "it is the same model as grid.models[0]",
        ),
        ([{"path": "a", "revison": "x"}], "key `grid.models[0].revison`: unknown; did you mean `revision`?"),
        ([{"path": "a", "dtype": "float32"}], "key `grid.models[0].dtype`: unknown"),
        (
            [{"path": "a", "name": "x"}, {"path": "b", "name": "x"}],
            "key `grid.models[1].name`: got 'x'; grid.models[0]",
        ),
        ([{"path": "a", "name": "x,y"}], "key `grid.models[0].name`: got 'x,y'"),
        ([{"path": "a"}, {"revision": "x"}], "key `grid.models[1].path`: missing; give the folder"),
        ([{"path": "a", "seed": 3}], "key `grid.models[0].seed`: got 3; only an entry with `untrained: true`"),
        ([3], "key `grid.models[0]`: got 3; expected a mapping"),
    ],
)
def test_a_wrong_entry_is_named(models: Any, message: str) -> None:
    """File, key, value, and what would be right."""
    with pytest.raises(SpecError) as caught:
        spec_with(models)
    assert "small.yaml: " in str(caught.value)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": {"path": "c"}}, "key `model.path`: got 'c'; every entry of `grid.models` has a path of its own"),
        ({"data": {"keep": "correct"}}, "key `data.keep`: got 'correct'; grid.models[1] is untrained"),
        ({"untrained": True}, "key `grid.untrained`: with grid.models give an entry of its own"),
    ],
)
def test_what_does_not_go_with_the_axis_is_named(changes: dict[str, Any], message: str) -> None:
    """A path that nothing takes, pairs that an untrained model cannot have, the short form beside the long one."""
    grid = GRID | {"models": ["a", {"path": "b", "untrained": True}], "untrained": changes.pop("untrained", False)}
    with pytest.raises(SpecError) as caught:
        spec_of(raw_spec(grid=grid, model={"dtype": "float32"}) | changes, TMP)
    assert message in str(caught.value)


def test_a_spec_without_any_model_says_what_is_missing() -> None:
    """As before the axis."""
    raw = raw_spec()
    del raw["model"]
    with pytest.raises(SpecError, match="key `model`: missing; give a checkpoint"):
        spec_of(raw, TMP)
