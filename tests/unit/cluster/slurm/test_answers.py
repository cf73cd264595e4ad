"""Answers of SLURM's that say nothing, or speak of somebody else's jobs; limits on submitted jobs; trials."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backend import (
    ClusterUnavailable,
    ClusterUsageError,
    Control,
    JobState,
    NothingSent,
    QueueFull,
    SubmissionIncomplete,
)
from cluster.slurm import SlurmCluster
from cluster.slurm.remedies import is_job_limit, remedy
from tests.unit.cluster.slurm.fake_slurm import FakeSlurm, requests, states

Handles = dict[str, str]
VIOLATES = (
    "sbatch: error: Batch job submission failed: Job violates accounting/QOS policy"
    " (job submit limit, user's size and/or time limits)"
)


@pytest.mark.parametrize("squeue", ["", "echo 'Welcome to the cluster!'", "echo '100_0|RUNN'"])
def test_an_empty_or_garbled_squeue_is_no_answer(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles, squeue: str
) -> None:
    """Exit code 0 and no header: no job is missed; without accounting either nothing at all is said."""
    slurm.says("squeue", squeue, header=False)
    statuses = cluster.poll(list(handles.values()))
    assert all(one.state is JobState.UNKNOWN and one.is_unanswered for one in statuses.values())
    slurm.says("sacct", "", header=False)
    cluster._queue.forget()
    with pytest.raises(ClusterUnavailable, match="garbled"):
        cluster.poll(list(handles.values()))


def test_a_squeue_that_was_cut_off_misses_no_job(slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles) -> None:
    """What it shows is believed; what is not in it may be in the part that is lost."""
    slurm.says("squeue", "printf '100_0|RUNNING|None|n1|0:10|0|N/A|N/A|sweep-t1-0|\\n100_1|RUN'")
    statuses = cluster.poll(list(handles.values()))
    assert [statuses[handles[name]].is_unanswered for name in ("j0", "j1", "j2")] == [False, True, True]


def test_a_whole_answer_misses_a_job(slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles) -> None:
    """squeue answers, and does not list it: it does not run."""
    slurm.says("squeue", "")
    assert not any(status.is_unanswered for status in cluster.poll(list(handles.values())).values())


def test_an_array_is_not_sent_again_where_the_question_for_it_is_not_answered(
    slurm: FakeSlurm, cluster: SlurmCluster
) -> None:
    """sbatch's answer is lost and squeue's is empty, with exit code 0: nobody knows, and nothing is sent twice."""
    slurm.says("sbatch", slurm.accept('echo "sbatch: error: Socket timed out on send/recv operation" >&2; exit 1'))
    slurm.says("squeue", "", header=False)
    with pytest.raises(ClusterUnavailable):
        cluster.submit(requests(1, cluster.folder), token="t1")
    assert slurm.arrays() == ["sweep-t1-0"]


def test_a_job_id_that_was_given_a_second_time_is_not_ours(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles
) -> None:
    """A controller without its state counts ids from the start: by the array's name it is another's, and left alone."""
    slurm.says("squeue", "echo '100_0|RUNNING|None|n1|0:10|0|N/A|N/A|another|'")
    slurm.says("sacct", "echo '100_1|FAILED|1:0|n1|5|17|another'")
    assert states(cluster, handles) == [JobState.UNKNOWN] * 3
    cluster.control(list(handles.values()), Control.CANCEL)
    assert slurm.calls("scancel") == []


@pytest.mark.parametrize("end", ["exit 0", "exit 1"])
def test_a_controller_that_is_down_is_not_asked_for_the_queue(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles, end: str
) -> None:
    """`scontrol ping` answers at once, where squeue would try for half a minute."""
    slurm.says("scontrol", f'echo "Slurmctld(primary) at head is DOWN"; {end}')
    before = len(slurm.calls("squeue"))
    assert all(status.is_unanswered for status in cluster.poll(list(handles.values())).values())
    assert len(slurm.calls("squeue")) == before


def test_a_backup_controller_is_asked(slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles) -> None:
    """One of two is up."""
    slurm.says("scontrol", 'echo "Slurmctld(primary) at a is DOWN"; echo "Slurmctld(backup) at b is UP"')
    slurm.says("squeue", "echo '100_0|RUNNING|None|n1|0:10|0|N/A|N/A|sweep-t1-0|'")
    assert states(cluster, handles)[0] is JobState.RUNNING


def test_when_a_job_is_expected_to_start_is_passed_on(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles
) -> None:
    """The estimate of SLURM's backfill, for jobs that wait."""
    slurm.says("squeue", "echo '100_0|PENDING|Resources||0:00|0|N/A|1795231999|sweep-t1-0|'")
    assert cluster.poll([handles["j0"]])[handles["j0"]].start == 1795231999.0


# ---------------------------------------------------------------------- limits on submitted jobs


def accounting(limits: str) -> str:
    """Shell lines of a sacctmgr: account `a` is the default, QOS `long` its; `limits` are cases of its words."""
    return f'case "$*" in *"show user"*) echo a;; *"show assoc"*"account=a "*) echo "|7|long";; {limits} esac'


