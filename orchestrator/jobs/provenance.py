"""The code that plans jobs: git's commit with a hash of what differs from it, and a digest of the workers' sources.

Rows carry both, so that two results can be told apart that were computed by different code.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from orchestrator.backends.submissions import Submission, read_job
from orchestrator.errors import StorageError
from workers.files.code_digest import code_digest, digest_of
from workers.files.folder import SweepFolder

PROJECT: Final = Path(__file__).parents[2]


def provenance() -> dict[str, Any]:
    """The version of this code that planned the jobs."""
    versions = {"causalsweep": metadata.version("causalsweep"), "python": platform.python_version()}
    return {"git_sha": git_state(PROJECT), "code": code_digest(), "versions": versions}


def git_state(project: Path) -> str:
    """`SHA` of a checkout, `SHA+HASH` where files differ from the commit; empty where it is none."""
    if not (project / ".git").exists():
        return ""
    sha = _git(project, "rev-parse", "--short=12", "HEAD").strip()
    changed = _git(project, "status", "--porcelain=v1", "-z", "--no-renames", "--untracked-files=all", "--", "*.py")
    paths = [project / entry[3:] for entry in changed.split("\0") if entry]
    if not sha or not paths:
        return sha
    gone = "".join(f"{path}\n" for path in paths if not path.is_file())
    there = digest_of(project, [path for path in paths if path.is_file()])
    return f"{sha}+{there[:8]}" + ("-" if gone else "")


def _git(project: Path, *words: str) -> str:
    try:
        return subprocess.run(["git", "-C", str(project), *words], capture_output=True, text=True, check=False).stdout
    except OSError:  # no git here
        return ""


def changed_since(folder: SweepFolder, known: Iterable[Submission]) -> str:
    """What to say where the last submission's jobs were planned by other code; empty where they were not, or nobody
    can tell."""
    before = [submission for submission in known if submission.jobs]
    if not before:
        return ""
    try:
        noted = read_job(folder, before[-1].jobs[0]).provenance
    except StorageError:
        return ""
    old, new = noted.get("code"), code_digest()
    if old in (None, new):
        return ""
    was, now = noted.get("git_sha") or "no checkout", git_state(PROJECT) or "no checkout"
    return (
        f"the code has changed since submission r{before[-1].number}: {old} ({was}) then, {new} ({now}) now; rows say "
        "in `versions` which of them made them"
    )
