"""Tables of the command line: they fit the terminal, and no number is cut."""

from __future__ import annotations

import json
import math
import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from orchestrator.cli.tables import NO_LIMIT, Layout, formatted, latex, markdown, table, text_of
from tests.unit.orchestrator.conftest import LoadSweep
from tests.unit.orchestrator.fake_cluster import World, finish, jobs_of, write_shard

WIDTHS = [60, 80, 120, 200]
FRAME = pd.DataFrame(
    {
        "experiment": ["left_boundary", "left_and_right_boundary"],
        "method": ["boundless_das"] * 2,
        "layer": [12, 3],
        "iia": [0.8125, 0.5],
        "loss": [0.012345, 1234.5],
    }
)


def numbers(lines: list[str]) -> set[str]:
    """The numbers that lines show, as they are written."""
    return set(re.findall(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e[+-]\d+)?(?![\w.])", "\n".join(lines)))


@pytest.mark.parametrize("width", [20, 30, 40, 60, 80])
def test_no_line_is_wider_and_no_number_is_cut(width: int) -> None:
    """At any width every number of the columns that are shown is there, whole."""
    lines = table(FRAME, width=width)
    assert max(map(len, lines)) <= width
    assert {"12", "3", "0.8125", "0.5000", "0.0123", "1234.5000"} <= numbers(lines)


def test_what_all_rows_share_goes_to_the_head_line() -> None:
    """A column of one value is named once; with one row nothing moves."""
    layout = Layout(shareable=("experiment", "method"))
    first, empty, header, *rows = table(FRAME, width=80, layout=layout)
    assert (first, empty) == ("method boundless_das", "")
    assert "method" not in header
    assert len(rows) == 2
    assert "method" in table(FRAME.head(1), width=80, layout=layout)[0].split()


def test_secondary_columns_give_way_and_are_named() -> None:
    """Without room a secondary column is left out, and the last line says how to see it; --wide shows it."""
    layout = Layout(secondary=("method", "loss"))
    *_, last = lines = table(FRAME, width=50, layout=layout)
    assert last == "--wide shows also: method, loss"
    assert "0.0123" not in "\n".join(lines)
    wide = table(FRAME, width=50, layout=layout, wide=True)
    assert len(wide) == 3
    assert "0.0123" in wide[1]


def test_columns_that_do_not_fit_are_stacked() -> None:
    """A row takes several lines, and its header as many."""
    lines = table(FRAME[["experiment", "layer", "iia"]], width=28)
    assert lines[0].split() == ["experiment"]
    assert lines[1].split() == ["layer", "iia"]
    assert lines[4].split() == ["left_and_right_boundary"]
    assert lines[5].split() == ["3", "0.5000"]


def test_many_columns_become_names_and_values() -> None:
    """A row of too many columns is a list."""
    frame = pd.DataFrame([{f"a_long_name_{index}": index / 7 for index in range(12)}])
    lines = table(frame, width=40)
    assert len(lines) == 12
    assert lines[3].split() == ["a_long_name_3", "0.4286"]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, ""),
        (math.nan, ""),
        (pd.NA, ""),
        (pd.NaT, ""),
        (0.0, "0.0000"),
        (0.99996, "1.0000"),
        (-0.25, "-0.2500"),
        (3.2e-9, "3.20e-09"),
        (12345678, "12345678"),
        (math.inf, "inf"),
        (True, "yes"),
        ("a\nb", "a\\nb"),
        (["P", "Q"], "['P', 'Q']"),
    ],
)
def test_a_value_for_people(value: Any, said: str) -> None:
    """Absent values are empty, small numbers never 0, and nothing breaks a line."""
    assert text_of(value) == said


def test_arrays_and_absent_numbers_are_shown() -> None:
    """What DuckDB and pandas put into a frame has a line too: arrays, and whole numbers beside none."""
    frame = pd.DataFrame({"unit": pd.array([1, None], dtype="Int64"), "dims": [[0.5, 0.25], [1.0]]})
    assert [line.split(maxsplit=1) for line in table(frame, width=80)[1:]] == [["1", "[0.5, 0.25]"], ["[1.0]"]]


def test_documents_escape_what_is_special() -> None:
    """LaTeX and Markdown hold the same cells; what would break them is escaped."""
    frame = formatted(pd.DataFrame({"a_b": ["50% | x"], "iia": [0.8125], "nothing": [None]}), Layout())
    assert markdown(frame) == "| a_b | iia |\n| --- | --: |\n| 50% \\| x | 0.8125 |\n"
    lines = latex(frame).splitlines()
    assert lines[0] == r"\begin{tabular}{lr}"
    assert r"a\_b & iia \\" in lines
    assert r"50\% | x & 0.8125 \\" in lines


