"""Which code planned and ran: git's commit, what differs from it, and a digest of the workers' sources."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from orchestrator.jobs import provenance as module
from orchestrator.jobs.provenance import git_state, provenance
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, fail, job_of, jobs_of
from workers.files.code_digest import code_digest, digest_of
from workers.files.failure import FailureClass


def test_a_digest_is_of_names_and_contents(tmp_path: Path) -> None:
    """The same files in another order or folder have one digest; another byte or name has another."""
    for name, content in (("a.py", "x"), ("b.py", "y")):
        (tmp_path / name).write_text(content)
    files = [tmp_path / "a.py", tmp_path / "b.py"]
    digest = digest_of(tmp_path, files)
    assert re.fullmatch(r"[0-9a-f]{12}", digest)
    assert digest_of(tmp_path, files[::-1]) == digest
    (tmp_path / "b.py").write_text("z")
    assert digest_of(tmp_path, files) != digest


def test_jobs_carry_the_codes_digest(load: LoadSweep, world: World) -> None:
    """Each job file says which code planned it."""
    sweep = load()
    sweep.submit()
    assert {job.provenance["code"] for job in jobs_of(sweep)} == {code_digest()}
    assert provenance()["code"] == code_digest()


def test_changed_code_is_told_at_the_next_submission(
    load: LoadSweep, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows of both would be in one sweep: the receipt names both digests, and nothing is said of the same code."""
    sweep = load()
    assert sweep.submit().notes == ()
    fail(world, job_of(sweep, "r1-0001"), FailureClass.BAD_INPUT)
    monkeypatch.setattr(module, "code_digest", lambda: "0123456789ab")
    (note,) = sweep.resume().notes
    assert "the code has changed since submission r1" in note
    assert code_digest() in note
    assert "0123456789ab" in note
    fail(world, job_of(sweep, "r2-0001"), FailureClass.BAD_INPUT)
    assert sweep.resume().notes == ()


def test_a_checkout_that_differs_from_its_commit_says_so(tmp_path: Path) -> None:
    """A changed, a new and a removed file of Python each give another state; other files do not."""

    def git(*words: str) -> None:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True, capture_output=True)

    assert git_state(tmp_path) == ""
    git("init", "-q")
    (tmp_path / "a.py").write_text("x = 1\n")
    git("add", "-A")
    git("commit", "-qm", "one")
    clean = git_state(tmp_path)
    assert re.fullmatch(r"[0-9a-f]{12}", clean)
    (tmp_path / "notes.txt").write_text("n")
    assert git_state(tmp_path) == clean
    states = {clean}
    (tmp_path / "a.py").write_text("x = 2\n")
    states.add(git_state(tmp_path))
    (tmp_path / "b.py").write_text("y = 1\n")
    states.add(git_state(tmp_path))
    (tmp_path / "b.py").unlink()
    (tmp_path / "a.py").unlink()
    states.add(git_state(tmp_path))
    assert len(states) == 4
    assert all(state.startswith(clean) for state in states)
