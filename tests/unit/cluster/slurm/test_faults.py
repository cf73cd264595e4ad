"""SLURM's commands misbehaving, by scripts on PATH."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from cluster.backend import (
    ClusterUnavailable,
    ClusterUsageError,
    Control,
    JobState,
    SubmissionIncomplete,
)
from cluster.slurm import SlurmCluster
from cluster.slurm.record import TaskRun
from tests.unit.cluster.slurm.fake_slurm import NODE, FakeSlurm, requests, states

# ---------------------------------------------------------------------- submitting


def test_arrays_are_no_larger_than_the_controller_allows(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """Ten jobs with a MaxArraySize of 4 are three arrays; every job has its own handle."""
    handles = cluster.submit(requests(10, cluster.folder), token="t1")
    assert slurm.arrays() == ["sweep-t1-0", "sweep-t1-4", "sweep-t1-8"]
    assert [handles[f"j{i}"] for i in (0, 3, 4, 9)] == ["100_0", "100_3", "101_0", "102_1"]
    assert len(set(handles.values())) == 10


@pytest.mark.parametrize(
    "end",
    [
        'echo "sbatch: error: Batch job submission failed: Socket timed out on send/recv operation" >&2; exit 1',
        "kill -PIPE $$",  # the controller closed the line while the client wrote
    ],
    ids=["timeout", "broken pipe"],
)
def test_an_array_that_was_accepted_in_spite_of_it_is_found(slurm: FakeSlurm, cluster: SlurmCluster, end: str) -> None:
    """sbatch fails after the controller took the array: it is looked up by name, not sent again."""
    slurm.says("sbatch", slurm.accept(end))
    assert cluster.submit(requests(2, cluster.folder), token="t1") == {"j0": "100_0", "j1": "100_1"}
    assert slurm.arrays() == ["sweep-t1-0"]


def test_an_array_that_was_not_accepted_is_sent_again(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """sbatch fails twice before it reaches the controller: the third try is the only array."""
    tried = slurm.bin.parent / "tried"
    error = "sbatch: error: Batch job submission failed: Unable to contact slurm controller (connect failure)"
    fail_twice = f'echo x >> {tried}; if [ $(wc -l < {tried}) -lt 3 ]; then echo "{error}" >&2; exit 1; fi\n'
    slurm.says("sbatch", 'case "$1" in --test-only) exit 0;; esac\n' + fail_twice + slurm.accept("echo job $id"))
    assert cluster.submit(requests(1, cluster.folder), token="t1") == {"j0": "100_0"}
    assert slurm.arrays() == ["sweep-t1-0"]


def test_a_dead_controller_is_no_answer_and_the_same_call_goes_on_later(
    slurm: FakeSlurm, cluster: SlurmCluster
) -> None:
    """All tries fail: ClusterUnavailable; later the same token looks the array up before it sends it."""
    slurm.says("sbatch", slurm.accept('echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'))
    slurm.says("squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(ClusterUnavailable):
        cluster.submit(requests(2, cluster.folder), token="t1")
    slurm.says("squeue", slurm.find_by_name)
    again = SlurmCluster(cluster.folder, {}).submit(requests(2, cluster.folder), token="t1")
    assert (again, slurm.arrays()) == ({"j0": "100_0", "j1": "100_1"}, ["sweep-t1-0"])


def test_an_answer_without_an_id_is_looked_up(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """sbatch accepts and prints garbage: the array is found by its name."""
    slurm.says("sbatch", slurm.accept('echo "Welcome to the cluster!"'))
    assert cluster.submit(requests(1, cluster.folder), token="t1") == {"j0": "100_0"}
    assert slurm.arrays() == ["sweep-t1-0"]


def test_a_submit_limit_reached_half_way_names_what_was_accepted(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """The second array hits the user's limit: SubmissionIncomplete with the first one's handles; later it continues."""
    error = "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy (job submit limit, ...)"
    once = f'if [ -s {slurm.accepted} ]; then echo "{error}" >&2; exit 1; fi\n'
    slurm.says("sbatch", 'case "$1" in --test-only) exit 0;; esac\n' + once + slurm.accept("echo job $id"))
    with pytest.raises(SubmissionIncomplete) as raised:
        cluster.submit(requests(6, cluster.folder), token="t1")
    assert raised.value.handles == {f"j{i}": f"100_{i}" for i in range(4)}
    slurm.says("sbatch", slurm.accept("echo job $id"))
    assert len(cluster.submit(requests(6, cluster.folder), token="t1")) == 6
    assert slurm.arrays() == ["sweep-t1-0", "sweep-t1-4"]


def test_a_users_own_limit_is_never_exceeded(slurm: FakeSlurm, tmp_path: Path) -> None:
    """With max_submitted 3 and one job in the queue already, two are sent."""
    in_queue = f'case "$*" in *" -r "*) echo 99; [ -s {slurm.accepted} ] && printf "1\\n1\\n"; exit 0;; esac\n'
    slurm.says("squeue", in_queue + slurm.find_by_name)
    with pytest.raises(SubmissionIncomplete, match="limit of 3") as raised:
        SlurmCluster(tmp_path / "sweep", {"max_submitted": 3}).submit(requests(10, tmp_path / "sweep"), token="t1")
    assert raised.value.handles == {"j0": "100_0", "j1": "100_1"}


def test_a_refusal_is_the_users_to_mend_and_leaves_nothing(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """A trial run that SLURM refuses: its words, a remedy, no array; mended, the same token works."""
    error = "allocation failure: Requested node configuration is not available"
    slurm.says("sbatch", f'echo "{error}" >&2; exit 1')
    with pytest.raises(ClusterUsageError, match=r"configuration is not available.*slurm\.gpus"):
        cluster.submit(requests(1, cluster.folder), token="t1")
    assert slurm.arrays() == []
    slurm.says("sbatch", slurm.accept("echo job $id"))
    assert cluster.submit(requests(1, cluster.folder), token="t1") == {"j0": "100_0"}


def test_without_sbatch_the_message_says_where_to_go(
    slurm: FakeSlurm, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sbatch on PATH: ClusterUsageError that names a login node."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterUsageError, match=r"sbatch: not on PATH.*login node"):
        cluster.submit(requests(1, cluster.folder), token="t1")


def test_a_folder_that_nodes_cannot_see_is_refused(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """A sweep below /tmp with nodes elsewhere: refused before anything is sent."""
    script = (slurm.bin / "scontrol").read_text()
    (slurm.bin / "scontrol").write_text(script.replace("NodeHostName=localhost", "NodeHostName=gpu17"))
    with pytest.raises(ClusterUsageError, match="node1 and the other nodes cannot see it"):
        cluster.submit(requests(1, cluster.folder), token="t1")
    assert slurm.arrays() == []


@pytest.mark.parametrize(
    ("options", "excluded"),
    [
        ({"avoid": ["node1"]}, "node1"),
        ({"avoid": ["node1", "node2"]}, None),
        ({"avoid": ["node1"], "exclude": "node2"}, "node2"),
        ({"avoid": ["gone"], "exclude": "node2"}, "node2"),
    ],
)
def test_nodes_are_avoided_while_there_are_others(
    slurm: FakeSlurm, tmp_path: Path, options: dict[str, Any], excluded: str | None
) -> None:
    """What is to be avoided is excluded, unless nothing would be left; the user's own `exclude` always is."""
    two = f"{NODE} Partitions=gpu\n{NODE.replace('node1', 'node2')} Partitions=gpu"
    script = (slurm.bin / "scontrol").read_text().replace(NODE, two)
    (slurm.bin / "scontrol").write_text(script + 'echo "$3"\n')  # show hostnames
    SlurmCluster(tmp_path / "sweep", options).submit(requests(1, tmp_path / "sweep"), token="t1")
    (tried,) = [call for call in slurm.calls("sbatch") if "--test-only" in call]
    assert re.findall(r"--exclude=(\S+)", tried) == ([excluded] if excluded else [])


