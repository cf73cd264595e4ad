"""The engine on a real model beside its peers: pyvene 0.1.8 and plain hooks, a cell at a time, in one run.

    python benchmarks/real.py                        # SmolLM2-135M after `make real-model`, else a Llama of its shape
    python benchmarks/real.py --setting tiny         # seconds only, to try the program

24 pairs of 18 tokens, float32. `interchange` over layers and positions, without controls; training steps of `das` and
`boundless_das` at every layer of one position. What a peer's cell costs hardly depends on where it is for
`interchange`, and on the layer alone in training: a few layers are measured, and the mean over the grid's layers is by
interpolation. The three take turns, and processor seconds are compared.

Beside each ratio is the one that an operation count allows: the peer's operations over the engine's, of the blocks and
the head, 2 for a weight and token forward and as many for the gradient. Both peers run the head for every token. The
rotations of training are left out of the count. The share is that of the ratio to plain hooks.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
from stepping import Point, block_outputs, by_pyvene, median_of, swap_by_pyvene, time_fit, time_pyvene
from unequal import SIZES, cpu_s, model_of, pairs_of

from workers.data.pairs import PairSet
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.job.measures import Question, Tally
from workers.methods.base import to_device

N_TOKENS: Final = 18
N_PAIRS: Final = 24
POSITIONS: Final = (5, 9, 12, 17)
MEASURED: Final = 3  # layers at which a peer is measured


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A grid, and how often a token goes through a block for one forward: 1 in evaluation, 2 with the gradient."""

    name: str
    method: str
    layers: Sequence[int]
    positions: Sequence[int]

    @property
    def points(self) -> list[Point]:
        """Every cell."""
        return [(layer, position) for position in self.positions for layer in self.layers]

    @property
    def some_points(self) -> list[Point]:
        """The cells that the peers are measured at: the first, a middle and the last layer."""
        at = sorted({round(share * (len(self.layers) - 1)) for share in np.linspace(0, 1, MEASURED)})
        return [(self.layers[index], self.positions[-1]) for index in at]


