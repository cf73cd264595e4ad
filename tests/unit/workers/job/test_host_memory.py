"""What a process may still allocate: fake trees of cgroups, in the form that proc(5) and the kernel's manual give."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from workers.job.host_memory import available_bytes

MIB = 1 << 20
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file", "total_active_file")
V2 = ("memory.max", "memory.current", "inactive_file", "active_file")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has 8,000 MiB available, however little of it is free."""
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=8000 * MIB, free=10 * MIB))


def process(folder: Path, *, cgroup: str, mounts: Mapping[str, str]) -> Path:
    """A process's folder: its line(s) of `cgroup`, and what is mounted where: `ROOT TYPE OPTIONS` by mount point."""
    proc = folder / "proc"
    proc.mkdir()
    (proc / "cgroup").write_text(cgroup)
    lines = ["20 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw"]
    for number, (mount, what) in enumerate(mounts.items(), 30):
        root, kind, options = what.split()
        point = str(folder / mount).replace(" ", "\\040")
        lines.append(f"{number} 20 0:{number} {root} {point} rw,nosuid shared:9 master:2 - {kind} {kind} {options}")
    (proc / "mountinfo").write_text("\n".join(lines) + "\n")
    return proc


def group(folder: Path, names: tuple[str, ...], *, limit: str, used: int = 0, cache: int = 0) -> None:
    """A cgroup with a limit in MiB or `max`, this much used, and this much of it page cache, half of it active."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit if limit == 'max' else int(limit) * MIB}\n")
    (folder / names[1]).write_text(f"{used * MIB}\n")
    half = cache * MIB // 2
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {half}\n{names[3]} {half}\nshmem 77\n")


def available_mib(proc: Path) -> int:
    """As this process would see it, in MiB."""
    return available_bytes(proc) // MIB


def test_without_cgroups_the_machine_counts(tmp_path: Path) -> None:
    """What is available, page cache included, and not what is free."""
    assert available_mib(tmp_path / "nothing") == 8000
    assert available_mib(process(tmp_path, cgroup="0::/\n", mounts={})) == 8000


def test_the_limit_of_version_2_counts(tmp_path: Path) -> None:
    """SLURM's --mem or a container: 1,000 MiB, of which 300 are used."""
    group(tmp_path / "cg/job_7/step_0", V2, limit="1000", used=300)
    proc = process(tmp_path, cgroup="0::/job_7/step_0\n", mounts={"cg": "/ cgroup2 rw"})
    assert available_mib(proc) == 700


def test_page_cache_is_available(tmp_path: Path) -> None:
    """800 of 900 MiB used are page cache: reading the weights shrinks no cohort."""
    group(tmp_path / "cg/job", V2, limit="1000", used=900, cache=800)
    assert available_mib(process(tmp_path, cgroup="0::/job\n", mounts={"cg": "/ cgroup2 rw"})) == 900


@pytest.mark.parametrize(("inner", "outer"), [("1000", "400"), ("400", "1000"), ("max", "400")])
def test_the_tightest_level_counts(tmp_path: Path, inner: str, outer: str) -> None:
    """A job's limit holds for its steps, whichever of the two is the smaller."""
    group(tmp_path / "cg", V2, limit="max")
    group(tmp_path / "cg/job", V2, limit=outer, used=100)
    group(tmp_path / "cg/job/step", V2, limit=inner, used=100)
    assert available_mib(process(tmp_path, cgroup="0::/job/step\n", mounts={"cg": "/ cgroup2 rw"})) == 300


def test_the_limit_of_version_1_counts(tmp_path: Path) -> None:
    """One hierarchy of many counts memory; another's files of the same names do not count."""
    group(tmp_path / "cg/memory/slurm/job", V1, limit="2000", used=900, cache=400)
    group(tmp_path / "cg/cpu/slurm/job", V1, limit="1")
    mounts = {"cg/memory": "/ cgroup rw,memory", "cg/cpu": "/ cgroup rw,cpu,cpuacct", "cg/unified": "/ cgroup2 rw"}
    cgroup = "9:cpu,cpuacct:/slurm/job\n4:memory:/slurm/job\n1:name=systemd:/x\n0::/\n"
    assert available_mib(process(tmp_path, cgroup=cgroup, mounts=mounts)) == 1500


def test_no_limit_of_version_1_is_a_huge_number(tmp_path: Path) -> None:
    """It is never the smallest."""
    group(tmp_path / "cg", V1, limit=str(9223372036854771712 // MIB), used=900)
    assert available_mib(process(tmp_path, cgroup="4:memory:/\n", mounts={"cg": "/ cgroup rw,memory"})) == 8000


def test_a_container_sees_its_own_group_mounted(tmp_path: Path) -> None:
    """The mount shows /docker/abc as its root; the process's path is given from the machine's root."""
    group(tmp_path / "cg", V1, limit="500", used=100)
    group(tmp_path / "cg/inner", V1, limit="450", used=100)
    proc = process(tmp_path, cgroup="4:memory:/docker/abc/inner\n", mounts={"cg": "/docker/abc cgroup rw,memory"})
    assert available_mib(proc) == 350


def test_a_path_of_another_namespace_means_what_is_mounted(tmp_path: Path) -> None:
    """A path that does not lie below the mount's root: the mounted cgroup is around the process all the same."""
    group(tmp_path / "cg", V2, limit="500", used=100)
    assert available_mib(process(tmp_path, cgroup="0::/../../elsewhere\n", mounts={"cg": "/docker cgroup2 rw"})) == 400


def test_a_mount_point_may_have_a_blank(tmp_path: Path) -> None:
    """mountinfo writes it as \\040."""
    group(tmp_path / "c g/job", V2, limit="500")
    assert available_mib(process(tmp_path, cgroup="0::/job\n", mounts={"c g": "/ cgroup2 rw"})) == 500


def test_a_group_that_says_nothing_of_its_cache_has_none(tmp_path: Path) -> None:
    """Without memory.stat all that is used counts as used."""
    group(tmp_path / "cg/job", V2, limit="500", used=200, cache=200)
    (tmp_path / "cg/job/memory.stat").unlink()
    assert available_mib(process(tmp_path, cgroup="0::/job\n", mounts={"cg": "/ cgroup2 rw"})) == 300


def test_a_group_above_its_limit_has_nothing_left(tmp_path: Path) -> None:
    """A limit that was lowered beneath what is used: never less than none."""
    group(tmp_path / "cg/job", V2, limit="500", used=600)
    assert available_mib(process(tmp_path, cgroup="0::/job\n", mounts={"cg": "/ cgroup2 rw"})) == 0