def test_what_a_job_leaves_in_the_environment_is_not_inherited(
    slurm: FakeSlurm, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SLURM_*, SBATCH_* and PMIX_* of the shell do not reach sbatch; SLURM_CONF does."""
    seen = slurm.bin.parent / "environment"
    slurm.says("sbatch", f"env > {seen}\n" + slurm.accept("echo job $id"))
    for name in ("SLURM_CPU_BIND", "SBATCH_GRES", "PMIX_RANK", "SLURM_CONF"):
        monkeypatch.setenv(name, "inherited")
    cluster.submit(requests(1, cluster.folder), token="t1")
    names = {line.partition("=")[0] for line in seen.read_text().splitlines()}
    assert names & {"SLURM_CPU_BIND", "SBATCH_GRES", "PMIX_RANK", "SLURM_CONF"} == {"SLURM_CONF"}


# ---------------------------------------------------------------------- polling


def test_a_thousand_jobs_are_polled_by_one_call_each(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """One squeue and one sacct, and none at all when the same is asked again at once."""
    before = (len(slurm.calls("squeue")), len(slurm.calls("sacct")))
    many = [f"100_{task}" for task in range(1000)]
    cluster.poll(many)
    cluster.poll(many)
    assert (len(slurm.calls("squeue")), len(slurm.calls("sacct"))) == (before[0] + 1, before[1] + 1)


def test_empty_answers_are_no_failure(slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]) -> None:
    """Neither lists the jobs: UNKNOWN, not FAILED."""
    slurm.says("squeue", "")
    assert states(cluster, handles) == [JobState.UNKNOWN] * 3


def test_garbage_is_no_failure(slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]) -> None:
    """Both print nonsense: UNKNOWN."""
    slurm.says("squeue", "head -c 3000 /dev/urandom | tr -d '\\000'; echo '|||||||'; echo '100_x|RUNNING||||||'")
    slurm.says("sacct", "echo '<html>502 Bad Gateway</html>'; echo '100_0|'")
    assert states(cluster, handles) == [JobState.UNKNOWN] * 3


def test_without_accounting_squeue_and_our_own_files_are_enough(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str], tmp_path: Path
) -> None:
    """sacct disabled: a running job as squeue says, an ended one as its task wrote down, a lost one UNKNOWN."""
    slurm.says("sacct", 'echo "Slurm accounting storage is disabled" >&2; exit 1')
    slurm.says("squeue", 'echo "100_0|RUNNING|None|node1|0:10|0|N/A|N/A||"')
    run = TaskRun(node="node2", gpu="3", restart=0, started=100.0, ended=160.0, exit_code=3)
    cluster._record.submission("t1").put_run(1, run)
    assert states(cluster, handles) == [JobState.RUNNING, JobState.FAILED, JobState.UNKNOWN]
    status = cluster.poll([handles["j1"]])[handles["j1"]]
    assert (status.node, status.gpu, status.elapsed_s) == ("node2", "3", 60.0)
    assert "exit code 3" in status.detail


def test_a_database_that_is_down_hides_nothing_that_runs(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """sacct cannot reach its daemon: squeue is believed."""
    slurm.says("sacct", 'echo "sacct: error: Problem talking to the database: Connection refused" >&2; exit 1')
    slurm.says("squeue", 'echo "100_[0-2%1]|PENDING|JobArrayTaskLimit||0:00|0|N/A|N/A||"')
    assert states(cluster, handles) == [JobState.PENDING] * 3


def test_a_controller_that_is_down_leaves_what_was_last_known(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """squeue fails, sacct answers: its states, marked as last known."""
    slurm.says("squeue", 'echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1')
    slurm.says(
        "sacct",
        "printf '100_0|RUNNING|0:0|node1|9|Unknown|\\n100_1|COMPLETED|0:0|node1|9|1795228074|\\n'",
    )
    assert states(cluster, handles) == [JobState.RUNNING, JobState.COMPLETED, JobState.UNKNOWN]
    assert "last known" in cluster.poll([handles["j0"]])[handles["j0"]].detail


def test_when_nothing_answers_nothing_is_said(slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]) -> None:
    """Both fail: ClusterUnavailable."""
    for program in ("squeue", "sacct"):
        slurm.says(program, 'echo "error: Connection refused" >&2; exit 1')
    with pytest.raises(ClusterUnavailable, match=r"squeue.*sacct"):
        cluster.poll(list(handles.values()))


def test_jobs_that_the_controller_forgot_are_asked_of_sacct(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """squeue knows no such id any more, which is an answer; the end is sacct's to tell."""
    slurm.says("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    slurm.says(
        "sacct",
        "printf '100_0|CANCELLED by 0|0:0|node1|9|17|\\n100_1|TIMEOUT|0:0||9|17|\\n100_2|ODD|0:0||9|17|\\n'",
    )
    assert states(cluster, handles) == [JobState.CANCELLED, JobState.TIMEOUT, JobState.UNKNOWN]
    assert "ODD" in cluster.poll([handles["j2"]])[handles["j2"]].detail


def test_a_job_that_only_accounting_has_as_running_is_unknown(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """A controller that was killed forgot its jobs; accounting will call them RUNNING for ever. UNKNOWN, both words
    shown, but for the job whose task wrote down its end."""
    slurm.says("squeue", 'echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1')
    slurm.says("sacct", "printf '100_0|RUNNING|0:0|node1|9|Unknown|\n100_1|RUNNING|0:0|node1|9|Unknown|\n'")
    run = TaskRun(node="node2", gpu="3", restart=0, started=100.0, ended=160.0, exit_code=0)
    cluster._record.submission("t1").put_run(1, run)
    assert states(cluster, handles) == [JobState.UNKNOWN, JobState.COMPLETED, JobState.UNKNOWN]
    assert cluster.poll([handles["j0"]])[handles["j0"]].detail == "RUNNING, no longer in squeue"


def test_a_tasks_own_record_of_a_bad_end_wins_over_completed(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """Accounting, seconds late, shows one line for the whole array: the job that wrote down its failure is FAILED."""
    slurm.says("squeue", "")
    slurm.says("sacct", "echo '100_[0-2]|COMPLETED|0:0|node1|1|17|'")
    run = TaskRun(node="node1", gpu="0", restart=0, started=100.0, ended=101.0, error="cannot start /nowhere")
    cluster._record.submission("t1").put_run(0, run)
    assert states(cluster, handles)[0] is JobState.FAILED


def test_control_speaks_of_active_jobs_in_short(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """Cancelling three jobs, one of them ended, is one scancel of the other two."""
    slurm.says(
        "squeue",
        "printf '100_0|RUNNING|None|node1|0:10|0|N/A|N/A||\\n100_1|PENDING|None||0:00|0|N/A|N/A||\\n'",
    )
    slurm.says("sacct", "echo '100_2|COMPLETED|0:0|node1|9|17|'")
    cluster.control(list(handles.values()), Control.CANCEL)
    assert slurm.calls("scancel") == ["scancel 100_[0-1]"]


def test_tasks_that_never_began_are_told_of_under_their_arrays_id(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """An array of which one task ran before it was cancelled: sacct has a line for that and one for all others."""
    slurm.says("squeue", "")
    slurm.says("sacct", "printf '100_0|COMPLETED|0:0|node1|9|17|\\n100|CANCELLED by 0|0:0||0|17|\\n'")
    assert states(cluster, handles) == [JobState.COMPLETED, JobState.CANCELLED, JobState.CANCELLED]


def test_the_arrays_own_line_says_nothing_of_a_task_that_has_begun(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """The last waiting task is cancelled while the first one ends, of which accounting has not heard yet: the record of
    the first task says how it ended; of one that runs nobody knows for the moment."""
    slurm.says("squeue", "")
    slurm.says("sacct", "echo '100|CANCELLED by 0|0:0||0|17|'")
    ended = TaskRun(node="node1", gpu="0", restart=0, started=100.0, ended=101.0, exit_code=0)
    cluster._record.submission("t1").put_run(0, ended)
    cluster._record.submission("t1").put_run(1, TaskRun(node="node1", gpu="1", restart=0, started=100.0))
    assert states(cluster, handles) == [JobState.COMPLETED, JobState.UNKNOWN, JobState.CANCELLED]


def test_jobs_that_a_controller_forgot_to_release_are_released(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: dict[str, str]
) -> None:
    """Held jobs after a controller's death: an empty submission releases them, but not what the user holds."""
    slurm.says("squeue", "echo '100_[0-2]|PENDING|None||0:00|0|N/A|N/A||'")
    cluster.control([handles["j1"]], Control.HOLD)
    slurm.says("squeue", "echo '100_[0-2]|PENDING|JobHeldUser||0:00|0|N/A|N/A||'")
    cluster.wake()
    assert slurm.calls("scontrol")[-1] == "scontrol release 100_[0,2]"