def cases(n_layers: int) -> list[Case]:
    """From one cell to the whole grid."""
    every, middle = range(n_layers), n_layers // 2
    some: Mapping[str, Sequence[int]] = {
        "1 layer": [middle],
        "2 layers": [middle, middle + 1],
        "5 layers": every[:: max(1, n_layers // 5)][:5],
        "all layers": every,
    }
    found = [
        Case(name=f"interchange, {name} x {len(at)}", method="interchange", layers=layers, positions=at)
        for at in (POSITIONS[-1:], POSITIONS)
        for name, layers in some.items()
    ]
    return found + [
        Case(name=f"{method}, all layers x 1", method=method, layers=every, positions=POSITIONS[-1:])
        for method in ("das", "boundless_das")
    ]


def engine_s(model: LanguageModel, pairs: PairSet, case: Case) -> float:
    """Processor seconds of all cells of the grid, of a step where they learn."""
    if case.method == "interchange":
        return cpu_s(lambda: swap_all(model, pairs, case))
    fitted = time_fit(model, pairs, block_outputs(case.points), "suffix", batch_size=N_PAIRS, method=case.method)
    return median_of(fitted.clock.measured, "cpu_s")


@torch.no_grad()
def swap_all(model: LanguageModel, pairs: PairSet, case: Case) -> None:
    """What the source's vector makes the model say, at every place."""
    batch = to_device(pairs, model.device)
    groups = [[Place(layer=layer, position=at) for layer in case.layers] for at in case.positions]
    forward = SuffixEngine(model, places=[place for some in groups for place in some]).forward(batch.base, batch.source)
    for places in groups:
        forward.intervene(places, lambda _base, source: source).argmax(dim=-1)


@torch.no_grad()
def swap_by_hooks(model: LanguageModel, pairs: PairSet, point: Point) -> None:
    """The same for one cell, by plain hooks on the whole model."""
    batch, place = to_device(pairs, model.device), Place(layer=point[0], position=point[1])
    forward = ReferenceEngine(model).forward(batch.base, batch.source)
    forward.intervene([place], lambda _base, source: source).argmax(dim=-1)


def peers(method: str) -> dict[str, Callable[[LanguageModel, PairSet, Point], float]]:
    """Processor seconds of one cell by each peer."""
    if method == "interchange":
        return {
            "hooks": lambda model, pairs, point: cpu_s(lambda: swap_by_hooks(model, pairs, point)),
            "pyvene": lambda model, pairs, point: cpu_s(lambda: swap_by_pyvene(model, pairs, point)),
        }

    def by_hooks(model: LanguageModel, pairs: PairSet, point: Point) -> float:
        fitted = time_fit(model, pairs, block_outputs([point]), "reference", batch_size=N_PAIRS, method=method)
        return median_of(fitted.clock.measured, "cpu_s")

    def by_pyvene(model: LanguageModel, pairs: PairSet, point: Point) -> float:
        return median_of(time_pyvene(model, pairs, point, batch_size=N_PAIRS, method=method).measured, "cpu_s")

    return {"hooks": by_hooks, "pyvene": by_pyvene}


def operations(model: LanguageModel, case: Case) -> tuple[float, float]:
    """Operations a pair and step, of a peer's cells and of the engine's, of blocks and head."""
    n_layers, config = model.n_layers, model.model.config
    block = sum(weight.numel() for weight in model.blocks[0].parameters())
    head = config.vocab_size * config.hidden_size
    size = config.hidden_size // config.num_attention_heads
    keys_values = 2 * config.hidden_size * config.num_key_value_heads * size
    again = 1 if case.method == "interchange" else 2  # with the gradient of what comes behind the intervention
    peer = engine = 0.0
    for layer, position in case.points:
        n_after, n_tokens = n_layers - 1 - layer, N_TOKENS - position
        peer += 2 * N_TOKENS * (n_layers * block + head)  # base and source
        peer += (again - 1) * N_TOKENS * (n_after * block + head)
        tail = (n_after - 1) * n_tokens * block + n_tokens * keys_values + block - keys_values if n_after else 0
        engine += again * (tail + head)
    engine += N_TOKENS * (n_layers + max(case.layers) + 1) * block + 2 * head
    return 2 * peer, 2 * engine


@torch.no_grad()
def evaluation_s(model: LanguageModel, pairs: PairSet) -> dict[str, float]:
    """Processor seconds of the parts of an evaluation of `interchange` at every layer of the last token."""
    own_answers = replace(pairs, base_answer_B=pairs.label_B + 1, source_answer_B=pairs.label_B)
    batch = to_device(own_answers, model.device)
    places = [Place(layer=layer, position=N_TOKENS - 1) for layer in range(model.n_layers)]
    marks = [time.process_time()]
    forward = SuffixEngine(model, places=places).forward(batch.base, batch.source)
    marks.append(time.process_time())
    logits_CMV = forward.intervene(places, lambda _base, source: source)
    marks.append(time.process_time())
    Tally().add(Question.of(batch, forward.base_logits()), logits_CMV)
    marks.append(time.process_time())
    return dict(zip(("shared forward", "tails", "measures"), np.diff(marks).tolist(), strict=True))


def main() -> int:
    """0; the table on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--setting", choices=SIZES, default="smollm2")
    parser.add_argument("--rounds", type=int, default=2, help="how often the three take turns")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model, name = model_of(options.setting)
    by_pyvene(model, 0, "interchange")  # imports it
    vocab_size = model.model.config.vocab_size
    columns = "".join(f"{what:>12}" for what in ("s a cell", "hooks", "pyvene", "allowed", "share"))
    sys.stdout.write(f"{name}, {N_PAIRS} pairs of {N_TOKENS} tokens, one thread; times slower\n{'':34}{columns}\n")
    for case in cases(model.n_layers):
        n_steps = 1 if case.method == "interchange" else 3  # one warms up
        pairs = pairs_of((N_TOKENS,), N_PAIRS * n_steps, vocab_size, indexed=True)
        ratios: dict[str, list[float]] = {"hooks": [], "pyvene": []}
        own = []
        for _ in range(options.rounds):
            own.append(engine_s(model, pairs, case) / len(case.points))
            for peer, seconds in peers(case.method).items():
                found = [seconds(model, pairs, point) for point in case.some_points]
                mean = np.interp(case.layers, [layer for layer, _ in case.some_points], found).mean()
                ratios[peer].append(float(mean) / own[-1])
        of_peer, of_engine = operations(model, case)
        medians = {peer: float(np.median(found)) for peer, found in ratios.items()}
        allowed = of_peer / of_engine
        figures = f"{np.median(own):12.3f}{medians['hooks']:12.1f}{medians['pyvene']:12.1f}{allowed:12.1f}"
        sys.stdout.write(f"{case.name:34}{figures}{medians['hooks'] / allowed:12.0%}\n")
        sys.stdout.flush()
    pairs = pairs_of((N_TOKENS,), 2 * N_PAIRS, vocab_size, indexed=True)
    parts = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in evaluation_s(model, pairs).items())
    sys.stdout.write(f"evaluation of {len(pairs)} pairs, interchange, all layers x 1, last token: {parts}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
