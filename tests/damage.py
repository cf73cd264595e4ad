"""Every file of a sweep's folder damaged in every way, and what each command makes of it.

    python -m tests.damage                 every file, every damage, every command; the table of exit codes
    python -m tests.damage --seed 7        other bits flipped
    python -m tests.damage --cases 60      a seeded choice of N cases, as in the unit tests
    python -m tests.damage --writing       the commands that write (tests/damage_writing.py) in place of those that read

After a damage each command must end with 0, 1 or 2 and without a traceback. Where it refuses, it names the file that is
damaged. It changes no other file but what it may write (`store/`, `report/`), and it shows no row that differs from
what was measured.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import random
import re
import shutil
import sys
import tempfile
import traceback
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from orchestrator.backends.submissions import SUBMISSION_FORMAT
from tests.earlier import SWEEPS, copied
from workers.files.folder import SweepFolder
from workers.files.gather import Shards
from workers.files.job import Job
from workers.files.progress import PROGRESS_FORMAT
from workers.files.shard import read_shard, shard_bytes
from workers.methods.checkpoint import Checkpoint, CheckpointFile

READING: Final = ("status", "check", "results", "summary", "errors", "query", "logs", "plan", "explain", "fsck")
_ARGUMENTS: Final[Mapping[str, tuple[str, ...]]] = {
    "results": ("--format", "json"),
    "query": ("SELECT count(*) AS n FROM results",),
    "explain": ("--where", "layer=0..99"),
}
_MAY_WRITE: Final = ("store/", "report/")
_NEWER: Final = "99"


# Damages ------------------------------------------------------------------------------------------------------------


def _deleted(path: Path, _random: random.Random) -> None:
    path.unlink()


def _emptied(path: Path, _random: random.Random) -> None:
    path.write_bytes(b"")


def _cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def _zeroed(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = chance.randrange(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def _flipped(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def _a_folder(path: Path, _random: random.Random) -> None:
    path.unlink()
    path.mkdir()


def _of_a_newer_version(path: Path, _random: random.Random) -> None:
    if path.suffix == ".json":
        raw = json.loads(path.read_bytes())
        path.write_text(json.dumps({**raw, "schema": int(_NEWER), "version": int(_NEWER), "more": 1}))
    elif path.suffix == ".parquet":
        table = pq.read_table(path)
        notes = {**(table.schema.metadata or {}), b"schema_version": _NEWER.encode()}
        more = pa.repeat(pa.scalar(1), table.num_rows)
        pq.write_table(table.append_column("more", more).replace_schema_metadata(notes), path)
    elif path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            notes = {**(file.metadata() or {}), "version": _NEWER}
        save_file(load_file(path), path, metadata=notes)
    else:
        path.write_text(path.read_text(encoding="utf-8") + "more: 1\n", encoding="utf-8")


def _beside_a_stray(path: Path, _random: random.Random) -> None:
    path.with_name(f"{path.stem} (conflicted copy){path.suffix}").write_bytes(path.read_bytes()[:-1])
    path.with_name(f"notes{path.suffix}").write_bytes(b"{}")
    path.with_name(f".nfs0000{path.suffix}").write_bytes(b"")
    (path.parent / f"r9-0001-0001{path.suffix}").mkdir(exist_ok=True)


DAMAGES: Final[Mapping[str, Callable[[Path, random.Random], None]]] = {
    "deleted": _deleted,
    "emptied": _emptied,
    "cut": _cut,
    "zeroed": _zeroed,
    "bit flipped": _flipped,
    "a folder": _a_folder,
    "newer version": _of_a_newer_version,
    "beside a stray": _beside_a_stray,
}
_DRAWN: Final = frozenset({"cut", "zeroed", "bit flipped"})  # worth several tries


# Sweeps -------------------------------------------------------------------------------------------------------------


def as_of_this_version(root: Path) -> None:
    """Write the files of the sweep in `root` as this version writes them: versions, checksums, columns."""
    folder = SweepFolder(root)
    folder.make()
    for path in folder.shards.glob("*.parquet"):
        table = read_shard(path)
        assert isinstance(table, pa.Table)
        path.write_bytes(shard_bytes(table, {}))
    for path in folder.jobs.glob("*.json"):
        path.write_text(Job.load(path).to_json(), encoding="utf-8")
    for file_format, files in ((SUBMISSION_FORMAT, folder.submissions), (PROGRESS_FORMAT, folder.progress)):
        for path in files.glob("*.json"):
            path.write_text(file_format.text(file_format.read(path)), encoding="utf-8")
    for path in folder.checkpoints.glob("*.safetensors"):
        cohort, _, attempt = path.stem.partition(".")
        with safe_open(path, framework="pt") as file:
            step = int(file.metadata()["step"])
        CheckpointFile(folder.checkpoints, cohort, attempt).write(Checkpoint(step=step, tensors=load_file(path)))
    if any(folder.shards.iterdir()):
        Shards(folder).gather()


def sweeps(target: Path) -> Iterator[Path]:
    """A finished and a cancelled sweep, each as this version and as an earlier one wrote it."""
    for sweep in SWEEPS:
        yield copied(sweep, target / "earlier")
        now = copied(sweep, target / "now")
        as_of_this_version(now)
        yield now


# Trying -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One damage of one file."""

    sweep: Path
    file: str  # relative to the sweep's folder
    damage: str
    seed: int

    @property
    def kind(self) -> str:
        """Which of the sweep's files it is, for the table."""
        name = re.sub(r"[0-9a-f]{24,}|[a-z]+-r\d+-[0-9a-f]{8}|r\d+-\d{4}(-\d{4})?|\br\d+\b", "*", self.file)
        return name.replace("/45/", "/*/").replace("/9d/", "/*/")


