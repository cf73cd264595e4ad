"""The spec's text: what it may say, and how a mistake is named."""

from __future__ import annotations

import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from orchestrator.errors import SpecError
from orchestrator.spec.schema import RunSection, load_spec, parse_spec
from orchestrator.spec.text import apply_overrides, parse_yaml, to_yaml
from tests.unit.orchestrator.specs import raw_spec, spec_of
from workers.files.job import RunOptions

EXAMPLES = sorted((Path(__file__).parents[4] / "examples").glob("*.yaml"))


def problem(raw: dict[str, Any]) -> str:
    """What is said of a bad spec."""
    with pytest.raises(SpecError) as caught:
        parse_spec(raw, source="s.yaml", folder=Path("/"))
    return str(caught.value)


def test_papers_values_are_the_defaults() -> None:
    """A spec that names model, task and grid alone means the paper's data, gate and job length."""
    spec = spec_of(raw_spec(), Path("/"))
    assert (spec.data.n_train, spec.data.n_eval, spec.data.n_test) == (20_000, 200, 1_000)
    assert (spec.jobs.target_h, spec.engine, spec.methods()[0][1].name) == (1.5, "suffix", "boundless_das")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dta": {}}, "s.yaml: key `dta`: unknown; did you mean `data`?"),
        ({"data": {"n_trian": 5}}, "s.yaml: key `data.n_trian`: unknown; did you mean `n_train`?"),
        ({"data": {"n_train": 0}}, "s.yaml: key `data.n_train`: got 0; expected 1 or more"),
        ({"data": {"n_train": "many"}}, "s.yaml: key `data.n_train`: got 'many'; expected a whole number"),
        ({"engine": "fast"}, "s.yaml: key `engine`: got 'fast'; expected one of 'suffix' or 'reference'"),
        ({"gate": {"task_accuracy": 2}}, "s.yaml: key `gate.task_accuracy`: got 2; expected 1.0 or less"),
        ({"name": "../up"}, "s.yaml: key `name`: got '../up'; expected letters, digits"),
        ({"data": 5}, "s.yaml: key `data`: got 5; expected a mapping"),
        ({"settings": [{"name": "main"}]}, "s.yaml: key `settings[0].name`: 'main' is taken"),
        (
            {"settings": [{"name": "other", "experiments": ["right"]}]},
            "s.yaml: key `settings[0].experiments`: no experiment 'right'; expected one of left_boundary",
        ),
    ],
)
def test_bad_value_is_named(change: dict[str, Any], message: str) -> None:
    """A mistake reads: file, key, value, what is expected."""
    assert problem(raw_spec(**change)).startswith(message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layers": [True]}, "key `grid.layers[0]`: got True; expected an index, a range such as 69..81"),
        ({"seeds": ["x"]}, "key `grid.seeds[0]`: got 'x'; expected a whole number"),
        ({"experiments": []}, "key `grid.experiments`: got []; expected at least one"),
        ({"experiments": ["a", "a"]}, "key `grid.experiments`: 'a' is there twice"),
        (
            {"experiments": [{"name": "a", "baseline": "b"}]},
            "key `grid.experiments[0].baseline`: no experiment 'b'; expected one of a",
        ),
        ({"exclude": [{"layr": 3}]}, "key `grid.exclude[0]`: unknown key `layr`; did you mean `layer`?"),
        ({"exclude": [{"layer": 1.5}]}, "key `grid.exclude[0]`: `layer` is 1.5; expected a whole number or a range"),
        (
            {"experiments": [{"name": "a", "hypothess": "b"}]},
            "key `grid.experiments[0].hypothess`: unknown; did you mean",
        ),
    ],
)
def test_bad_axis_is_named(change: dict[str, Any], message: str) -> None:
    """A mistake in the grid is named down to the entry of the list."""
    raw = raw_spec()
    assert message in problem(raw | {"grid": raw["grid"] | change})


def test_every_problem_is_said_at_once() -> None:
    """Two mistakes give two lines, so that a user mends both before the next try."""
    assert len(problem(raw_spec(dta={}, engine="fast")).splitlines()) == 2


def test_missing_section_says_what_to_write() -> None:
    """A spec without a grid is told what a grid has."""
    raw = raw_spec()
    del raw["grid"]
    assert problem(raw) == "s.yaml: key `grid`: missing; give the axes `experiments`, `layers`, `positions` and `seeds`"


def test_yaml_reads_no_as_text_and_1e_3_as_number() -> None:
    """YAML 1.2 scalars: an answer `No` stays text, and a learning rate `1e-3` is a number."""
    assert parse_yaml("{answers_as: [Yes, No], lr: 1e-3, n: 012}", "s.yaml") == {
        "answers_as": ["Yes", "No"],
        "lr": 0.001,
        "n": 12,
    }


def test_key_written_twice_is_refused() -> None:
    """The second of two equal keys would silently win; the line is named instead."""
    with pytest.raises(SpecError, match=r"s\.yaml:2: .*`a` is there twice"):
        parse_yaml("a: 1\na: 2\n", "s.yaml")


def test_broken_yaml_names_the_line(tmp_path: Path) -> None:
    """A syntax error is a message with a line, never a traceback."""
    path = tmp_path / "s.yaml"
    path.write_text("name: x\ngrid: [1,\n")
    with pytest.raises(SpecError, match=r"s\.yaml:\d+: not readable as YAML"):
        load_spec(path)


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A path that is not there is named."""
    with pytest.raises(SpecError, match="no such file"):
        load_spec(tmp_path / "nothing.yaml")


def test_overrides_reach_into_sections() -> None:
    """`--set a.b=1` sets one key and leaves the file's values as they were."""
    raw = raw_spec()
    changed = apply_overrides(raw, ["data.n_train=100", "grid.layers=0..1", "name=other"])
    assert (changed["data"]["n_train"], changed["grid"]["layers"], changed["name"]) == (100, "0..1", "other")
    assert "data" not in raw
    assert raw["grid"]["layers"] == [0, 1]


