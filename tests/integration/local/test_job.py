"""A job as a real process on the demo's checkpoint: what it leaves behind, however it is stopped."""

from __future__ import annotations

import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.integration.local.jobs import (
    Row,
    make_cohort,
    progress_of,
    rows_of,
    run,
    start,
    wait_for_steps,
    write_job,
)
from workers.files.failure import EXIT_BAD_INPUT, EXIT_FINISHED, EXIT_INTERRUPTED, FailureClass
from workers.files.job import Setting
from workers.files.progress import ENV_DEADLINE, AttemptState

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SETTINGS = (Setting(name="frogs", task={"context": "Pricing tag game!"}, experiments=("left_boundary",)),)


def job_of_two_cohorts(folder: Path, model: Path) -> Path:
    """Five cells of two hypotheses, one of them evaluated on longer prompts too: 8 rows."""
    second = make_cohort(model, "left_and_right_boundary", ((1, 79), (3, 79)))
    return write_job(folder, model, [make_cohort(model), second], settings=SETTINGS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Path:
    """The job, run undisturbed."""
    job_file = job_of_two_cohorts(tmp_path_factory.mktemp("undisturbed"), demo_model)
    code, log = run(job_file)
    assert code == EXIT_FINISHED, log
    return job_file


@pytest.fixture(scope="module")
def expected(finished: Path) -> dict[tuple[str, str], Row]:
    """Its rows."""
    return rows_of(finished)


def test_every_cell_has_a_row_in_every_setting(finished: Path, expected: dict[tuple[str, str], Row]) -> None:
    """Five cells, three of them in a further setting; each measured on 96 pairs, its alignment saved, no checkpoint
    left."""
    assert len(expected) == 8
    assert {row["setting"] for row in expected.values()} == {"main", "frogs"}
    assert {(row["status"], row["n_total"], row["steps"]) for row in expected.values()} == {("done", 96, 20)}
    folder = finished.parents[1]
    assert {path.stem for path in folder.glob("alignments/*/*")} == {key for key, _ in expected}
    assert list((folder / "checkpoints").iterdir()) == []


def test_the_progress_file_says_how_it_went(finished: Path) -> None:
    """Five cells done, 20 steps each, and where the time went."""
    progress = progress_of(finished)
    assert progress is not None
    assert progress.state is AttemptState.FINISHED
    assert (progress.cells_total, progress.cells_done, progress.cells_failed) == (5, 5, 0)
    assert progress.steps_done == progress.steps_total == 100
    assert {"shared_forward", "tails", "rotation", "evaluation"} <= progress.shares.keys()
    assert sum(progress.shares.values()) == pytest.approx(1, abs=0.01)


def test_two_runs_give_identical_rows(tmp_path: Path, demo_model: Path, expected: dict[tuple[str, str], Row]) -> None:
    """Another process, another folder: every column but those of the run itself."""
    job_file = job_of_two_cohorts(tmp_path, demo_model)
    assert run(job_file)[0] == EXIT_FINISHED
    assert rows_of(job_file) == expected


def test_a_finished_job_does_nothing_again(finished: Path, tmp_path: Path) -> None:
    """Run again it neither needs the model nor writes a shard."""
    folder = shutil.copytree(finished.parents[1], tmp_path / "copy")
    job_file = folder / "jobs" / "j.json"
    text = job_file.read_text().replace(str(finished.parents[1]), str(folder))
    job_file.write_text(text.replace("demo-model", "model-that-is-gone"))
    code, log = run(job_file)
    assert code == EXIT_FINISHED, log
    assert [path.name for path in (folder / "shards").iterdir()] == ["j-0001.parquet"]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR2"])
def test_a_signal_ends_with_a_checkpoint_and_the_next_run_goes_on(
    tmp_path: Path, demo_model: Path, expected: dict[tuple[str, str], Row], name: str
) -> None:
    """In the middle of the training: exit code 75 and a checkpoint; then the same rows as without a break."""
    job_file = job_of_two_cohorts(tmp_path, demo_model)
    process = start(job_file)
    wait_for_steps(process, job_file, 9)
    process.send_signal(getattr(signal, name))
    log, _ = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, log
    progress = progress_of(job_file)
    assert progress is not None
    assert progress.state is AttemptState.INTERRUPTED
    assert progress.failure is not None
    assert progress.failure.kind is FailureClass.PREEMPTED
    assert name in progress.failure.message
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    code, log = run(job_file)
    assert code == EXIT_FINISHED, log
    assert rows_of(job_file) == expected
    assert list((tmp_path / "checkpoints").iterdir()) == []


def test_a_signal_before_anything_is_loaded_is_an_interruption(tmp_path: Path, demo_model: Path) -> None:
    """While torch is imported: exit code 75, class preempted, nothing trained; not a death without a word."""
    job_file = job_of_two_cohorts(tmp_path, demo_model)
    process = start(job_file)
    handled = 1 << (signal.SIGUSR2 - 1)
    while not handled & int(_proc_status(process.pid, "SigCgt"), 16):
        time.sleep(0.001)
    process.send_signal(signal.SIGUSR2)
    log, _ = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, log
    progress = progress_of(job_file)
    assert progress is not None
    assert progress.failure is not None
    assert (progress.failure.kind, progress.steps_done) == (FailureClass.PREEMPTED, 0)


def _proc_status(pid: int, field: str) -> str:
    """A line of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def test_kills_at_random_moments_change_no_row(
    tmp_path: Path, demo_model: Path, finished: Path, expected: dict[tuple[str, str], Row]
) -> None:
    """SIGKILL at three moments drawn over the time that the job takes; then it ends with the same rows."""
    undisturbed = progress_of(finished)
    assert undisturbed is not None
    job_file = job_of_two_cohorts(tmp_path, demo_model)
    rng, n_killed = random.Random(11), 0
    for attempt in range(1, 4):
        process = start(job_file)
        while progress_of(job_file, attempt) is None and process.poll() is None:
            time.sleep(0.01)
        time.sleep(rng.uniform(0, undisturbed.ended - undisturbed.started))
        n_killed += process.poll() is None
        process.kill()
        process.communicate()
    assert n_killed
    code, log = run(job_file)
    assert code == EXIT_FINISHED, log
    assert rows_of(job_file) == expected


def test_a_torn_shard_is_computed_again(
    tmp_path: Path, demo_model: Path, finished: Path, expected: dict[tuple[str, str], Row]
) -> None:
    """Half of the shard's bytes are gone: its cells are not done, and the next attempt brings them."""
    folder = shutil.copytree(finished.parents[1], tmp_path / "copy")
    job_file = folder / "jobs" / "j.json"
    job_file.write_text(job_file.read_text().replace(str(finished.parents[1]), str(folder)))
    torn = folder / "shards" / "j-0001.parquet"
    torn.write_bytes(torn.read_bytes()[: torn.stat().st_size // 2])
    assert run(job_file)[0] == EXIT_FINISHED
    torn.unlink()
    assert rows_of(job_file) == expected


def test_no_cohort_is_begun_near_the_deadline(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """30 seconds before the scheduler's limit: exit code 75, class timeout, nothing trained."""
    job_file = job_of_two_cohorts(tmp_path, demo_model)
    monkeypatch.setenv(ENV_DEADLINE, str(time.time() + 30))
    code, log = run(job_file)
    assert code == EXIT_INTERRUPTED, log
    progress = progress_of(job_file)
    assert progress is not None
    assert progress.failure is not None
    assert (progress.failure.kind, progress.steps_done) == (FailureClass.TIMEOUT, 0)
    assert rows_of(job_file) == {}


def test_a_cohort_that_would_not_be_done_in_time_is_not_begun(
    tmp_path: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an hour is left, the second cohort needs days at the pace of the first: it is left to the next run."""
    endless = make_cohort(demo_model, "bracket_identity", ((3, 81),), epochs=1_000_000)
    job_file = write_job(tmp_path, demo_model, [make_cohort(demo_model), endless])
    monkeypatch.setenv(ENV_DEADLINE, str(time.time() + 1800))
    code, log = run(job_file)
    assert code == EXIT_INTERRUPTED, log
    assert {row["experiment"] for row in rows_of(job_file).values()} == {"left_boundary"}
    progress = progress_of(job_file)
    assert progress is not None
    assert progress.failure is not None
    assert progress.failure.kind is FailureClass.TIMEOUT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No such file or directory"),
        ("{", "j.json: not a job file: EOF while parsing an object"),
        ('{"schema": 9}', "format version 9"),
        ('{"schema": 1}', "not a job file: key `job`: Field required"),
    ],
)
def test_a_bad_job_file_is_bad_input(tmp_path: Path, text: str | None, message: str) -> None:
    """Exit code 65 and one line that names the file."""
    path = tmp_path / "j.json"
    if text is not None:
        path.write_text(text)
    code, log = run(path)
    assert code == EXIT_BAD_INPUT
    assert str(path) in log
    assert message in log
    assert "Traceback" not in log


def test_a_missing_checkpoint_is_bad_input(tmp_path: Path, demo_model: Path) -> None:
    """Exit code 65; the progress file names what is missing."""
    job_file = write_job(tmp_path, tmp_path / "gone", [make_cohort(demo_model)])
    code, log = run(job_file)
    assert code == EXIT_BAD_INPUT, log
    progress = progress_of(job_file)
    assert progress is not None
    assert progress.failure is not None
    assert progress.failure.kind is FailureClass.BAD_INPUT
    assert f"{tmp_path / 'gone'}: no such folder" in progress.failure.message
