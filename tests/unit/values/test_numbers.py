"""Every number that a user may give has bounds: found by walking the models, so that a new key cannot escape."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from cluster.backend import ClusterUsageError
from cluster.local.options import LocalBlock
from cluster.options import checked
from cluster.ray.options import RayBlock
from cluster.ray.slurm import RaySlurmBlock
from cluster.slurm.options import SlurmBlock
from orchestrator.errors import SpecError
from orchestrator.spec.schema import SweepSpec, parse_spec
from orchestrator.spec.text import apply_overrides
from tests.unit.orchestrator.specs import raw_spec
from values.numbers import unbounded
from workers.methods.settings import METHODS, MethodError, method_settings

Key = tuple[str | int, ...]
BLOCKS = {"local": LocalBlock, "slurm": SlurmBlock, "ray": RayBlock, "ray_slurm": RaySlurmBlock}
NO_NUMBERS = [math.inf, -math.inf, math.nan, 1e308, 2**63, -(2**63) - 1, 10**400]


def numbers_of(model: type[BaseModel]) -> dict[Key, Mapping[str, Any]]:
    """Each numeric key of a model, and what its JSON schema says of the number."""
    schema = model.model_json_schema()
    return dict(_numbers(schema, schema.get("$defs", {}), ()))


def _numbers(part: Mapping[str, Any], named: Mapping[str, Any], key: Key) -> Iterator[tuple[Key, Mapping[str, Any]]]:
    if "$ref" in part:
        yield from _numbers(named[part["$ref"].rpartition("/")[2]], named, key)
    if part.get("type") in ("integer", "number"):
        yield key, part
    for name, inner in part.get("properties", {}).items():
        yield from _numbers(inner, named, (*key, name))
    for one in part.get("anyOf", []):
        yield from _numbers(one, named, key)
    for index, one in enumerate(part.get("prefixItems", [])):
        yield from _numbers(one, named, (*key, index))
    if isinstance(part.get("items"), dict):
        yield from _numbers(part["items"], named, (*key, 0))
    if isinstance(part.get("additionalProperties"), dict):
        yield from _numbers(part["additionalProperties"], named, (*key, "any"))


def nested(key: Key, value: Any) -> Any:
    """The value at its key, in mappings and lists of one."""
    for part in reversed(key):
        value = {part: value} if isinstance(part, str) else [value]
    return value


def text_of(key: Key) -> str:
    """The key as messages write it."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in key).lstrip(".")


SPEC_KEYS = numbers_of(SweepSpec)
MODELS = {"spec": SweepSpec, **BLOCKS, **METHODS}


def test_the_walk_finds_numbers_wherever_they_are() -> None:
    """In sections, in lists, in what may be absent, in mappings, and in the settings of methods."""
    found = set(SPEC_KEYS)
    assert {("data", "n_train"), ("grid", "seeds", 0), ("grid", "coarse", "confidence"), ("cluster", "nodes")} <= found
    assert ("resources", "any") in numbers_of(RayBlock)
    assert ("gpus", 1) in numbers_of(SlurmBlock)
    assert ("rotation_lr",) in numbers_of(METHODS["boundless_das"])


@pytest.mark.parametrize("name", MODELS)
def test_every_number_has_both_ends(name: str) -> None:
    """No key of a spec, a backend or a method takes a number that is as small or as large as one likes."""
    for key, says in numbers_of(MODELS[name]).items():
        assert {"minimum", "exclusiveMinimum"} & set(says), f"{name}: {key} has no lower bound"
        assert {"maximum", "exclusiveMaximum"} & set(says), f"{name}: {key} has no upper bound"


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("key", SPEC_KEYS, ids=text_of)
def test_a_number_that_nothing_holds_is_named(key: Key, value: Any) -> None:
    """In a spec: file, key, value and what is expected."""
    raw = raw_spec()
    section = {**raw["grid"], **nested(key[1:], value)} if key[0] == "grid" else nested(key[1:], value)
    with pytest.raises(SpecError) as caught:
        parse_spec(raw | {str(key[0]): section}, source="s.yaml", folder=Path("/"))
    lines = str(caught.value).splitlines()
    assert any(line.startswith(f"s.yaml: key `{text_of(key)}`: got ") and "; expected " in line for line in lines)
    assert repr(value) in str(caught.value)


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("name", METHODS)
def test_a_setting_of_a_method_that_nothing_holds_is_named(name: str, value: Any) -> None:
    """For every numeric setting: key, value and what is expected."""
    for key, *rest in numbers_of(METHODS[name]):
        with pytest.raises(MethodError, match=rf"^{key}: got .*; expected \S"):
            method_settings(name, {str(key): [value] if rest else value})


@pytest.mark.parametrize("value", NO_NUMBERS, ids=str)
@pytest.mark.parametrize("block", BLOCKS)
def test_an_option_of_a_backend_that_nothing_holds_is_named(block: str, value: Any) -> None:
    """For every numeric option: block, key, value and what is expected."""
    for key in numbers_of(BLOCKS[block]):
        raw = {"address": "http://here:8265"} if block == "ray" else {}
        given = nested(key, value) if key != ("gpus", 1) else {"gpus": value}
        with pytest.raises(ClusterUsageError, match=rf"^{block}\.{key[0]}\S*: .*; it must be "):
            checked(BLOCKS[block], raw | given, block)


@pytest.mark.parametrize(
    "key",
    [
        "task.addends",
        "method.rotation_lr",
        "grid.exclude",
        "grid.layers",
        "slurm.nice",
        "ray.resources.any",
        "local.workers",
        "settings",
    ],
)
@pytest.mark.parametrize("text", [".inf", "-.inf", ".nan", "1e400", "9223372036854775808"])
def test_a_free_key_is_no_way_around(key: str, text: str) -> None:
    """Where a spec takes any value, in lists and mappings too, and from the command line."""
    raw = raw_spec(task={"name": "arithmetic"}, method={"name": "boundless_das"})
    for value in (text, f"[1, {text}]", f"[{{task: {{bracket: [{text}, 2]}}}}]"):
        changed = apply_overrides(raw, [f"{key}={value}"])
        with pytest.raises(SpecError, match=rf"^s\.yaml: key `{key}\S*`: got .*; expected \S"):
            parse_spec(changed, source="s.yaml", folder=Path("/"))


def test_every_unbounded_number_is_found_at_its_place() -> None:
    """Two of them, deep in a nest; what is no number, a truth value too, is left alone."""
    nest = {"a": [1, {"b": math.inf}], "c": (True, "1e400", None), "d": {"e": 2**70}}
    assert [(key, got) for key, got, _ in unbounded(nest)] == [(("a", 1, "b"), math.inf), (("d", "e"), 2**70)]


@pytest.mark.parametrize("key", ["name", "settings[0].name", "grid.experiments[0].name"])
def test_a_name_that_no_file_can_have_is_refused(key: str) -> None:
    """Folders, jobs and pictures are named after it, and a file's name holds 255 bytes."""
    raw, name = raw_spec(), "n" * 151
    section, _, rest = key.partition("[")
    change: dict[str, Any] = {"name": name} if not rest else {section: [{"name": name}]}
    if key.startswith("grid"):
        change = {"grid": raw["grid"] | {"experiments": [{"name": name, "hypothesis": "left_boundary"}]}}
    with pytest.raises(SpecError) as caught:
        parse_spec(raw | change, source="s.yaml", folder=Path("/"))
    assert str(caught.value) == (
        f"s.yaml: key `{key}`: got {name!r}; expected at most 150 characters: files and jobs are named after it"
    )
