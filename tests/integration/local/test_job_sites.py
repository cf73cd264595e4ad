"""A job whose cells intervene at several sites of a block: rows, saved alignments, a resumed run, what is skipped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from tests.integration.local.jobs import make_cohort, progress_of, rows_of, run, start, wait_for_steps, write_job
from workers.files.failure import EXIT_BAD_INPUT, EXIT_FINISHED
from workers.files.job import Cell, Cohort, JobCell, Setting
from workers.files.place import AnyPlace, Place, PlaceSet
from workers.job.saved import alignment_path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLACES = (
    Place(layer=1, position=80),
    Place(layer=1, position=80, site="head_output", unit=1),
    Place(layer=2, position=80, site="head_output", unit=0),
    Place(layer=0, position=80, site="key", unit=0),
    Place(layer=2, position=81, site="mlp_neurons"),
    Place(layer=2, position=81, site="block_mid"),
)
HEADS = tuple(Place(layer=1, position=80, site="head_output", unit=unit) for unit in (0, 3))
ONE_OF_ALL = PlaceSet(name="heads", points=HEADS)
ONE_OF_EACH = PlaceSet(name="over", points=(Place(layer=0, position=80), Place(layer=2, position=81)), subspace="each")


def cohort_at(model: Path, places: Sequence[AnyPlace], **method: Any) -> Cohort:
    """Cells at these places; 4 steps of 64 pairs where they train."""
    cohort = make_cohort(model, n_train=256, n_test=32, **method)
    cells = tuple(
        JobCell(key=Cell(stream=cohort.stream, place=place).key(), place=place, token="x") for place in places
    )
    return replace(cohort, cells=cells)


def by_place(job_file: Path, setting: str = "main") -> dict[tuple[str, int | None, int], Any]:
    return {
        (row["site"], row["unit"], row["layer"]): row for (_, name), row in rows_of(job_file).items() if name == setting
    }


def test_cells_of_several_sites_are_trained_saved_and_evaluated_again(tmp_path: Path, demo_model: Path) -> None:
    """Each has its row, site and unit in it, and its alignment of its own width. A setting that is added later is
    evaluated on what was saved; evaluated on the same prompts, the counts are the same."""
    cohort = cohort_at(demo_model, PLACES)
    code, log = run(write_job(tmp_path / "s", demo_model, [cohort]))
    assert code == EXIT_FINISHED, log
    rows = by_place(tmp_path / "s" / "jobs" / "j.json")
    assert set(rows) == {(place.site, place.unit, place.layer) for place in PLACES}
    assert {row["status"] for row in rows.values()} == {"done"}
    widths = {}
    for cell in cohort.cells:
        with safe_open(alignment_path(tmp_path / "s" / "alignments", cell.key), framework="pt") as file:
            notes = file.metadata()
            assert notes["width"] == str(file.get_slice("directions").get_shape()[0])
        widths[notes["site"], notes["unit"]] = int(notes["width"])
    assert widths["head_output", "1"] < widths["block_output", ""] < widths["mlp_neurons", ""]
    again = write_job(tmp_path / "s", demo_model, [cohort], settings=(Setting(name="again"),))
    code, log = run(again)
    assert code == EXIT_FINISHED, log
    for place, row in by_place(again, "again").items():
        assert (row["n_correct"], row["steps"]) == (rows[place]["n_correct"], rows[place]["steps"]), place


def test_a_job_that_is_killed_at_sites_resumes_with_the_same_rows(tmp_path: Path, demo_model: Path) -> None:
    """SIGKILL in the middle of the training of cells at six sites and of two at sets of places, whose checkpoint the
    next attempt resumes: every row is that of the undisturbed run, to the last bit."""
    places = (*PLACES, ONE_OF_ALL, ONE_OF_EACH)
    cohort = cohort_at(demo_model, places, epochs=6)
    undisturbed = write_job(tmp_path / "a", demo_model, [cohort])
    code, log = run(undisturbed)
    assert code == EXIT_FINISHED, log
    killed = write_job(tmp_path / "b", demo_model, [cohort])
    process = start(killed)
    wait_for_steps(process, killed, 6 * len(places))  # there are 24 a cell
    process.kill()
    process.communicate()
    assert list((tmp_path / "b" / "checkpoints").iterdir())
    code, log = run(killed)
    assert code == EXIT_FINISHED, log
    found = rows_of(killed)
    assert len(found) == len(places)
    assert {row["status"] for row in found.values()} == {"done"}
    assert found == rows_of(undisturbed)


def test_a_k_wider_than_a_head_skips_the_heads_alone(tmp_path: Path, demo_model: Path) -> None:
    """DAS of more dimensions than a head has: the cells of heads are skipped with the reason, the others are run."""
    job_file = write_job(tmp_path / "s", demo_model, [cohort_at(demo_model, PLACES[:3], name="das", k=40)])
    code, log = run(job_file)
    assert code == EXIT_FINISHED, log
    status = {place[0]: (row["status"], row["reason"]) for place, row in by_place(job_file).items()}
    assert status["block_output"][0] == "done"
    assert status["head_output"][0] == "skipped"
    assert "dimensions do not fit into a vector of" in status["head_output"][1]


def test_a_head_that_the_model_lacks_ends_the_job_as_bad_input(tmp_path: Path, demo_model: Path) -> None:
    """The message names site, layer and unit, and what is expected."""
    place = Place(layer=1, position=80, site="head_output", unit=99)
    job_file = write_job(tmp_path / "s", demo_model, [cohort_at(demo_model, [place])])
    code, log = run(job_file)
    assert code == EXIT_BAD_INPUT, log
    progress = progress_of(job_file)
    assert progress is not None
    assert progress.failure is not None
    assert "site `head_output` at layer 1: unit 99 of" in progress.failure.message
