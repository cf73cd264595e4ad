"""How the readings of several jobs become one number a gauge."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from cluster.ray.metrics import Reading, combined, read_metrics

LAYER_1 = (("layer", "1"),)


def test_sums_maxima_and_what_is_running_now() -> None:
    """Done: 3 + 4. Best: the larger of 0.5 and 0.7. Pace: only of the job that runs."""
    readings = {
        "a": (Reading("done", 3, "sum"), Reading("best", 0.5, "max"), Reading("pace", 10, "now")),
        "b": (Reading("done", 4, "sum"), Reading("best", 0.7, "max"), Reading("pace", 20, "now")),
    }
    values = {series.name: value for series, value in combined(readings, running={"b"}).items()}
    assert values == {"done": 7, "best": 0.7, "pace": 20}


def test_tags_keep_numbers_apart() -> None:
    """The same name with other tags is another number; a series that nobody runs any more is 0, not gone."""
    readings = {"a": (Reading("pace", 1, "now", LAYER_1), Reading("pace", 2, "now"))}
    assert combined(readings, running={"a"}) == {
        Reading("pace", 0.0, "now", LAYER_1): 1,
        Reading("pace", 0.0, "now"): 2,
    }
    assert set(combined(readings, running=set()).values()) == {0}


def test_a_metrics_file_is_read(tmp_path: Path) -> None:
    """A list of readings becomes readings with sorted tags; no file is None."""
    path = tmp_path / "m.json"
    assert read_metrics(path) is None
    path.write_text('[{"name": "done", "value": 3, "combine": "sum", "tags": {"layer": 1, "hypothesis": "h"}}]')
    assert read_metrics(path) == (Reading("done", 3.0, "sum", (("hypothesis", "h"), ("layer", "1"))),)


@pytest.mark.parametrize("text", ["", "3", "[3]", "[{}]", '[{"name": "a", "value": 1, "combine": "mean"}]'])
def test_a_file_that_is_none_is_named_and_left_out(text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a job writes there, the dispatcher continues and says which file was wrong."""
    path = tmp_path / "m.json"
    path.write_text(text)
    with caplog.at_level(logging.WARNING):
        assert read_metrics(path) is None
    assert str(path) in caplog.text
