"""What a training step of a 7B cohort asks of a GPU, counted without one: operations, bytes moved, kernels.

The shared forward and the tails of `engine.py`'s GPU setting run on simulated tensors: shapes and no numbers. Each
kernel counts for the longest of its operations at the rate of matrix products, its bytes at the memory's bandwidth, and
a launch. Nothing overlaps, no cache helps, and the steps of rotations and optimizer are left out: an estimate, for
finding what should not be there. `engine.py` measures.

    python benchmarks/roofline.py                                    # an H200's rates
    python benchmarks/roofline.py --tflops 250 --terabytes-s 1.8     # an A100's
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import torch
from engine import N_PREFIX, N_TOKENS, SETTINGS, Setting, n_operations
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from workers.engine.base import TokenBatch
from workers.engine.model import wrap_model
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.methods.rotation import TangentRotation

PRODUCTS: Final = ("mm", "bmm", "addmm", "baddbmm")
FLOAT32_SHARE: Final = 0.07  # share of bfloat16's rate, without tensor cores
VIEWS: Final = "alias as_strided detach expand permute select slice split t transpose unbind unsqueeze squeeze view"
ALLOCATIONS: Final = "empty empty_like empty_strided lift_fresh"
NO_KERNEL: Final = {*VIEWS.split(), *ALLOCATIONS.split(), "_reshape_alias", "_unsafe_view", "split_with_sizes"}


@dataclass(slots=True)
class Cost:
    """One kind of kernel."""

    seconds: float = 0.0
    kernels: int = 0
    n_bytes: int = 0
    n_operations: float = 0.0


class Counter(TorchDispatchMode):
    """Counts each kernel that is launched while it is open, by phase and name."""

    def __init__(self, *, flops: float, bytes_s: float, launch_s: float) -> None:
        super().__init__()
        self.flops, self.bytes_s, self.launch_s = flops, bytes_s, launch_s
        self.phase = ""
        self.costs: defaultdict[tuple[str, str], Cost] = defaultdict(Cost)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        space, name = func._schema.name.split("::")
        if space == "aten" and name not in NO_KERNEL:
            self._count(name, list(tensors_in((args, kwargs))), list(tensors_in(output)))
        return output

    def _count(self, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        n_bytes = sum(map(bytes_of, inputs + outputs))
        n_operations = 2.0 * inputs[-2].numel() * inputs[-1].shape[-1] if name in PRODUCTS else 0.0
        is_float32 = bool(inputs) and inputs[0].dtype == torch.float32
        flops = self.flops * FLOAT32_SHARE if is_float32 else self.flops
        cost = self.costs[self.phase, name]
        cost.seconds += max(n_operations / flops, n_bytes / self.bytes_s, self.launch_s)
        cost.kernels += 1
        cost.n_bytes += n_bytes
        cost.n_operations += n_operations


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested arguments."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from tensors_in(part)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))


def bytes_of(tensor: Tensor) -> int:
    """What lies in memory: an expanded dimension counts once."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return int(torch.Size(sizes).numel()) * tensor.element_size()


def places_at(setting: Setting, position: int) -> list[Place]:
    """The outputs of the setting's blocks at a position."""
    return [Place(layer=layer, position=position) for layer in setting.layers]


def count_step(setting: Setting, counter: Counter) -> None:
    """One step's shared forward and tails, forward and backward."""
    n_cells, hidden_size = len(setting.layers), setting.sizes["hidden_size"]
    config = LlamaConfig(**setting.sizes, max_position_embeddings=128)
    with FakeTensorMode():
        plain = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, setting.dtype), attn_implementation="sdpa"
        )
        prompts = TokenBatch.of_ids(torch.ones(setting.batch_size, N_TOKENS, dtype=torch.long))
        engine = SuffixEngine(wrap_model(plain), places=places_at(setting, 0), prefix_P=prompts.ids_BT[0, :N_PREFIX])
        rotation = TangentRotation(torch.empty(n_cells, hidden_size, hidden_size))
        mask_CBD = nn.Parameter(torch.empty(n_cells, setting.batch_size, hidden_size))
        with counter:
            counter.phase = "shared"
            forward = engine.forward(prompts, prompts)
            counter.phase = "tails"
            for position in setting.positions:
                logits_CBV = forward.intervene(
                    places_at(setting, position), lambda base, source: rotation.mix(base, source, mask_CBD)
                )
                logits_RV = logits_CBV.flatten(0, 1)
                nn.functional.cross_entropy(logits_RV, torch.zeros(len(logits_RV), dtype=torch.long)).backward()


def main() -> int:
    """0; the table on standard output."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tflops", type=float, default=700, help="of a large bfloat16 matrix product")
    parser.add_argument("--terabytes-s", type=float, default=4.3, help="of the GPU's memory")
    parser.add_argument("--launch-us", type=float, default=2.5, help="the least time of a kernel")
    parser.add_argument("--rows", type=int, default=15, help="kinds of kernel to show")
    options = parser.parse_args()
    setting, flops = SETTINGS["gpu"], options.tflops * 1e12
    counter = Counter(flops=flops, bytes_s=options.terabytes_s * 1e12, launch_s=options.launch_us * 1e-6)
    count_step(setting, counter)
    sys.stdout.write(table(counter, n_operations(setting) / flops, options.rows))
    return 0


def table(counter: Counter, floor_s: float, n_rows: int) -> str:
    """The step as a whole and its dearest kinds of kernel."""
    total_s = sum(cost.seconds for cost in counter.costs.values())
    n_kernels = sum(cost.kernels for cost in counter.costs.values())
    share = floor_s / total_s
    lines = [f"{1000 * total_s:,.0f} ms a step, {n_kernels:,} kernels; floor {1000 * floor_s:,.0f} ms: {share:.0%}"]
    lines.append(f"{'':34}{'ms':>8}{'kernels':>9}{'GB':>8}{'TFLOP':>8}")
    for (phase, name), cost in sorted(counter.costs.items(), key=lambda item: -item[1].seconds)[:n_rows]:
        numbers = f"{1000 * cost.seconds:8.1f}{cost.kernels:9,}{cost.n_bytes / 1e9:8.1f}{cost.n_operations / 1e12:8.1f}"
        lines.append(f"{phase:8}{name[:25]:26}{numbers}")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
