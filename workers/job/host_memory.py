"""The memory that this process may still take: of the machine, and of each cgroup that it is in.

SLURM's `--mem` and a container's limit are limits of a cgroup, which the machine's own numbers do not show. The page
cache, which the kernel gives back on demand, counts as available in both: reading a model's weights alone fills it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_PROC: Final = Path("/proc/self")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Files:
    """How a version of cgroups calls what is needed. `reclaimable`: keys of `memory.stat`, children included."""

    limit: str
    usage: str
    reclaimable: tuple[str, ...]


# Source: the kernel's Documentation/admin-guide/cgroup-v1/memory.rst, sections 5.2 and 6, and cgroup-v2.rst, Memory.
_V1: Final = _Files(
    limit="memory.limit_in_bytes",
    usage="memory.usage_in_bytes",
    reclaimable=("total_inactive_file", "total_active_file"),
)
_V2: Final = _Files(
    limit="memory.max",
    usage="memory.current",
    reclaimable=("inactive_file", "active_file", "slab_reclaimable"),
)


def available_bytes(proc: Path = _PROC) -> int:
    """What this process may still allocate: the least that the machine and any cgroup around it have left.

    `proc` is the process's folder, with `cgroup` and `mountinfo` in it.
    """
    return max(0, min([psutil.virtual_memory().available, *_rooms(proc)]))


def _rooms(proc: Path) -> Iterator[int]:
    """What each cgroup with a limit has left, from the process's own up to the one that is mounted."""
    for files, top, own in _memory_groups(proc):
        for folder in (own, *own.parents):
            if not folder.is_relative_to(top):
                break
            room = _room(folder, files)
            if room is not None:
                yield room


def _memory_groups(proc: Path) -> Iterator[tuple[_Files, Path, Path]]:
    """For each hierarchy that counts memory: its files, where it is mounted, and the process's own folder in it."""
    with suppress(OSError):
        mounts = dict(_mounts((proc / "mountinfo").read_text(encoding="utf-8", errors="replace")))
        for line in (proc / "cgroup").read_text(encoding="utf-8", errors="replace").splitlines():
            _, controllers, path = line.split(":", 2)
            files = _V2 if not controllers else _V1 if "memory" in controllers.split(",") else None
            if files in mounts:
                root, top = mounts[files]
                inside = Path(path).relative_to(root) if Path(path).is_relative_to(root) else Path()
                yield files, top, top / inside  # elsewhere: the path of another namespace; the mount is what is seen


def _mounts(text: str) -> Iterator[tuple[_Files, tuple[str, Path]]]:
    """Where cgroups that count memory are mounted, and which cgroup is their root there. Source: proc(5), mountinfo."""
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or len(kind) < 3:
            continue
        root, mount = (re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), one) for one in fields[3:5])
        if kind[0] == "cgroup2":
            yield _V2, (root, Path(mount))
        elif kind[0] == "cgroup" and "memory" in kind[2].split(","):
            yield _V1, (root, Path(mount))


def _room(folder: Path, files: _Files) -> int | None:
    """What a cgroup has left; None where it has no limit or does not say."""
    limit, usage = _number(folder / files.limit), _number(folder / files.usage)
    if limit is None or usage is None:
        return None
    return limit - usage + min(usage, _reclaimable(folder / "memory.stat", files.reclaimable))


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):  # the root of version 2 has no such file; `max` is no limit
        return None


def _reclaimable(path: Path, keys: tuple[str, ...]) -> int:
    with suppress(OSError):
        counts = dict(line.partition(" ")[::2] for line in path.read_text(encoding="ascii").splitlines())
        return sum(int(counts[key]) for key in keys if counts.get(key, "").isdigit())
    return 0
