"""What squeue, sacct and scontrol print, and what becomes of it; texts as SLURM 22.05 prints them."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.backend import JobState
from cluster.slurm.parse import (
    STATES,
    Answer,
    Row,
    compressed,
    duration_s,
    job_ids,
    parse_config,
    parse_fields,
    parse_sacct,
    parse_squeue,
    state_of,
)
from cluster.slurm.queue import merged
from tests.unit.cluster.slurm.fake_slurm import SACCT_COLUMNS, SQUEUE_COLUMNS


@pytest.mark.parametrize(
    ("text", "jobs"),
    [
        ("12", ["12"]),
        ("12_3", ["12_3"]),
        ("12_[0-2]", ["12_0", "12_1", "12_2"]),
        ("12_[0-5%2]", [f"12_{i}" for i in range(6)]),
        ("12_[1,3-4]", ["12_1", "12_3", "12_4"]),
        ("12_[0-8:4]", ["12_0", "12_4", "12_8"]),
        ("4%1", ["4"]),
        ("12;east", ["12"]),
        ("12_3;east", ["12_3"]),
        ("12+0", ["12"]),
    ],
)
def test_an_id_stands_for_jobs(text: str, jobs: list[str]) -> None:
    """Array ranges, throttles, steps, cluster suffixes and heterogeneous jobs are understood."""
    assert job_ids(text) == jobs


@pytest.mark.parametrize("text", ["", "JOBID", "12_[0-3,...]", "12_[", "12_[a-b]", "slurm_load_jobs error", "12.batch"])
def test_what_is_no_id_stands_for_nothing(text: str) -> None:
    """Garbage, a range that was cut short, and a job's step are no jobs."""
    assert job_ids(text) == []


@given(st.sets(st.integers(0, 5000), min_size=1))
def test_compressed_ranges_mean_the_same_tasks(tasks: set[int]) -> None:
    """The short form in brackets expands to what went in."""
    assert job_ids(f"7_[{compressed(tasks)}]") == [f"7_{task}" for task in sorted(tasks)]


@pytest.mark.parametrize(
    ("word", "reason", "state"),
    [
        ("CANCELLED by 0", "", JobState.CANCELLED),
        ("CANCELLED+", "", JobState.CANCELLED),
        ("PENDING", "Priority", JobState.PENDING),
        ("PENDING", "JobHeldUser", JobState.HELD),
        ("RUNNING", "JobHeldAdmin", JobState.RUNNING),
        ("COMPLETING", "", JobState.RUNNING),
        ("CONFIGURING", "", JobState.RUNNING),
        ("BOOT_FAIL", "", JobState.NODE_FAIL),
        ("OUT_OF_MEMORY", "", JobState.OUT_OF_MEMORY),
        ("PREEMPTED", "", JobState.PREEMPTED),
        ("DEADLINE", "", JobState.TIMEOUT),
        ("FROBNICATED", "", JobState.UNKNOWN),
        ("", "", JobState.UNKNOWN),
    ],
)
def test_a_word_stands_for_a_state(word: str, reason: str, state: JobState) -> None:
    """Every word of SLURM's has its state; a new one is UNKNOWN, never FAILED."""
    assert state_of(word, reason) is state


def test_squeue_lines_become_rows() -> None:
    """Each task of a waiting array has a row; times and restarts are numbers."""
    answer = parse_squeue(
        f"Welcome to the cluster!\n{SQUEUE_COLUMNS}\n"
        "5_[1-2%2]|PENDING|Priority||0:00|0|N/A|1795231999|sweep|x|\n"
        "5_0|RUNNING|None|node1|1-02:03:04|2|1795231673|1795231000|sweep|\n"
    )
    assert answer is not None
    assert answer.is_whole
    rows = answer.rows
    assert rows.keys() == {"5_0", "5_1", "5_2"}
    pending = Row(job="5_2", state=JobState.PENDING, word="PENDING", reason="Priority", is_shared=True)
    assert rows["5_2"] == replace(pending, start=1795231999.0, name="sweep|x")
    assert rows["5_0"].elapsed_s == 86400 + 2 * 3600 + 3 * 60 + 4
    assert (rows["5_0"].restarts, rows["5_0"].node, rows["5_0"].reason) == (2, "node1", "")


