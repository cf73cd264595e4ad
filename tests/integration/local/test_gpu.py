"""The same on a GPU: engines agree, rotations stay orthogonal on its tensor cores, a job ends as on the CPU.

pytest -m gpu tests/integration/local/test_gpu.py

With two GPUs or more, so does a model whose blocks are dealt out to two of them (`-k several`).
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.integration.local.jobs import make_cohort, progress_of, rows_of, run, write_job
from tests.unit.workers.tiny import CONFIGS, at, ragged_pairs, random_pairs, tiny_model
from workers.data.pairs import PairSet
from workers.engine.model import load_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.files.failure import EXIT_FINISHED
from workers.methods.alignment import random_rotation
from workers.methods.base import to_device
from workers.methods.rotation import TangentRotation

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

GPU = torch.device("cuda")
several_gpus = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")


@pytest.mark.parametrize(
    ("pairs", "point"),
    [(random_pairs(4, 12, n_prefix=4), 7), (ragged_pairs(4, n_prefix=3), 1)],
    ids=["equal", "ragged"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", list(CONFIGS))
def test_the_engines_agree(family: str, dtype: torch.dtype, pairs: PairSet, point: int) -> None:
    """Logits of an intervention at each layer, in prompts of equal and of unequal length: to 1e-4 in float32, to
    bfloat16's rounding in bfloat16."""
    tiny = tiny_model(family, dtype=dtype)
    model = replace(tiny, model=tiny.model.to(GPU), device=GPU)
    batch = to_device(pairs, GPU)
    engine = SuffixEngine(model, places=at(0, 0, 1, 2), prefix_P=batch.base.ids_BT[0, :3])
    found = engine.forward(batch.base, batch.source).intervene(at(point, 0, 1, 2), lambda base, source: source)
    plain = ReferenceEngine(model).forward(batch.base, batch.source)
    tolerance = 1e-4 if dtype == torch.float32 else 5e-2
    for layer in range(3):
        wanted = plain.intervene(at(point, layer), lambda base, source: source)[0]
        torch.testing.assert_close(found[layer], wanted, rtol=tolerance, atol=tolerance)


def test_rotations_stay_orthogonal_on_tensor_cores() -> None:
    """500 steps at d = 1024: after each, R^T R is within 1e-5 of the identity; float32 elsewhere is left alone."""
    before = torch.backends.cuda.matmul.fp32_precision
    rotation = TangentRotation(random_rotation("cell", 1024, GPU)[None])
    optimizer = torch.optim.Adam(rotation.parameters, lr=1e-3, fused=True)
    identity, worst = torch.eye(1024, device=GPU), 0.0
    for _ in range(500):
        noise = torch.randn(1, 1024, 1024, device=GPU)
        rotation.tangent_CDD.grad = noise - noise.mT
        optimizer.step()
        rotation.finish_step()
        matrices = rotation.matrices()
        worst = max(worst, float((matrices.mT @ matrices - identity).abs().max()))
    assert worst < 1e-5
    assert torch.backends.cuda.matmul.fp32_precision == before


def test_a_job_on_the_gpu_finds_what_the_cpu_finds(tmp_path: Path, demo_model: Path) -> None:
    """IIA on 96 pairs within four of them, cell by cell; the record names the GPU, its use and its memory."""
    rows = {}
    for device in ("cpu", "cuda"):
        job_file = write_job(tmp_path / device, demo_model, [make_cohort(demo_model)], device=device)
        code, log = run(job_file)
        assert code == EXIT_FINISHED, log
        rows[device] = rows_of(job_file)
    for key, row in rows["cpu"].items():
        assert abs(row["n_correct"] - rows["cuda"][key]["n_correct"]) <= 4
    progress = progress_of(tmp_path / "cuda" / "jobs" / "j.json")
    assert progress is not None
    assert progress.gpu_name != "cpu"
    assert progress.peak_memory_bytes > 0


@several_gpus
def test_the_engines_agree_on_several_gpus(demo_model: Path) -> None:
    """The demo's model in two halves: logits at each layer, and what a backward pass gives, as on one GPU, to 1e-4."""
    batch = to_device(random_pairs(4, 12, n_prefix=4), GPU)
    weight_D = nn.Parameter(torch.full((64,), 0.5, device=GPU))
    found = {}
    for n_gpus in (1, 2):
        model = load_model(demo_model, dtype="float32", device=GPU, n_gpus=n_gpus)
        assert (len({weight.device for weight in model.model.parameters()}) > 1) == (n_gpus > 1)
        engine = SuffixEngine(model, places=at(0, *range(4)), prefix_P=batch.base.ids_BT[0, :4])
        plain = ReferenceEngine(model).forward(batch.base, batch.source)
        forward = engine.forward(batch.base, batch.source)
        logits = forward.intervene(at(7, *range(4)), lambda base, source: base + weight_D * (source - base))
        (gradient_D,) = torch.autograd.grad(logits.sum(), weight_D)
        with torch.no_grad():
            wanted = [plain.intervene(at(7, layer), lambda base, source: (base + source) / 2)[0] for layer in range(4)]
        torch.testing.assert_close(logits.detach(), torch.stack(wanted), rtol=1e-4, atol=1e-4)
        found[n_gpus] = logits.detach(), gradient_D
    torch.testing.assert_close(found[2], found[1], rtol=1e-4, atol=1e-4)


@several_gpus
def test_a_job_on_several_gpus_finds_what_one_finds(tmp_path: Path, demo_model: Path) -> None:
    """IIA on 96 pairs within four of them, cell by cell."""
    rows = {}
    for n_gpus in (1, 2):
        job_file = write_job(
            tmp_path / str(n_gpus), demo_model, [make_cohort(demo_model)], n_gpus=n_gpus, device="cuda"
        )
        code, log = run(job_file)
        assert code == EXIT_FINISHED, log
        rows[n_gpus] = rows_of(job_file)
    for key, row in rows[1].items():
        assert abs(row["n_correct"] - rows[2][key]["n_correct"]) <= 4