def test_the_limit_of_a_qos_counts_the_jobs_of_that_qos(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """Two of the association's seven are free, and three of the QOS's four: two jobs are sent."""
    slurm.says("sacctmgr", accounting('*"show qos long"*) echo 4;;'))
    counted = 'case "$*" in *"-A a"*) seq $n; exit;; *"-q long"*) seq 1; exit;; *" -u "*) seq 1000; exit;; esac\n'
    counted = f"n=5; if [ -s {slurm.accepted} ]; then n=7; fi\n{counted}"
    slurm.says("squeue", counted + slurm.find_by_name)
    with pytest.raises(SubmissionIncomplete, match="2 of 6 jobs were submitted"):
        cluster.submit(requests(6, cluster.folder), token="t1")


def test_a_limit_that_is_reached_already_is_said_to_be_that(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """Nothing is sent, and that is known."""
    slurm.says("sacctmgr", accounting(""))
    slurm.says("squeue", 'case "$*" in *"-A a"*) seq 7; exit;; esac\n' + slurm.find_by_name)
    with pytest.raises(QueueFull, match="account a's limit of 7 submitted jobs is reached"):
        cluster.submit(requests(1, cluster.folder), token="t1")
    assert slurm.arrays() == []


@pytest.mark.parametrize(
    ("said", "is_full"),
    [
        (f"sbatch: error: QOSMaxSubmitJobPerUserLimit; {VIOLATES}", True),
        (f"sbatch: error: AssocMaxSubmitJobLimit; {VIOLATES}", True),
        (VIOLATES, True),
        (f"sbatch: error: QOSMaxGRESPerJob; {VIOLATES}", False),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit; {VIOLATES}", False),
    ],
)
def test_a_limit_on_size_is_no_limit_on_submitted_jobs(said: str, is_full: bool) -> None:
    """sbatch names the limit before the sentence that fits them all."""
    assert is_job_limit(said) is is_full


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("Invalid account or account/partition combination specified", "slurm.account"),
        ("Invalid qos specification", "slurm.qos"),
        ("Access denied to requested reservation", "slurm.reservation"),
        ("Requested reservation is invalid", "slurm.reservation"),
        ("Invalid license specification", "slurm.licenses"),
        ("Invalid node name specified", "slurm.nodelist"),
        ("Requested nodes not in this partition", "slurm.nodelist"),
        ("Requested time limit is invalid (missing or exceeds some limit)", "slurm.time"),
        ("Requested node configuration is not available", "slurm.gpus"),
        ("Invalid generic resource (gres) specification", "slurm.gpus"),
        ("Invalid feature specification", "slurm.constraint"),
        ("Memory required by task is not available", "slurm.mem"),
        ("Invalid partition name specified", "slurm.partition"),
        ("User's group not permitted to use this partition", "slurm.partition"),
        (f"sbatch: error: QOSMaxWallDurationPerJobLimit; {VIOLATES}", "slurm.time"),
        (f"sbatch: error: QOSMaxGRESPerJob; {VIOLATES}", "slurm.gpus"),
    ],
)
def test_a_remedy_names_the_key_of_the_cause(said: str, key: str) -> None:
    """Each of sbatch's sentences, of whose words several fit several keys."""
    assert remedy(f"sbatch: error: Batch job submission failed: {said}").startswith(("Set", "No node"))
    assert key in remedy(said)


# ---------------------------------------------------------------------- while nodes are down or the controller restarts


def spoil(slurm: FakeSlurm, state: str) -> None:
    """The only node has this state from now on."""
    script = (slurm.bin / "scontrol").read_text()
    (slurm.bin / "scontrol").write_text(
        script.replace("NodeHostName=localhost", f"NodeHostName=localhost State={state}")
    )


UNAVAILABLE = 'echo "allocation failure: Requested node configuration is not available" >&2; exit 1'


@pytest.mark.parametrize("state", ["DOWN*", "IDLE+DRAIN", "DOWN+NOT_RESPONDING", "UNKNOWN"])
def test_jobs_are_queued_while_nodes_are_down(slurm: FakeSlurm, cluster: SlurmCluster, state: str) -> None:
    """The trial fails for want of nodes, but sbatch takes such a job: so it is sent, and the trial job cancelled."""
    spoil(slurm, state)
    slurm.says(
        "sbatch",
        f'case "$*" in *--test-only*) {UNAVAILABLE};; *--parsable*) echo 55; exit;; esac\n'
        + slurm.accept("echo job $id"),
    )
    assert cluster.submit(requests(1, cluster.folder), token="t1") == {"j0": "100_0"}
    assert slurm.calls("scancel") == ["scancel 55"]


@pytest.mark.parametrize("state", ["IDLE", "DOWN"])
def test_what_sbatch_itself_refuses_is_refused(slurm: FakeSlurm, cluster: SlurmCluster, state: str) -> None:
    """With all nodes up the trial is believed; with one down sbatch is asked, and refuses as well."""
    spoil(slurm, state)
    slurm.says("sbatch", UNAVAILABLE)
    with pytest.raises(ClusterUsageError, match="configuration is not available"):
        cluster.submit(requests(1, cluster.folder), token="t1")
    assert len(slurm.calls("sbatch")) == (1 if state == "IDLE" else 2)


def test_a_controller_that_restarts_is_waited_for(slurm: FakeSlurm, cluster: SlurmCluster, tmp_path: Path) -> None:
    """The first question is not answered, the next one is."""
    tried = tmp_path / "tried"
    error = "slurm_load_ctl_conf error: Unable to contact slurm controller (connect failure)"
    script = (slurm.bin / "scontrol").read_text()
    once = f'if [ ! -e {tried} ]; then touch {tried}; echo "{error}" >&2; exit 1; fi\n'
    (slurm.bin / "scontrol").write_text(script.replace("#!/bin/sh\n", f"#!/bin/sh\n{once}"))
    assert cluster.submit(requests(1, cluster.folder), token="t1") == {"j0": "100_0"}


def test_a_trial_that_is_not_answered_sends_nothing(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """It is known that SLURM has none of the jobs."""
    slurm.says("sbatch", 'echo "sbatch: error: Unable to contact slurm controller" >&2; exit 1')
    with pytest.raises(NothingSent):
        cluster.submit(requests(1, cluster.folder), token="t1")
