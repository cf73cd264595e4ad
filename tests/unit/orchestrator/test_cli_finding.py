"""What the command line has to offer: the groups of --help, list, methods, and the machines of a plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import cli
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of
from workers.methods.settings import METHODS

Said = Callable[..., str]


@pytest.fixture
def said(beside_spec: None, run: Run, capsys: pytest.CaptureFixture[str]) -> Said:
    """Runs `causalsweep` beside the small sweep's spec file and gives what it printed; it must end with `code`."""

    def called(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        ended = run(*arguments)
        caught = capsys.readouterr()
        assert ended == code, caught.err
        return caught.out + caught.err

    return called


def test_help_groups_the_commands_and_cuts_no_description(said: Said) -> None:
    """Each command is in one group, with its whole first paragraph."""
    text = said("--help")
    for title in cli.GROUPS:
        assert f"\n{title}:\n" in text
    words = " ".join(text.split())
    for functions in cli.GROUPS.values():
        for function in functions:
            about = " ".join(str(function.__doc__).split("\n\n")[0].split())
            assert f"{cli._name(function)} {about}" in words
    assert "..." not in text.replace("[ARGS]...", "")


def test_list_says_what_each_sweep_is(said: Said, load: LoadSweep, world: World) -> None:
    """A sweep that is done, one that waits, and one that cannot be read."""
    assert "no sweeps in" in said("list")
    load().submit()
    for job in jobs_of(load()):
        finish(world, job)
    load(name="other").submit()
    (Path("sweeps") / "torn").mkdir()
    (Path("sweeps") / "torn" / "sweep.yaml").write_text("name: [")
    found = {line["name"]: line for line in json.loads(said("list", "--json"))}
    states = {name: (line["state"], line["n_done"], line["n_cells"]) for name, line in found.items()}
    assert states == {"small": ("done", 8, 8), "other": ("waiting", 0, 8), "torn": ("unreadable", 0, 0)}
    lines = [line.split()[:3] for line in said("list").splitlines() if line.startswith(("small", "other"))]
    assert sorted(lines) == [["other", "waiting", "0/8"], ["small", "done", "8/8"]]


def test_methods_are_listed_with_settings_and_defaults(said: Said) -> None:
    """Each method has its line, and each setting its default."""
    text = said("methods")
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == list(METHODS)
    words = " ".join(text.split())
    for settings in METHODS.values():
        for key, field in settings.model_fields.items():
            assert f"{key}: {field.default}" in words


def test_a_method_is_described_in_full(said: Said) -> None:
    """The whole docstring of its file, its source among it; a wrong name ends with what is meant."""
    text = said("methods", "boundless_das")
    assert "Source: Wu, Geiger" in text
    assert "in a spec: method: {name: boundless_das, epochs: 3" in text
    assert "did you mean `das`?" in said("methods", "dass", code=2)


def test_plan_is_made_for_where_run_goes(said: Said, load: LoadSweep) -> None:
    """Without --on it is this machine's, and the spec's cluster's beside it; with --on that backend's alone."""
    load(cluster={"nodes": 2, "gpus_per_node": 8, "gpu": "a100"})
    text = said("plan", "small.yaml")
    assert "8 cells to run on 2 x cpu (this machine: run without --on)" in text
    assert "8 cells to run on 16 x a100 (the spec's cluster: run with --on slurm or --on ray)" in text
    assert text.count("8 cells, 0 done") == 1
    document: dict[str, Any] = json.loads(said("plan", "small.yaml", "--json"))
    assert document["machines"] == {"n_gpus": 2, "kind": "cpu"}
    assert document["cluster"]["machines"] == {"n_gpus": 16, "kind": "a100"}
    assert "a100" not in said("plan", "small.yaml", "--on", "local")


def test_a_sweep_that_this_machine_cannot_run_is_planned_for_its_cluster(said: Said, load: LoadSweep) -> None:
    """Four GPUs a job are more than there are here, and fit the cluster."""
    load(jobs={"gpus": 4}, cluster={"nodes": 2, "gpus_per_node": 8, "gpu": "a100"})
    text = said("plan", "small.yaml")
    assert "8 cells to run on 16 x a100" in text
    assert "this machine" not in text
