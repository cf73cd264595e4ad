"""The faults: each does one thing to a running sweep, and says whether there was anything to do it to."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

from tests.campaign.arena import NAME, Arena

Fault = Callable[[Arena, random.Random], bool]

# Files that a sweep can do without. The spec, the cells, job files and submissions are not among them: nobody can make
# them again, and what happens without them is the fuzz test's business.
VICTIMS: Final = ("checkpoints", "shards", "progress", "store", "alignments", "logs", "cluster")


def signal_one(pids: list[int], rng: random.Random, number: int) -> bool:
    """Send a signal to one of these processes; whether there was one."""
    if not pids:
        return False
    with contextlib.suppress(ProcessLookupError):
        os.kill(rng.choice(pids), number)
    return True


def kill_worker(arena: Arena, rng: random.Random) -> bool:
    """SIGKILL to one worker."""
    return signal_one(list(arena.workers()), rng, signal.SIGKILL)


def stop_worker(arena: Arena, rng: random.Random) -> bool:
    """SIGTERM to one worker: it writes a checkpoint and ends."""
    return signal_one(list(arena.workers()), rng, signal.SIGTERM)


def freeze_worker(arena: Arena, rng: random.Random) -> bool:
    """A worker that hangs for some seconds."""
    pids = list(arena.workers())
    if not pids:
        return False
    return _frozen([rng.choice(pids)], rng.uniform(1.0, 6.0))


def _frozen(pids: list[int], seconds: float) -> bool:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
    return bool(pids)


def kill_all_workers(arena: Arena, _rng: random.Random) -> bool:
    """SIGKILL to every worker at once: a machine that loses its power."""
    pids = list(arena.workers())
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return bool(pids)


def kill_client(arena: Arena, rng: random.Random) -> bool:
    """A command that is killed at a random moment."""
    command = rng.choice((("resume", NAME), ("run", f"{NAME}.yaml"), ("submit", f"{NAME}.yaml"), ("status", NAME)))
    on = ("--on", arena.backend) if command[0] != "status" else ()
    arena.command(*command, *on, kill_after_s=rng.uniform(0.2, 3.0))
    return True


def cancel(arena: Arena, rng: random.Random) -> bool:
    """A person cancels the sweep, gently or at once."""
    arena.command("cancel", NAME, "--yes", *rng.choice(((), ("--at-once",))))
    return True


def hold_and_release(arena: Arena, rng: random.Random) -> bool:
    """A person holds the sweep for a moment."""
    arena.command("hold", NAME, "--yes")
    time.sleep(rng.uniform(0.0, 1.0))
    arena.command("release", NAME, "--yes")
    return True


def resume_together(arena: Arena, rng: random.Random) -> bool:
    """Several people resume at the same time."""
    threads = [
        threading.Thread(target=arena.command, args=("resume", NAME, "--on", arena.backend))
        for _ in range(rng.randint(2, 3))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return True


def delete_file(arena: Arena, rng: random.Random) -> bool:
    """One of the sweep's files is gone."""
    return _damaged(arena, rng, lambda path, _content: path.unlink())


def cut_file(arena: Arena, rng: random.Random) -> bool:
    """One of the sweep's files ends in the middle."""
    return _damaged(arena, rng, lambda path, content: path.write_bytes(content[: rng.randrange(len(content) or 1)]))


def zero_file(arena: Arena, rng: random.Random) -> bool:
    """A page of one of the sweep's files is zeroed, as a disk leaves it after a crash."""

    def zero(path: Path, content: bytes) -> None:
        start = rng.randrange(len(content) or 1)
        path.write_bytes(content[:start] + bytes(len(content[start : start + 4096])) + content[start + 4096 :])

    return _damaged(arena, rng, zero)


def _damaged(arena: Arena, rng: random.Random, damage: Callable[[Path, bytes], object]) -> bool:
    root = arena.folder.root
    files = [path for folder in VICTIMS for path in (root / folder).rglob("*") if path.is_file()]
    # a backend's locks and orders are its own; a running process keeps them open
    files = [path for path in files if path.suffix in (".json", ".parquet", ".safetensors", ".log")]
    if not files:
        return False
    path = rng.choice(sorted(files))
    with contextlib.suppress(FileNotFoundError):
        damage(path, path.read_bytes())
    return True


def stray_file(arena: Arena, rng: random.Random) -> bool:
    """Something that is not ours appears in one of the folders."""
    folders = [path for name in VICTIMS if (path := arena.folder.root / name).is_dir()]
    if not folders:
        return False
    folder = rng.choice(folders)
    name = rng.choice(("notes.json", "r1-0001-0001 (conflicted copy).json", ".nfs000001", "x.parquet", "y.safetensors"))
    with contextlib.suppress(OSError):
        if rng.random() < 0.3:
            (folder / name).mkdir()
        else:
            (folder / name).write_text("not ours")
    return True


def immutable_folder(arena: Arena, rng: random.Random) -> bool:
    """A folder that cannot be written for some seconds, not even by root."""
    folders = [path for path in arena.folder.root.iterdir() if path.is_dir()] if arena.folder.root.exists() else []
    if not folders:
        return False
    with _immutable(rng.choice(sorted(folders))):
        arena.command(rng.choice(("status", "resume", "cancel", "hold", "check")), NAME)
        time.sleep(rng.uniform(0.0, 3.0))
    return True


@contextlib.contextmanager
def _immutable(folder: Path) -> Iterator[None]:
    subprocess.run(["chattr", "+i", str(folder)], check=True)
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


COMMON: Final[Mapping[str, Fault]] = {
    "worker killed": kill_worker,
    "worker stopped": stop_worker,
    "worker frozen": freeze_worker,
    "all workers killed": kill_all_workers,
    "command killed": kill_client,
    "cancelled": cancel,
    "held and released": hold_and_release,
    "resumed by several": resume_together,
    "file deleted": delete_file,
    "file cut": cut_file,
    "page zeroed": zero_file,
    "stray file": stray_file,
    "folder immutable": immutable_folder,
}