@pytest.fixture
def finished(load: LoadSweep, world: World, tmp_path: Path) -> Path:
    """A folder with a sweep of eight cells that are done."""
    load().submit()
    for number, job in enumerate(jobs_of(load())):
        finish(world, job)
        controls = {"n_correct_none": 61 + number, "n_correct_full": 73, "n_correct_random": 58 - number}
        write_shard(job, metric="iia", **controls)
    return tmp_path


# Runs the commands in a terminal of each width in turn.
IN_TERMINALS = f"""
import fcntl, struct, sys, termios
from orchestrator.cli import main
for width in {WIDTHS}:
    fcntl.ioctl(1, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
    for words in (["results"], ["summary"], ["query", "SELECT * FROM results LIMIT 1"], ["query",
                  "SELECT experiment, layer, position, iia, iia_none, iia_full, iia_random FROM results"]):
        print(f"=== {{width}}", flush=True)
        sys.argv = ["causalsweep", words[0], "small", *words[1:]]
        try:
            main()
        except SystemExit as end:
            assert not end.code
"""


def in_terminal(folder: Path, code: str, **variables: str) -> str:
    """What a program prints to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR")}
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=theirs, stderr=theirs, cwd=folder, env=environment | variables
    ) as program:
        os.close(theirs)
        parts: list[bytes] = []
        try:
            while part := os.read(ours, 65536):
                parts.append(part)
        except OSError:  # the program has closed its end
            pass
        assert program.wait() == 0, b"".join(parts).decode()
    os.close(ours)
    return b"".join(parts).decode().replace("\r\n", "\n")


def test_every_table_fits_the_terminal(finished: Path) -> None:
    """results, summary and query at 60, 80, 120 and 200 columns: no line is wider, and each rate is whole."""
    said = in_terminal(finished, IN_TERMINALS, NO_COLOR="1")
    assert "\x1b" not in said
    blocks = [block.split("\n", 1) for block in said.split("=== ")[1:]]
    assert [int(width) for width, _ in blocks] == [width for width in WIDTHS for _ in range(4)]
    for width, text in blocks:
        assert max(map(len, text.splitlines())) <= int(width), text
    rates = [numbers(text.splitlines()) for _, text in blocks[3::4]]
    assert all(found == rates[0] for found in rates)
    assert {"0.7000", "0.6100", "0.6200", "0.7300", "0.5800", "0.5700"} <= rates[0]


def test_letters_that_the_terminal_lacks_are_written_as_numbers(finished: Path) -> None:
    """With Windows' cp1252 a token's mark is no traceback; a document stays UTF-8."""
    command = [
        sys.executable,
        "-m",
        "orchestrator",
        "query",
        "small",
        "SELECT '\u2581Response' AS token, 0.8125 AS iia",
    ]
    environment = os.environ | {"PYTHONIOENCODING": "cp1252"}
    ended = subprocess.run(command, cwd=finished, env=environment, capture_output=True, check=True)
    assert ended.stdout.decode("cp1252").split() == ["token", "iia", "\\u2581Response", "0.8125"]
    ended = subprocess.run(
        [*command, "--format", "csv"], cwd=finished, env=environment, capture_output=True, check=True
    )
    assert ended.stdout.decode("utf-8") == "token,iia\n\u2581Response,0.8125\n"


def test_rows_are_sorted_and_cut(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--sort with a minus begins with the highest, --limit ends early; an unknown column is named."""
    from orchestrator import cli

    monkeypatch.chdir(finished)

    def printed(*words: str, code: int = 0) -> str:
        monkeypatch.setattr(sys, "argv", ["causalsweep", "results", "small", *words])
        with pytest.raises(SystemExit) as end:
            cli.main()
        assert end.value.code == code
        return "".join(capsys.readouterr())

    rows = json.loads(printed("--sort", "-layer,position", "--limit", "3", "--json"))
    assert [(row["layer"], row["position"]) for row in rows] == [(1, 80), (1, 80), (1, 81)]
    assert "--sort: got 'ia'; no such column; did you mean `iia`?" in printed("--sort", "ia", code=2)


def test_controls_are_shares_of_the_rows(finished: Path, load: LoadSweep) -> None:
    """The controls are columns of the results and of the SQL view: their counts over the pairs."""
    frame = load().results()
    for name in ("none", "full", "random"):
        expected = frame[f"n_correct_{name}"] / frame["n_total"]
        assert frame[f"iia_{name}"].tolist() == expected.tolist()
    sql = "SELECT iia_none, iia_random, iia_full FROM results ORDER BY cell_key"
    columns = ["iia_none", "iia_random", "iia_full"]
    assert load().query(sql).equals(frame.sort_values("cell_key")[columns].reset_index(drop=True))


def test_a_pipe_has_no_width() -> None:
    """Without a terminal each row is one line, with every column."""
    lines = table(FRAME, width=NO_LIMIT, layout=Layout(secondary=("loss",)))
    assert len(lines) == 3
    assert "loss" in lines[0]
