"""What the page is told of how cells learned."""

from __future__ import annotations

import json
from typing import Any

from orchestrator.report.page import page_content, render
from orchestrator.report.traces import TracePayload, Traces
from tests.fake_store import fake_grid, fake_rows

TRACE: dict[str, Any] = {
    "loss_step": [10, 20],
    "loss": [0.693147, 0.25],
    "iia_step": [20],
    "iia_n_correct": [180],
    "iia_n_total": 200,
    "base": ["a </script>", "b"],
    "source": ["c", "d"],
    "variable": ["P", "P"],
    "label": ["Yes", "No"],
    "before": ["No", "No"],
    "after": ["Yes", "Yes"],
}


def test_what_cells_share_is_there_once() -> None:
    """Two cells of one cohort have the same steps and pairs; a text is there once."""
    payload = TracePayload(Traces(cells={"x": TRACE, "y": TRACE | {"after": ["No", "No"]}}, aligned={"y"}))
    assert [payload.number_of(key) for key in ("x", "y", "x", "z")] == [0, 1, 0, None]
    found = payload.document()
    assert found["steps"] == [[10, 20], [20]]
    assert len(found["pairs"]) == 1
    assert sorted(found["texts"]) == sorted({"a </script>", "b", "c", "d", "P", "Yes", "No"})
    is_aligned, loss_step, loss, iia_step, n_correct, n_total, pairs, before, after = found["cells"][1]
    assert (is_aligned, loss_step, loss, iia_step, n_correct, n_total, pairs) == (
        1,
        0,
        [0.6931, 0.25],
        1,
        [180],
        200,
        0,
    )
    assert [found["texts"][text] for text in (*before, *after)] == ["No"] * 4


def test_a_cell_without_a_trace_may_have_an_alignment() -> None:
    """A sweep of an earlier version has no traces: what loads its alignments is told all the same."""
    payload = TracePayload(Traces(aligned={"x"}))
    assert payload.number_of("x") == 0
    assert payload.document()["cells"] == [[1, None, [], None, [], 0, None, [], []]]


def test_the_page_has_the_traces_of_its_cells() -> None:
    """Each record names its entry, and what users wrote cannot end the script element."""
    grid = fake_grid(experiments=["left_boundary"], layers=[0], positions=[69, 70], seeds=[1])
    keys = grid["cell_key"].tolist()
    text = render(page_content(fake_rows(grid), grid, title="t", traces=Traces(cells={keys[1]: TRACE})))
    data, traces = (
        json.loads(text.split(f'<script id="{name}" type="application/json">')[1].split("</script>")[0])
        for name in ("data", "traces")
    )
    at = data["record"].index("trace")
    assert [record[at] for place in data["maps"][0]["cells"][0] for record in place] == [None, 0]
    assert "a </script>" in traces["texts"]
