"""A real cgroup of memory: its limit decides what a worker may take, and the page cache in it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

MIB = 1 << 20
LIMIT_MIB, CACHE_MIB = 1024, 300
# Version 1 or 2, wherever it is mounted.
PLACES = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max"),
    (Path("/sys/fs/cgroup/unified"), "memory.max"),
)
SAYS = """
import sys
from pathlib import Path
from workers.job.host_memory import available_bytes
before = available_bytes()
with open(sys.argv[1], "rb") as file:
    while file.read(1 << 20): pass
held = bytearray(b"x") * (200 << 20)
print(before, available_bytes())
"""


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup with a limit, for one process."""
    for place, limit in PLACES:
        group = place / f"causalsweep-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            (group / limit).write_text(str(LIMIT_MIB * MIB))
        except OSError:
            group.rmdir()
            continue
        yield group
        group.rmdir()
        return
    pytest.skip("no cgroup of memory can be made here: that takes root, and a file system of cgroups to write in")


def test_a_real_limit_is_seen_and_real_page_cache_is_not(cgroup: Path, tmp_path: Path, project: Path) -> None:
    """In 1,024 MiB a process finds nearly as much; 300 MiB of a file read change nothing, 200 MiB of its own do."""
    weights = tmp_path / "weights"
    weights.write_bytes(b"w" * CACHE_MIB * MIB)
    with open(weights, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # read again, it is charged to the cgroup
    enter = f'echo $$ > {cgroup}/cgroup.procs && exec "$@"'
    command = ["sh", "-c", enter, "sh", sys.executable, "-c", SAYS, str(weights)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=project, check=True)
    before, after = (int(word) / MIB for word in ended.stdout.split())
    assert 0.85 * LIMIT_MIB < before <= LIMIT_MIB
    assert before - after == pytest.approx(200, abs=60)
