"""What prompts of unequal length cost, beside prompts of equal length with as many tokens, in one run.

    python benchmarks/unequal.py                     # SmolLM2-135M after `make real-model`, else a Llama of its shape
    python benchmarks/unequal.py --setting tiny      # seconds only, to try the program

Four templates of 14, 17, 19 and 22 tokens, against one of 18: 48 pairs each. A position in the middle lies at half of
each prompt. Measured are `interchange`, with its controls, and a training step of `boundless_das`.
The two take turns, and processor seconds are compared. Tokens are arbitrary: they do not change the work.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from stepping import time_fit
from transformers import AutoModelForCausalLM, LlamaConfig

from workers.data.pairs import PairSet
from workers.data.token_ids import Prompts
from workers.engine.model import LanguageModel, load_model, wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.job import JobCell
from workers.files.place import Place
from workers.job.evaluate import count_right
from workers.methods.alignment import CellFacts, Column, WholeVector
from workers.methods.base import to_device

SMOLLM2: Final = Path(__file__).parents[1] / "examples" / "smollm2" / "model"
UNEQUAL: Final = (14, 17, 19, 22)
EQUAL: Final = (18,)
MIDDLE, LAST = 0, 1  # the points of each prompt
SIZES: Final[Mapping[str, Mapping[str, int]]] = {
    "smollm2": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 200,
    },
}


def model_of(setting: str) -> tuple[LanguageModel, str]:
    """SmolLM2 where it was built, else a random Llama; and which of them."""
    if setting == "smollm2" and SMOLLM2.exists():
        return load_model(SMOLLM2, dtype="float32", device=torch.device("cpu")), "SmolLM2-135M-Instruct"
    torch.manual_seed(0)
    config = LlamaConfig(**SIZES[setting], max_position_embeddings=128)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return wrap_model(model), f"a random Llama ({setting})"


def pairs_of(lengths: Sequence[int], n_pairs: int, vocab_size: int, *, indexed: bool = False) -> PairSet:
    """Arbitrary prompts whose lengths are these in turn, with a point at half of each and one at its last token, or, if
    `indexed`, one at each token."""
    rng = np.random.default_rng(0)

    def prompts(length_B: Sequence[int]) -> Prompts:
        rows = [rng.integers(3, vocab_size, length).tolist() for length in length_B]
        return Prompts.of_rows(rows, None if indexed else np.array([[n // 2, n - 1] for n in length_B]))

    length_B = [lengths[index % len(lengths)] for index in range(n_pairs)]
    return PairSet(
        base=prompts(length_B),
        source=prompts(rng.permutation(length_B).tolist()),
        label_B=rng.integers(3, 5, n_pairs),
        variable_B=np.zeros(n_pairs, dtype=np.int64),
        value_B=np.zeros(n_pairs),
    )


def interchange(model: LanguageModel, pairs: PairSet, places: Sequence[Place]) -> Callable[[], None]:
    """The evaluation of `interchange` at these places of one position."""
    cells = tuple(JobCell(key=f"{place.layer}", place=place, token="") for place in places)
    facts = (CellFacts(),) * len(cells)
    column = Column(position=places[0].position, cells=cells, learned=WholeVector(), facts=facts)

    def run() -> None:
        engine = SuffixEngine(model, places=places)
        count_right(engine, [column], to_device(pairs.by_length(), model.device), micro_batch=64)

    return run


def training(model: LanguageModel, pairs: PairSet, places: Sequence[Place]) -> Callable[[], None]:
    """A step of `boundless_das` at these places."""

    def run() -> None:
        time_fit(model, pairs, places, "suffix", batch_size=len(pairs))

    return run


def cpu_s(run: Callable[[], None]) -> float:
    """Processor seconds of a call."""
    started = time.process_time()
    run()
    return time.process_time() - started


def main() -> int:
    """0; the table on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SIZES, default="smollm2")
    parser.add_argument("--rounds", type=int, default=2, help="how often the two take turns, after one that warms up")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, name = model_of(options.setting)
    n_pairs, vocab_size = 48, SIZES[options.setting]["vocab_size"]
    layers = range(model.n_layers)
    trained = layers[1 :: model.n_layers // 4][:4]
    tried = {
        "interchange, all layers, last": (interchange, LAST, layers),
        "interchange, all layers, middle": (interchange, MIDDLE, layers),
        "interchange, one layer, last": (interchange, LAST, layers[len(layers) // 2 :][:1]),
        "boundless_das, 4 layers, last": (training, LAST, trained),
        "boundless_das, 4 layers, middle": (training, MIDDLE, trained),
    }
    sys.stdout.write(f"{name}, {n_pairs} pairs, one thread\n{'':34}{'unequal s':>12}{'equal s':>10}{'ratio':>8}\n")
    unequal, equal = (pairs_of(lengths, n_pairs, vocab_size) for lengths in (UNEQUAL, EQUAL))
    for what, (make, point, some) in tried.items():
        places = [Place(layer=layer, position=point) for layer in some]
        runs = [make(model, pairs, places) for pairs in (unequal, equal)]
        runs[0]()
        found = np.array([[cpu_s(run) for run in runs] for _ in range(options.rounds)])
        ratio = np.median(found[:, 0] / found[:, 1])
        seconds = "".join(
            f"{value:{width}.2f}" for value, width in zip(np.median(found, axis=0), (12, 10), strict=True)
        )
        sys.stdout.write(f"{what:34}{seconds}{ratio:8.2f}\n")
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
