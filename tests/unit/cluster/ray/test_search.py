"""The files of a search on Ray: what was asked is what its driver reads, and a trial is read as it was written."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.files import create_json, get_record, put_json
from cluster.ray.search import Range, Search, read_trials

SEARCH = Search(
    command=("python", "-m", "trial"),
    space={"rotation_lr": Range(low=1e-4, high=1, log=True), "k": (1, 2), "basis": ("pca", None)},
    metric="iia",
    n_trials=3,
    time_limit_s=60,
)


def test_a_search_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Ranges stay ranges, and choices keep their types."""
    assert create_json(tmp_path / "search.json", asdict(SEARCH))
    assert get_record(tmp_path / "search.json", Search) == SEARCH


def test_trials_are_read(tmp_path: Path) -> None:
    """The metric by rung: the last rung is the one that counts; a trial that was never measured has none."""
    one = {"name": "a", "settings": {"k": 1}, "state": "TERMINATED", "values": [[1, 0.5], [3, 0.75]], "error": ""}
    put_json(tmp_path / "trials.json", [one, one | {"name": "b", "values": []}])
    first, second = read_trials(tmp_path)
    assert (first.settings, first.rung, first.value) == ({"k": 1}, 3, 0.75)
    assert (second.rung, second.value) == (0, None)


@pytest.mark.parametrize("text", ["", "[", "{}", '[{"name": 3}]', '[{"name": "a", "state": "x", "values": 3}]'])
def test_damaged_trials_are_named_and_left_out(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever reads them sees no trial, and the log says which file was wrong."""
    (tmp_path / "trials.json").write_text(text)
    assert read_trials(tmp_path) == ()
    assert str(tmp_path / "trials.json") in caplog.text
