"""A million pairs from a file: how long a plan takes, and how much memory.

    python benchmarks/pairs.py                       # 1,000,000 rows
    python benchmarks/pairs.py --rows 10000

The rows are indirect objects in JSON Lines, with a position, both answers and a split by hash; the tokenizer is a
byte-level BPE, as GPT-2's and Llama 3's are, trained here on the rows' own words.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

NAMES = ("Anna", "Jack", "John", "Mary", "Paul", "Tom", "Rita", "Bob")
PLACES = ("store", "old town hall", "park", "station", "school by the river")
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "vocab_size": 2_000,
}
SPEC = """name: million
model: {path: model, dtype: float32}
task: {name: pairs, file: pairs.jsonl}
grid: {experiments: [pairs], layers: all, positions: [verb, last]}
"""


def prompt(rng: random.Random, number: int) -> tuple[str, str]:
    """A prompt that no other row has, and its answer."""
    first, second = rng.sample(NAMES, 2)
    place = rng.choice(PLACES)
    return f"On day {number}, {first} and {second} went to the {place}, and {second} gave a drink to", f" {first}"


def write_files(folder: Path, n_rows: int) -> None:
    """A model's folder without weights, the spec and the file of pairs."""
    rng = random.Random(0)
    with open(folder / "pairs.jsonl", "w", encoding="utf-8") as stream:
        for number in range(n_rows):
            (base, answer), (source, other) = prompt(rng, number), prompt(rng, number + n_rows)
            positions = {"base": {"verb": base.index("gave")}, "source": {"verb": source.index("gave")}}
            row = {"base": base, "source": source, "label": other, "base_answer": answer, "source_answer": other}
            stream.write(json.dumps(row | {"positions": positions}) + "\n")
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(vocab_size=2_000, show_progress=False)
    tokenizer.train_from_iterator((prompt(rng, number)[0] for number in range(5_000)), trainer)
    tokenizer.save(str(folder / "model" / "tokenizer.json"))
    (folder / "spec.yaml").write_text(SPEC, encoding="utf-8")


def main() -> None:
    """Print what `causalsweep plan` took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    n_rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder, n_rows)
        size = (folder / "pairs.jsonl").stat().st_size
        started, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [
            sys.executable,
            "-m",
            "orchestrator",
            "plan",
            str(folder / "spec.yaml"),
            "--sweeps",
            str(folder / "s"),
        ]
        subprocess.run(command, check=True)
        wall_s, used = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
        cpu_s = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
        print(
            f"{n_rows:,} rows, {size / 1e6:.0f} MB: {wall_s:.1f} s, {cpu_s:.1f} s of CPU, {used.ru_maxrss / 1e6:.2f} GB"
        )


if __name__ == "__main__":
    main()
