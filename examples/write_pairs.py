"""Write `examples/pairs.csv`: 2,000 pairs of the arithmetic task, as a file of one's own would have them.

    python examples/write_pairs.py

Each pair asks what the model says when the sum a + b is the source's: the label is the last digit of that sum times the
base's factor. In half of the pairs this differs from the base's own answer.
"""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from pathlib import Path

from workers.tasks.arithmetic import Arithmetic

N_PAIRS = 2_000
COLUMNS = ("base", "source", "label", "base_answer", "source_answer")
TARGET = Path(__file__).with_name("pairs.csv")


def pairs(n_pairs: int = N_PAIRS, *, seed: int = 1) -> Iterator[dict[str, str]]:
    """The rows."""
    task, rng = Arithmetic(), random.Random(seed)
    model = task.hypotheses["add_first"].model
    for index in range(n_pairs):
        while True:
            base, source = task.sample(rng), task.sample(rng)
            label = model.interchange(base, {"S": source})["answer"]
            if (label != task.outcome(base)) == (index % 2 == 0):
                break
        values = (task.prompt(base), task.prompt(source), label, task.outcome(base), task.outcome(source))
        yield dict(zip(COLUMNS, map(str, values), strict=True))


def main() -> None:
    """Write the file."""
    with open(TARGET, "w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(pairs())


if __name__ == "__main__":
    main()