@dataclass(slots=True)
class Outcome:
    """What the commands made of a case."""

    codes: dict[str, int | str] = field(default_factory=dict)  # by command; the error's name where it fell
    faults: list[str] = field(default_factory=list)  # what must not be


def cases(root: Path, seed: int, n_tries: int) -> list[Case]:
    """Every damage of every file of the sweeps in `root`, those that are drawn `n_tries` times."""
    found = []
    for sweep in sweeps(root):
        for path in sorted(path for path in sweep.rglob("*") if path.is_file()):
            for damage in DAMAGES:
                for number in range(n_tries if damage in _DRAWN else 1):
                    file = str(path.relative_to(sweep))
                    found.append(Case(sweep=sweep, file=file, damage=damage, seed=seed + number))
    return found


def run(arguments: Sequence[str]) -> tuple[int | str, str, str]:
    """Exit code (or what fell), standard output and standard error of a command, run in this process."""
    from orchestrator.cli import main

    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.StringIO()
    before, sys.argv = sys.argv, ["causalsweep", *arguments]
    code: int | str = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(bool(ended.code))
    except BaseException as error:
        code = type(error).__name__
        err.write("".join(traceback.format_exception(error)))
    finally:
        sys.argv = before
    out.flush()
    return code, out.buffer.getvalue().decode(), err.getvalue()  # type: ignore[attr-defined]