def test_sacct_lines_become_rows() -> None:
    """A cancelled, a failed and a waiting job; a line of another shape is left out."""
    answer = parse_sacct(
        f"{SACCT_COLUMNS}\n"
        "5_0|CANCELLED by 0|0:0|node1|17|1795228074|sweep\n"
        "5_1|FAILED|3:0|node2|5|1795228080|sweep\n"
        "5_[2-3%1]|PENDING|0:0|None assigned|0|Unknown|sweep\n"
        "sacct: error: something\n"
    )
    assert answer is not None
    assert not answer.is_whole
    rows = answer.rows
    assert [(row.state, row.exit_code, row.node) for row in rows.values()] == [
        (JobState.CANCELLED, "0:0", "node1"),
        (JobState.FAILED, "3:0", "node2"),
        (JobState.PENDING, "0:0", ""),
        (JobState.PENDING, "0:0", ""),
    ]
    assert rows["5_1"].end == 1795228080.0


@given(st.text())
def test_garbage_never_raises(text: str) -> None:
    """Whatever a command prints, reading it says at worst nothing."""
    parse_squeue(text)
    parse_sacct(text)
    parse_fields(text)
    parse_config(text)
    job_ids(text)
    duration_s(text)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 5400.0),
        ("1:30", 90.0),
        ("1:30:00", 5400.0),
        ("2-12", 60 * 3600.0),
        ("1-00:00:10", 86410.0),
        ("UNLIMITED", math.inf),
        ("N/A", 0.0),
        ("", 0.0),
    ],
)
def test_durations(text: str, seconds: float) -> None:
    """The formats of sbatch's --time."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize(
    ("text", "is_whole"),
    [
        ("", None),
        ("\n", None),
        ("<html>502 Bad Gateway</html>\n", None),
        ("5_0|RUNNING|None|node1|0:10|0|N/A|N/A|a|\n", None),  # its header is lost: so may be others of its lines
        (f"{SQUEUE_COLUMNS}\n", True),
        (f"{SQUEUE_COLUMNS}\n5_0|RUNNING|None|node1|0:10|0|N/A|N/A|a|\n", True),
        (f"{SQUEUE_COLUMNS}\n5_0|RUNNING|None|node1|0:10|0|N/A|N/A|a|\n5_1|RUNN", False),
        (f"{SQUEUE_COLUMNS}\nslurm_load_jobs error: Unable to contact slurm controller\n", False),
    ],
)
def test_an_answer_without_its_header_is_none_and_one_that_was_cut_is_not_whole(
    text: str, is_whole: bool | None
) -> None:
    """Exit code 0 or not: what was swallowed on the way says nothing of any job."""
    answer = parse_squeue(text)
    assert (answer.is_whole if answer else None) is is_whole


@pytest.mark.parametrize(
    ("word", "reason", "state"),
    [
        ("EXPEDITING", "None", JobState.PENDING),
        ("REQUEUED", "None", JobState.PENDING),
        ("REQUEUE_HOLD", "job requeued in held state", JobState.HELD),
        ("SPECIAL_EXIT", "job requeued in special exit state", JobState.HELD),
        ("RESV_DEL_HOLD", "ReservationDeleted", JobState.HELD),
        ("PENDING", "launch failed requeued held", JobState.HELD),
        ("PENDING", "launch_failed_requeued_held", JobState.HELD),
        ("PENDING", "JobHoldMaxRequeue", JobState.HELD),
        ("PENDING", "launch failure limit exceeded requeued held", JobState.HELD),
        ("PENDING", "user env retrieval failed requeued held", JobState.HELD),
        ("PENDING", "JobHeldAdmin", JobState.HELD),
        ("PENDING", "JobLaunchFailure", JobState.PENDING),
        ("SIGNALING", "None", JobState.RUNNING),
        ("STAGE_OUT", "None", JobState.RUNNING),
        ("FROBNICATING", "None", JobState.RUNNING),
        ("?", "None", JobState.RUNNING),
    ],
)
def test_what_squeue_lists_is_seen(word: str, reason: str, state: JobState) -> None:
    """Every state of SLURM 22.05 to 25.11 that squeue lists, and ones that nobody knows yet, is an active one."""
    node = "node1" if state is JobState.RUNNING else ""
    answer = parse_squeue(f"{SQUEUE_COLUMNS}\n5_0|{word}|{reason}|{node}|0:00|0|N/A|N/A|sweep|\n")
    assert answer is not None
    assert (answer.rows["5_0"].state, answer.rows["5_0"].word) == (state, word)


def test_the_table_holds_every_state_of_every_version() -> None:
    """The words of `job_state_string`: those of 22.05 to 25.05, and the one that 25.11 adds."""
    words = (
        "COMPLETING STAGE_OUT CONFIGURING RESIZING REQUEUED REQUEUE_FED REQUEUE_HOLD SPECIAL_EXIT STOPPED REVOKED "
        "RESV_DEL_HOLD SIGNALING PENDING RUNNING SUSPENDED COMPLETED CANCELLED FAILED TIMEOUT NODE_FAIL PREEMPTED "
        "BOOT_FAIL DEADLINE OUT_OF_MEMORY EXPEDITING"
    )
    assert set(words.split()) <= STATES.keys()


def row(state: JobState, word: str = "", end: float = 0.0) -> Row:
    """A row of job 5_0."""
    return Row(job="5_0", state=state, word=word or state.value, end=end)


def seen(*rows: Row) -> Answer:
    """A whole answer with these rows."""
    return Answer(rows={row.job: row for row in rows})


def test_squeue_wins_while_it_lists_a_job() -> None:
    """sacct still says NODE_FAIL of a job that already waits again."""
    rows = merged(seen(row(JobState.PENDING)), seen(row(JobState.NODE_FAIL, end=1.0)), now=1000.0)
    assert rows["5_0"].state is JobState.PENDING


@pytest.mark.parametrize(("age_s", "state"), [(5.0, JobState.PENDING), (100.0, JobState.NODE_FAIL)])
def test_a_lost_job_is_expected_back_for_a_moment(age_s: float, state: JobState) -> None:
    """In the seconds between the loss and the requeue the job is not called finished; later it is."""
    rows = merged(seen(), seen(row(JobState.NODE_FAIL, end=1000.0 - age_s)), now=1000.0)
    assert rows["5_0"].state is state


def test_a_job_that_ends_is_as_sacct_says() -> None:
    """COMPLETING in squeue gives way to a final state in sacct, but not to a loss that will be requeued."""
    ending = seen(row(JobState.RUNNING, "COMPLETING"))
    assert merged(ending, seen(row(JobState.FAILED, end=1.0)), now=1000.0)["5_0"].state is JobState.FAILED
    assert merged(ending, seen(row(JobState.PREEMPTED, end=1.0)), now=1000.0)["5_0"].state is JobState.RUNNING


def test_an_empty_sacct_changes_nothing() -> None:
    """A passing empty answer of sacct leaves what squeue says, and invents no end."""
    assert merged(seen(row(JobState.RUNNING)), seen(), now=0.0)["5_0"].state is JobState.RUNNING
    assert merged(seen(), seen(), now=0.0) == {}


def test_what_a_cut_answer_lacks_is_as_last_known() -> None:
    """A squeue that was cut off does not make a job that accounting has as running one that nobody knows."""
    cut = Answer(rows={}, is_whole=False)
    assert merged(cut, seen(row(JobState.RUNNING)), now=0.0)["5_0"].state is JobState.RUNNING
