"""What is checked before anything is sent: at plan as at submit."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.backend import ClusterUnavailable, ClusterUsageError, QueueFull
from cluster.slurm import SlurmCluster
from tests.unit.cluster.slurm.fake_slurm import FakeSlurm, requests


def test_a_plan_is_refused_as_a_submission_would_be(slurm: FakeSlurm, cluster: SlurmCluster, tmp_path: Path) -> None:
    """sbatch's own trial decides; nothing is sent, and no file is written."""
    cluster.check(requests(1, cluster.folder))
    slurm.says("sbatch", 'echo "sbatch: error: Invalid account or account/partition combination specified" >&2; exit 1')
    with pytest.raises(ClusterUsageError, match=r"Invalid account.*slurm\.account"):
        cluster.check(requests(1, cluster.folder))
    assert slurm.arrays() == []
    assert not (tmp_path / "sweep").exists()


def test_a_plan_is_not_refused_because_the_queue_is_full(slurm: FakeSlurm, cluster: SlurmCluster) -> None:
    """Nothing in the spec has to be mended: SLURM takes the same jobs later."""
    full = "sbatch: error: AssocMaxSubmitJobLimit\nsbatch: error: Job violates accounting/QOS policy"
    slurm.says("sbatch", f"echo '{full}' >&2; exit 1")
    with pytest.raises(QueueFull, match="AssocMaxSubmitJobLimit"):
        cluster.check(requests(1, cluster.folder))


def test_a_plan_on_a_machine_without_slurm_is_not_checked(
    slurm: FakeSlurm, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No answer, and no refusal."""
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ClusterUnavailable, match="sbatch is not on PATH"):
        cluster.check(requests(1, cluster.folder))


def test_a_time_above_the_partitions_limit_is_refused(slurm: FakeSlurm, tmp_path: Path) -> None:
    """It is not cut without a word."""
    script = (slurm.bin / "scontrol").read_text().replace("MaxTime=UNLIMITED", "MaxTime=1:00:00")
    (slurm.bin / "scontrol").write_text(script)
    with pytest.raises(ClusterUsageError, match=r"slurm\.time: 120 minutes; partition gpu allows 1:00:00"):
        SlurmCluster(tmp_path / "sweep", {"time": "2:00:00"}).check(requests(1, tmp_path / "sweep"))


def test_an_account_of_the_environment_is_honoured_unless_the_spec_has_one(
    slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """SBATCH_ACCOUNT as sbatch itself would take it; a variable that is not used is named."""
    monkeypatch.setenv("SBATCH_ACCOUNT", "physics")
    monkeypatch.setenv("SBATCH_GRES", "gpu:8")
    SlurmCluster(tmp_path / "sweep", {}).check(requests(1, tmp_path / "sweep"))
    SlurmCluster(tmp_path / "sweep", {"account": "maths"}).check(requests(1, tmp_path / "sweep"))
    first, second = [call for call in slurm.calls("sbatch") if "--test-only" in call]
    assert "--account=physics" in first
    assert "--account=maths" in second
    assert "SBATCH_GRES: not used" in caplog.text


def test_doctor_looks_at_the_partition_of_the_environment(
    slurm: FakeSlurm, cluster: SlurmCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one that jobs would be sent to."""
    monkeypatch.setenv("SBATCH_PARTITION", "elsewhere")
    (finding,) = cluster.doctor()
    assert not finding.ok
    assert "elsewhere" in finding.found
