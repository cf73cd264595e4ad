"""The written report: one page that needs nothing else, safe against what texts contain, and its pictures."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from orchestrator.report import write_report
from orchestrator.report.page import page_content, render
from orchestrator.report.provenance import compute_text
from tests.fake_store import fake_grid, fake_rows

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=alert(1)> {{data}} &amp;"


def small() -> tuple[pd.DataFrame, pd.DataFrame]:
    """A grid of two experiments and its store."""
    grid = fake_grid(experiments=["left_boundary", "bracket_identity"], layers=[0, 1], positions=[79, 80], seeds=[1, 2])
    return fake_rows(grid), grid


def page_of(rows: pd.DataFrame, grid: pd.DataFrame, **options: object) -> str:
    """The text of the page, without pictures and plotly's script."""
    html = render(page_content(rows, grid, **{"title": "a sweep", **options}))
    start = html.index("<script>") + len("<script>")
    return html[:start] + html[html.index("</script>", start) :]


def data_of(html: str) -> dict[str, object]:
    """What the page's script reads."""
    return json.loads(re.search(r'<script id="data" type="application/json">(.*?)</script>', html, re.S)[1])


def test_the_report_is_one_page_and_its_pictures(tmp_path: Path) -> None:
    """The path of the page comes back, below 2 MB; every picture that it links to is there, and nothing temporary."""
    path = write_report(*small(), tmp_path / "report", title="a sweep")
    assert path == tmp_path / "report" / "index.html"
    assert path.stat().st_size < 2_000_000
    linked = re.findall(r'href="(figures/[^"]+)"', path.read_text(encoding="utf-8"))
    written = [f"figures/{file.name}" for file in (path.parent / "figures").iterdir()]
    assert sorted(linked) == sorted(written)
    assert "figures/iia_boundless_das_main_raw_maximum.png" in linked


def test_the_page_refers_to_nothing_outside() -> None:
    """Outside plotly's own script no address of the network occurs, and the page forbids itself any request."""
    html = page_of(*small())
    addresses = re.findall(r"(?:https?:|@import|url\(|src=)[^\s<]*", html)
    assert addresses == ['http://www.w3.org/2000/svg",']  # the name of SVG's namespace, which nothing fetches
    assert "default-src 'none'" in html


def test_every_slot_of_the_template_is_filled() -> None:
    """No slot is left, and a text that looks like one is left alone."""
    html = page_of(*small(), title="{{data}} and {{nothing}}")
    assert re.findall(r"\{\{\w+\}\}", html) == ["{{data}}", "{{nothing}}"] * 2


def test_texts_of_users_and_workers_are_only_texts() -> None:
    """Markup in a title, an experiment, a token, a reason or a host ends no script and opens no element."""
    rows, grid = small()
    grid = grid.assign(experiment=HOSTILE, token=HOSTILE, reason=HOSTILE, job=HOSTILE).drop_duplicates(
        ["layer", "position", "seed"]
    )
    grid["state"] = ["failed"] + ["done"] * (len(grid) - 1)
    rows = rows[rows["cell_key"].isin(grid["cell_key"].iloc[1:])].assign(
        host=HOSTILE, gpu_name=HOSTILE, versions=HOSTILE
    )
    html = page_of(rows, grid, title=HOSTILE)
    assert "<img" not in html
    assert html.count("<script") == 4
    assert data_of(html)["maps"][0]["experiment"] == HOSTILE


def test_absent_numbers_are_null_and_never_zero() -> None:
    """Cells without a measurement are null in the page's data, in each unit, and keep their state."""
    rows, grid = small()
    failed = grid["layer"] == 1
    item = data_of(page_of(rows[rows["layer"] == 0], grid.assign(state=failed.map({True: "failed", False: "done"}))))[
        "maps"
    ][0]
    for unit in ("raw", "normalised", "excess"):
        assert item["values"][unit]["maximum"][1] == [None, None]
        assert None not in item["values"][unit]["maximum"][0]
    assert item["state"]["maximum"] == [["done", "done"], ["failed", "failed"]]


def test_the_tables_can_be_read_without_a_script() -> None:
    """The summary's numbers, with their counts, are in the HTML itself, and so do the model and the versions."""
    rows, grid = small()
    html = page_of(rows, grid)
    best = rows[rows["experiment"] == "left_boundary"]["n_correct"].max()
    assert f"<b>0.{best}</b><small>{best} of 1,000<br>" in html
    for fact in ("examples/demo-model", "9f1c9f1c", "torch 2.13.0", "d20e66b", "GPU-hours"):
        assert fact in html


def test_probes_are_kept_apart_from_iia() -> None:
    """Decoding has a section of its own that says what it is not, and no line in the summary of IIA."""
    grid = fake_grid(experiments=["left_boundary"], layers=[0, 1], seeds=[1], methods=["boundless_das", "linear_probe"])
    html = page_of(fake_rows(grid, metrics={"linear_probe": "decoding"}), grid)
    iia, decoding = (
        html[html.index(f"id={mark}") :].partition("</section>")[0] for mark in ('"summary"', "'decoding'")
    )
    assert "linear probe" not in iia
    assert "linear probe" in decoding
    assert "This is not IIA" in decoding


def test_states_and_reasons_are_counted() -> None:
    """The page says how many cells are in which state, why, and in which jobs; and what it leaves out."""
    rows, grid = small()
    grid = grid.iloc[2:].assign(state="skipped", reason="gate: task accuracy 0.5", job="job-7")
    html = page_of(rows.iloc[:4], grid.reset_index(drop=True))
    assert '<th scope="row">skipped</th><td>12</td>' in html
    assert "<td>gate: task accuracy 0.5</td><td>job-7</td>" in html
    assert '<th scope="row">not planned</th><td>2</td>' in html


def test_a_report_can_be_made_before_anything_is_measured() -> None:
    """No rows, and even no cells, make a page that says so."""
    rows, grid = small()
    html = page_of(rows.iloc[:0], grid.assign(state="waiting"))
    assert '<th scope="row">waiting</th><td>16</td>' in html
    assert "The grid has no cells." in page_of(rows.iloc[:0], grid.iloc[:0])


def test_compute_counts_a_cell_once_however_many_settings() -> None:
    """Two settings of one attempt share its seconds, another job's do not; without GPUs they are no GPU-hours."""
    rows, _ = small()
    rows = pd.concat([rows.iloc[:1]] * 3).assign(gpu_seconds=[3600.0, 3600.0, 1800.0], job=["a", "a", "b"])
    assert compute_text(rows) == "1.50 GPU-hours"
    assert compute_text(rows.assign(gpu_name="cpu")) == "1.50 CPU worker-hours"
    assert compute_text(rows.assign(gpu_seconds=None)) == ""


def test_an_unwritable_folder_is_an_os_error(tmp_path: Path) -> None:
    """A file where the report's folder should be is told as such."""
    (tmp_path / "report").write_text("a file")
    with pytest.raises(OSError, match="report"):
        write_report(*small(), tmp_path / "report", title="a sweep")
