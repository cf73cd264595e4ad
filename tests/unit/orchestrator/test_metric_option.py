"""`--metric`: another number than the IIA in tables, maps and the page."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.report import frames, write_report
from orchestrator.store.metrics import Metric
from tests.fake_store import fake_grid, row
from tests.unit.orchestrator.conftest import LoadSweep, Run
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, write_shard


def a_store() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Six cells of one map, with sums over 100 pairs, and their grid."""
    grid = fake_grid(experiments=["left_boundary"], layers=[0, 1], positions=[7, 8, 9], seeds=[1])
    rows = [
        row(cell, n_total=100, n_correct=60, n_flips=40, sum_kl=10.0 * index, sum_kl_sq=4.0 * index**2, sum_kl_none=0.0)
        for index, cell in enumerate(grid.to_dict("records"))
    ]
    return pd.DataFrame(rows), grid


def test_rows_get_the_metric_behind_them() -> None:
    """The mean, the ends of its interval, the controls; nothing of a probe, and every column that was there stays."""
    rows, _ = a_store()
    rows.loc[5, "metric"] = "decoding"
    found = frames.with_metric(rows, Metric.KL)
    assert found.columns[: len(rows.columns)].tolist() == rows.columns.tolist()
    assert found.columns[len(rows.columns) :].tolist() == ["kl", "kl_low", "kl_high", "kl_none", "kl_full", "kl_random"]
    assert found["kl"].tolist()[:5] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4])
    assert (found["kl_low"][1:5] < found["kl"][1:5]).all()
    assert pd.isna(found["kl"][5])


def test_the_page_is_of_the_metric(tmp_path: Path) -> None:
    """Headings, pictures and the numbers that the script draws."""
    rows, grid = a_store()
    page = write_report(rows, grid, tmp_path, title="t", metric=Metric.KL)
    text = page.read_text(encoding="utf-8")
    assert "Highest kL" not in text
    assert "Highest KL divergence" in text
    (data,) = [part.split("</script>")[0] for part in text.split('id="data"')[1:]]
    payload = json.loads(data.partition(">")[2])
    (drawn,) = payload["maps"]
    assert drawn["values"]["raw"]["maximum"] == [[0.0, 0.1, 0.2], [0.3, 0.4, 0.5]]
    assert payload["scales"]["kl"]["raw"] == {"unit": "KL divergence", "range": [0.0, 0.5], "has_values": True}
    assert sorted(path.stem for path in (tmp_path / "figures").glob("*.png"))[0].startswith("kl_")


def test_readings_alone_have_none_of_it(
    load: LoadSweep, world: World, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sweep of probes has no KL divergence: the table says that there are no rows."""
    sweep = load(method={"name": "sparse_probe", "k": 65})
    sweep.submit()
    assert run("summary", str(sweep.folder.root), "--metric", "kl") == 0
    assert capsys.readouterr().out == "no rows\n"


def test_the_command_takes_it(load: LoadSweep, world: World, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """In results, summary and report; a name that is none is refused with those that are."""
    sweep = load()
    sweep.submit()
    for job in jobs_of(sweep):
        finish(world, job)
        write_shard(job, metric="iia", sum_kl=50.0, sum_kl_sq=40.0, sum_kl_random=12.5)
    folder = str(sweep.folder.root)
    capsys.readouterr()
    assert run("results", folder, "--metric", "flips", "--json") == 0
    assert {"flips", "flips_low", "n_flips"} <= json.loads(capsys.readouterr().out)[0].keys()
    assert run("results", folder, "--metric", "kl", "--wide") == 0
    shown = capsys.readouterr().out
    assert "kl_random" in shown
    assert "0.1250" in shown
    assert run("summary", folder, "--metric", "log_odds") == 0
    assert "max log_odds" in capsys.readouterr().out
    assert run("report", folder, "--metric", "accuracy") == 2
    assert "label_logprob" in capsys.readouterr().err