def rows_of(sweep: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """The rows that `results` shows, by cell key and setting."""
    code, out, err = run(["results", str(sweep), "--format", "json"])
    assert code == 0, err
    return {(row["cell_key"], row["setting"]): row for row in json.loads(out)}


def tried(case: Case, target: Path, commands: Sequence[str], rows: Mapping[tuple[str, str], Any]) -> Outcome:
    """The outcome of a case on a copy of its sweep in `target`; `rows` is what was measured."""
    sweep = target / case.sweep.name
    shutil.copytree(case.sweep, sweep)
    path = sweep / case.file
    outcome = Outcome()
    with contextlib.suppress(ValueError, SafetensorError, TypeError):  # an empty file has no bit to flip, no version
        DAMAGES[case.damage](path, random.Random(f"{case.file} {case.damage} {case.seed}"))
    before = _contents(sweep)
    for command in commands:
        code, out, err = run([command, str(sweep), *_ARGUMENTS.get(command, ())])
        outcome.codes[command] = code
        _judge(case, command, code, out, err, rows, outcome)
    after = _contents(sweep)
    lost = [name for name in before if after.get(name) != before[name] and not name.startswith(_MAY_WRITE)]
    outcome.faults += [f"changed {name}" for name in lost]
    shutil.rmtree(target)
    return outcome


def _judge(
    case: Case,
    command: str,
    code: int | str,
    out: str,
    err: str,
    rows: Mapping[tuple[str, str], Any],
    outcome: Outcome,
) -> None:
    if code not in (0, 1, 2):
        outcome.faults.append(f"{command}: {code}\n{err}")
    elif "Traceback" in out + err:
        outcome.faults.append(f"{command}: a traceback\n{out}{err}")
    elif code == 2 and Path(case.file).name not in err and case.sweep.name not in err:
        outcome.faults.append(f"{command}: the error does not name the file:\n{err}")
    elif command == "results" and code == 0:
        for row in json.loads(out):
            if rows.get((row["cell_key"], row["setting"])) != row:
                outcome.faults.append(f"results: a row that nobody measured: {row}")


def _contents(sweep: Path) -> dict[str, bytes]:
    files = (path for path in sweep.rglob("*") if path.is_file())
    return {str(path.relative_to(sweep)): path.read_bytes() for path in files}


def campaign(root: Path, chosen: Sequence[Case], commands: Sequence[str]) -> Iterator[tuple[Case, Outcome]]:
    """Each case with its outcome."""
    rows: dict[Path, Mapping[tuple[str, str], Any]] = {}
    for number, case in enumerate(chosen):
        if case.sweep not in rows:
            rows[case.sweep] = rows_of(Path(shutil.copytree(case.sweep, root / "whole" / str(len(rows)))))
        yield case, tried(case, root / "tried" / str(number), commands, rows[case.sweep])


def main() -> int:
    """Run the campaign and print its table; 1 where something must not be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tries", type=int, default=5, help="of each damage that is drawn: cut, zeroed, bit flipped")
    parser.add_argument("--cases", type=int, default=0, help="a seeded choice of this number; 0: all")
    parser.add_argument("--writing", action="store_true", help="the commands that write")
    parser.add_argument("--report", action="store_true", help="`report` too, which takes seconds a case")
    options = parser.parse_args()
    os.environ.setdefault("COLUMNS", "200")
    commands = (*READING, "report") if options.report else READING
    table: defaultdict[str, Counter[str]] = defaultdict(Counter)
    n_faults = n_cases = n_commands = 0
    with tempfile.TemporaryDirectory() as folder:
        for case, outcome in _chosen(Path(folder), options, commands):
            n_cases += 1
            n_commands += len(outcome.codes)
            table[case.kind].update([case.damage, *(f"exit {code}" for code in outcome.codes.values())])
            for fault in outcome.faults:
                n_faults += 1
                print(f"{case.sweep.parent.name}/{case.file}, {case.damage} ({case.seed}): {fault}", flush=True)
    columns = [*DAMAGES, "exit 0", "exit 1", "exit 2"]
    print(" | ".join(["file", *columns]))
    for kind, counts in sorted(table.items()):
        print(" | ".join([kind, *(str(counts[name]) for name in columns)]))
    print(f"{n_cases} cases, {n_commands} commands, {n_faults} faults")
    return int(bool(n_faults))


def _chosen(root: Path, options: argparse.Namespace, commands: Sequence[str]) -> Iterator[tuple[Case, Outcome]]:
    """The cases of the command line, with their outcomes."""
    if options.writing:
        from tests.damage_writing import writing_campaign  # which imports this module

        yield from writing_campaign(root, seed=options.seed, n_cases=options.cases)
        return
    chosen = cases(root, options.seed, options.tries)
    if options.cases:
        chosen = random.Random(options.seed).sample(chosen, options.cases)
    yield from campaign(root, chosen, commands)


if __name__ == "__main__":
    sys.exit(main())
