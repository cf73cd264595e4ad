"""The `slurm:` block: what is passed on, what is refused and how."""

from __future__ import annotations

from typing import Any

import pytest

from cluster.backend import ClusterUsageError
from cluster.slurm import options as module
from cluster.slurm.options import RESERVED, parse_options


@pytest.fixture(autouse=True)
def sbatch_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    """An sbatch with a few options, so that no SLURM is needed."""
    known = frozenset({"partition", "account", "constraint", "mem", "exclusive", "nice", *RESERVED})
    monkeypatch.setattr(module, "known_options", lambda: known)


def test_options_of_sbatch_are_passed_through() -> None:
    """By their long names, with - or _; true is a bare flag, false and none are left out."""
    options = parse_options({"partition": "a100", "mem": "32G", "nice": 5, "exclusive": True, "constraint": None})
    assert options.sbatch == {"partition": "a100", "mem": "32G", "nice": "5", "exclusive": True}


@pytest.mark.parametrize("key", [*RESERVED, "job_name", "ntasks_per_node"])
def test_reserved_options_are_refused_by_name(key: str) -> None:
    """The message names the key and says what to use instead."""
    with pytest.raises(ClusterUsageError, match=rf"slurm\.{key}: cannot be set: \S+"):
        parse_options({key: "1"})


def test_a_misspelt_option_is_named_with_the_right_one() -> None:
    """`partitoin` is not passed on to fail on the cluster."""
    with pytest.raises(ClusterUsageError, match=r"slurm\.partitoin: sbatch has no such option; did you mean partition"):
        parse_options({"partitoin": "a100"})


@pytest.mark.parametrize(
    ("raw", "n_gpus", "gres"),
    [
        ({}, 1, {"gres": "gpu:1"}),
        ({"gpus": 8}, 8, {"gres": "gpu:8"}),
        ({"gpus": "a100:8"}, 8, {"gres": "gpu:a100:8"}),
        ({"gpus": 0}, 1, {}),
    ],
)
def test_gpus_become_gres(raw: dict[str, Any], n_gpus: int, gres: dict[str, str]) -> None:
    """A number, a type and a number, or none at all."""
    assert parse_options(raw).gres(n_gpus) == gres


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gpus", "many"),
        ("gpus", -1),
        ("cpus", 0),
        ("cpus", True),
        ("time", "soon"),
        ("time", True),
        ("time", "UNLIMITED"),
        ("setup", "module load cuda"),
        ("array_parallelism", 0),
        ("max_submitted", "all"),
        ("warn_s", 1),
        ("followup", "cpu"),
        ("partition", ["a", "b"]),
        ("account", "me\n#SBATCH --hold"),
    ],
)
def test_a_wrong_value_is_named(key: str, value: Any) -> None:
    """The message names the key, the value and what is expected."""
    with pytest.raises(ClusterUsageError, match=rf"slurm\.{key}: .*it must be"):
        parse_options({key: value})


@pytest.mark.parametrize(
    ("raw", "time_s", "most_s", "minutes"),
    [
        ({}, 5400.0, float("inf"), 92),  # 90 min and the warning of 120 s
        ({"time": "2:00:00"}, 5400.0, float("inf"), 120),
        ({"time": 240}, 5400.0, float("inf"), 240),
        ({}, 5400.0, 3600.0, 60),  # no more than the partition allows
        ({"warn_s": 10}, 1.0, float("inf"), 1),
    ],
)
def test_the_time_limit(raw: dict[str, Any], time_s: float, most_s: float, minutes: int) -> None:
    """The planner's estimate and the warning, or what the user says, and never more than the partition allows."""
    assert parse_options(raw).time_minutes(time_s, most_s) == minutes
