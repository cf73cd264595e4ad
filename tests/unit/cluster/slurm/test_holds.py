"""Jobs that SLURM or somebody else holds, and why jobs wait."""

from __future__ import annotations

import pytest

from cluster.backend import Control, JobState, NotPermitted
from cluster.slurm import SlurmCluster
from cluster.slurm.reasons import explained, is_hold, needs_administrator
from tests.unit.cluster.slurm.fake_slurm import FakeSlurm, states

Handles = dict[str, str]
HELD = "Job is in held state, pending scheduler release"  # ESLURM_JOB_HELD


def rows(*reasons: str) -> str:
    """Shell lines of a squeue that lists waiting tasks 0, 1, ... with these reasons, as `squeue -r` does."""
    lines = [f"100_{task}|PENDING|{reason}||0:00|0|N/A|N/A|sweep-t1-0|" for task, reason in enumerate(reasons)]
    return "".join(f"echo '{line}'\n" for line in lines)


def test_each_task_is_held_or_free_by_its_own_reason(slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles) -> None:
    """squeue is asked for a line a task, whose reasons it would otherwise join; only the held ones are released."""
    slurm.says("squeue", 'case "$*" in *" -r "*) ;; *) echo "100_[0-2]|PENDING|Priority,JobHeldUser||"; exit;; esac\n')
    with (slurm.bin / "squeue").open("a") as script:
        script.write(rows("Priority", "JobHeldUser", "Priority"))
    assert states(cluster, handles) == [JobState.PENDING, JobState.HELD, JobState.PENDING]
    cluster.control(list(handles.values()), Control.RELEASE)
    assert slurm.calls("scontrol")[-1] == "scontrol release 100_[1]"


@pytest.mark.parametrize(
    ("reason", "who"),
    [
        ("job requeued in held state", "requeuehold"),
        ("launch failed requeued held", "a node could not start it"),
        ("launch_failed_requeued_held", "a node could not start it"),
        ("job requeued in special exit state", "special exit state"),
        ("JobHeldUser", "held by a user"),
    ],
)
def test_what_slurm_holds_is_released(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles, reason: str, who: str
) -> None:
    """HELD, with who holds it and why; its owner's `release` is passed on, and so is the one of `resume`."""
    slurm.says("squeue", rows(reason))
    status = cluster.poll([handles["j0"]])[handles["j0"]]
    assert status.state is JobState.HELD
    assert who in status.detail
    assert "`causalsweep release` lets it start" in status.detail
    cluster.wake()
    assert slurm.calls("scontrol")[-1] == "scontrol release 100_[0]"


@pytest.mark.parametrize("reason", ["JobHeldAdmin", "JobHoldMaxRequeue", "launch failure limit exceeded requeued held"])
def test_what_only_an_administrator_can_release_is_said(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles, reason: str
) -> None:
    """The other jobs are released; for these the command for an administrator is named."""
    slurm.says("squeue", rows("JobHeldUser", reason))
    slurm.says("scontrol", f'case "$*" in "release 100_[1]") echo "{HELD} for job 100_1" >&2; exit 1;; esac')
    with pytest.raises(NotPermitted, match=r"100_1.*only an administrator(.|\n)*`scontrol release 100_\[1\]`"):
        cluster.control(list(handles.values()), Control.RELEASE)
    assert "scontrol release 100_[0]" in slurm.calls("scontrol")


def test_a_held_job_that_was_cancelled_meanwhile_needs_no_administrator(
    slurm: FakeSlurm, cluster: SlurmCluster, handles: Handles
) -> None:
    """It has ended between the look and the order, as other jobs do."""
    slurm.says("squeue", rows("JobHeldAdmin"))
    slurm.says("scontrol", 'case "$1" in release) echo "Invalid job id specified for job 100_0" >&2; exit 1;; esac')
    cluster.control([handles["j0"]], Control.RELEASE)
    assert slurm.calls("scontrol")[-1] == "scontrol release 100_[0]"


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("Resources", "no node is free"),
        ("ReqNodeNotAvail, UnavailableNodes:node[1-2]", "down, drained or reserved"),
        ("QOSMaxJobsPerUserLimit", "your own share"),
        ("AssocMaxJobsLimit", "your own share"),
        ("AssocGrpGRES", "your group's share"),
        ("QOSGrpCpuLimit", "your group's share"),
        ("AssocGrpCPUMinutesLimit", "used up its hours"),
        ("QOSMaxWallDurationPerJobLimit", "slurm.time is above your limit"),
        ("QOSMaxGRESPerJob", "more than your limit a job"),
        ("QOSMinGRES", "less than the QOS demands"),
        ("MaxGRESPerAccount", "your own share"),
        ("PartitionTimeLimit", "the partition's limit"),
        ("InvalidQOS", "slurm.qos"),
        ("BadConstraints", "no node is like"),
        ("DependencyNeverSatisfied", "cannot end well"),
    ],
)
def test_a_reason_says_what_it_means_and_what_helps(reason: str, meaning: str) -> None:
    """SLURM's word comes first, then ours."""
    text = explained(reason)
    assert text.startswith(f"{reason} (")
    assert meaning in text
    assert not is_hold(reason)
    assert not needs_administrator(reason)