@pytest.mark.parametrize("override", ["data.n_train", "=1", "a..b=1"])
def test_bad_override_is_named(override: str) -> None:
    """An override without a key or a value says how one looks."""
    with pytest.raises(SpecError, match="expected KEY=VALUE"):
        apply_overrides({}, [override])


def test_resolved_spec_reads_back() -> None:
    """The text written into a sweep's folder means the same spec, from any folder."""
    raw = raw_spec(
        method={"name": "boundless_das", "rotation_lr": 1e-5}, task={"name": "price_tagging", "say": ["1e-3", "No"]}
    )
    spec = spec_of(raw, Path("/models"))
    again = parse_spec(parse_yaml(spec.to_yaml(), "s"), source="s", folder=Path("/elsewhere"))
    assert again.model_dump() == spec.model_dump()
    assert again.model.path == "/models/demo-model"


def test_run_section_has_the_workers_options() -> None:
    """What a spec may say under `run` is what a job file holds, with the same defaults."""
    assert set(RunSection.model_fields) == {field.name for field in fields(RunOptions)}
    assert RunSection().options() == RunOptions()


def test_method_beside_grid_methods_is_refused() -> None:
    """Two places for the methods would leave open which counts."""
    raw = raw_spec(method="boundless_das")
    assert "give one of the two" in problem(raw | {"grid": raw["grid"] | {"methods": ["boundless_das"]}})


def test_errors_pickle() -> None:
    """A spec's error crosses processes with its message."""
    error = SpecError("s.yaml: key `a`: got 1; expected 2")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_to_yaml_quotes_what_would_be_read_as_a_number() -> None:
    """Text that looks like a YAML 1.2 number comes back as text."""
    assert parse_yaml(to_yaml({"a": "1e-3", "b": "true", "c": "No"}), "s") == {"a": "1e-3", "b": "true", "c": "No"}


# What the version before wrote of values that YAML 1.1, YAML 1.2 and their readers take differently.
EARLIER = """\
octal: 0o17
hexadecimal: '0x1F'
underscore: '1_000'
date: '2024-01-01'
letter: n
answers: [Yes, 'No']
on: 'on'
lr: 1.0e-05
n: 1000
text: 'two

  lines'
nothing: null
"""
MEANT = {
    "octal": "0o17",
    "hexadecimal": "0x1F",
    "underscore": "1_000",
    "date": "2024-01-01",
    "letter": "n",
    "answers": ["Yes", "No"],
    "on": "on",
    "lr": 1e-05,
    "n": 1000,
    "text": "two\nlines",
    "nothing": None,
}


def test_what_earlier_versions_wrote_means_the_same() -> None:
    """A sweep's own spec, written before, is read as it was meant, and written again it still is."""
    assert parse_yaml(EARLIER, "s") == MEANT
    assert parse_yaml(to_yaml(MEANT), "s") == MEANT


@pytest.mark.parametrize("word", ["2024-01-01", "1_000", "0x1F", "0o17", "0b11", "12:30:45", "yes", "Off", "=", "y"])
def test_what_yaml_readers_disagree_on_is_text(word: str) -> None:
    """A date, a number in another notation, a word that YAML 1.1 takes for a truth value."""
    assert parse_yaml(f"a: {word}", "s") == {"a": word}
    assert parse_yaml(to_yaml({"a": word}), "s") == {"a": word}


@pytest.mark.parametrize(
    ("word", "value"), [("1e3", 1000.0), ("012", 12), ("-.5", -0.5), ("1.", 1.0), ("True", True), ("~", None)]
)
def test_a_word_of_the_core_schema_is_a_value(word: str, value: Any) -> None:
    """Numbers, truth values and nothing, also under a directive for YAML 1.1."""
    assert parse_yaml(f"a: {word}", "s") == {"a": value}
    assert parse_yaml(f"%YAML 1.1\n---\na: {word}", "s") == {"a": value}


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[4] / "examples").glob("*.yaml")), ids=lambda path: path.name
)
def test_each_example_reads_back(path: Path) -> None:
    """What is written of an example's resolved spec means the example."""
    spec = load_spec(path)
    again = parse_spec(parse_yaml(spec.to_yaml(), "s"), source="s", folder=Path("/elsewhere"))
    assert again.model_dump() == spec.model_dump()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\n'a': 2", "s:2: not readable as YAML: key `a` is there twice; keep one"),
        ("a: {1: x, '1': y}", "s:1: not readable as YAML: key `1` is there twice; keep one"),
        ("[" * 3000, "s: not readable as YAML: too many brackets within brackets"),
        ("a: " + "9" * 5000, "s: not readable as YAML: Exceeds the limit"),
        ("%YAML 1.3\n---\na: 1", "s: not readable as YAML: version"),
        ("a: !!python/object:os.system x", "s:1: not readable as YAML: could not determine a constructor"),
    ],
)
def test_a_text_that_is_no_spec_is_one_line(text: str, said: str) -> None:
    """Never a traceback, and nothing of Python is made."""
    with pytest.raises(SpecError) as caught:
        parse_yaml(text, "s")
    assert str(caught.value).startswith(said)
