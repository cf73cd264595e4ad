"""What a cell learned, for use in a plain model: the hook against the sweep's own engine, and what it is asked for."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.workers.tiny import cohort_at, random_pairs, tiny_model
from workers.alignments.learned import AlignmentError, LearnedAlignment, load_alignment
from workers.data.pairs import PairSet
from workers.engine.model import LanguageModel
from workers.engine.reference import ReferenceEngine
from workers.engine.sites import width_of
from workers.files.alignments import alignment_path
from workers.files.place import Place
from workers.job.saved import save_columns
from workers.methods.alignment import Alignment, CellFacts, Column, random_rotation
from workers.methods.base import to_device

CPU = torch.device("cpu")
NAMES = ("P", "Q")


def saved(folder: Path, model: LanguageModel, place: Place, *, is_index: bool = True) -> LearnedAlignment:
    """A random rotation with soft masks of two variables, as a job leaves it, read again."""
    width = width_of(model, place)
    mask_VK = torch.rand(2, width, generator=torch.Generator().manual_seed(3)) * 0.8 + 0.1
    learned = Alignment(random_rotation("hook", width, CPU)[None], mask_VK[None])
    cohort = cohort_at([place])
    (cell,) = cohort.cells
    column = Column(position=place.position, cells=(cell,), learned=learned, facts=(CellFacts(),))
    indices = frozenset({place.position}) if is_index else frozenset()
    save_columns(folder, cohort, [column], whole=False, variables=NAMES, indices=indices)
    return load_alignment(alignment_path(folder, cell.key))


def engines(model: LanguageModel, learned: LearnedAlignment, pairs: PairSet) -> torch.Tensor:
    """The last token's logits_BV by the sweep's engine."""
    batch = to_device(pairs, CPU)
    forward = ReferenceEngine(model).forward(batch.base, batch.source)
    parts = (torch.from_numpy(part)[None] for part in (learned.directions_DK, learned.mask_VK))
    return forward.intervene([learned.place], Alignment(*parts).mix(batch.variable_B))[0]


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt", "falcon", "mixtral"])
@pytest.mark.parametrize(
    ("site", "unit"), [("block_output", None), ("head_output", 2), ("mlp_neurons", None), ("mlp_output", None)]
)
def test_the_hook_is_the_sweeps_intervention(family: str, site: str, unit: int | None, tmp_path: Path) -> None:
    """Logits in a plain model equal the engine's, each pair with its own variable; then the model is as before."""
    if family == "mixtral" and site == "mlp_neurons":
        site = "attention_output"  # experts have no neurons of their own name
    model = tiny_model(family)
    learned = saved(tmp_path, model, Place(layer=1, position=7, site=site, unit=unit))
    pairs = random_pairs(6, 10, n_variables=2)
    base, source = (torch.from_numpy(prompts.ids_BT) for prompts in (pairs.base, pairs.source))
    with torch.no_grad():
        plain_BV = model.model(base).logits[:, -1]
        with learned.hook(model.model, source, variable=[NAMES[index] for index in pairs.variable_B]):
            hooked_BV = model.model(base).logits[:, -1]
        torch.testing.assert_close(hooked_BV, engines(model, learned, pairs), rtol=1e-5, atol=1e-6)
        assert (hooked_BV - plain_BV).abs().max() > 1e-4
        assert torch.equal(model.model(base).logits[:, -1], plain_BV)


def test_one_source_serves_a_batch_and_a_generation(tmp_path: Path) -> None:
    """One source prompt holds for all base prompts; passes of a generation over one new token are left alone."""
    model = tiny_model("llama").model
    learned = saved(tmp_path, tiny_model("llama"), Place(layer=1, position=7))
    pairs = random_pairs(3, 10)
    base, source = torch.from_numpy(pairs.base.ids_BT), torch.from_numpy(pairs.source.ids_BT[:1])
    with torch.no_grad(), learned.hook(model, {"input_ids": source}, variable="Q"):
        first_B = model(base).logits[:, -1].argmax(dim=-1)
        said = model.generate(base, max_new_tokens=3, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert said.shape == (3, 13)
    assert torch.equal(said[:, 10], first_B)


def test_a_model_stays_trainable(tmp_path: Path) -> None:
    """Hooking a model neither freezes it nor changes its mode, and gradients flow through the intervention."""
    model = tiny_model("gpt2").model.requires_grad_(True).train()
    learned = saved(tmp_path, tiny_model("gpt2"), Place(layer=1, position=7))
    ids = torch.from_numpy(random_pairs(2, 10).base.ids_BT)
    with learned.hook(model, ids, variable="P"):
        model(ids).logits.sum().backward()
    assert model.training
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_subspace_is_orthonormal(tmp_path: Path) -> None:
    """A basis of the directions that the variable takes over, in both frameworks; a projection is idempotent."""
    learned = saved(tmp_path, tiny_model("llama"), Place(layer=0, position=7))
    basis = learned.subspace("Q")
    assert basis.shape == (32, int((learned.mask_VK[1] > 0.5).sum()))
    np.testing.assert_allclose(basis.T @ basis, np.eye(basis.shape[1]), atol=1e-5)
    assert torch.equal(learned.subspace("Q", framework="torch"), torch.from_numpy(basis))
    vectors = np.random.default_rng(0).normal(size=(5, 32)).astype(np.float32)
    once = learned.project(vectors, "Q")
    np.testing.assert_allclose(learned.project(once, "Q"), once, atol=1e-5)
    np.testing.assert_allclose(learned.project(torch.from_numpy(vectors), "Q").numpy(), once, atol=1e-5)
    assert "P: " in repr(learned)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    """Variables, positions, sizes and models that do not fit: what was given and what would be right."""
    model = tiny_model("llama")
    learned = saved(tmp_path, model, Place(layer=1, position=7))
    ids = torch.from_numpy(random_pairs(4, 10).base.ids_BT)
    with pytest.raises(AlignmentError, match="aligns P, Q; give one of them"):
        learned.subspace()
    with pytest.raises(AlignmentError, match="got 'R'; the hypothesis aligns P, Q"):
        learned.hook(model.model, ids, variable="R")
    with pytest.raises(AlignmentError, match="got 31 numbers each; expected 32"):
        learned.project(np.zeros((2, 31)), "P")
    with pytest.raises(AlignmentError, match=r"source_position: got 12; the prompts have the tokens 0\.\.9"):  # noqa: SIM117
        with learned.hook(model.model, ids, variable="P", source_position=12):
            pass
    with learned.hook(model.model, ids[:2], variable="P"), pytest.raises(AlignmentError, match="2 prompts for 4 base"):
        model.model(ids)
    other = replace(learned, place=Place(layer=9, position=7))
    with pytest.raises(AlignmentError, match="layer 9"), other.hook(model.model, ids, variable="P"):
        pass
    assert not model.model._forward_pre_hooks
    moving = saved(tmp_path / "moving", model, Place(layer=1, position=7), is_index=False)
    with pytest.raises(AlignmentError, match="lies at another token in each prompt; give position="):
        moving.hook(model.model, ids, variable="P")


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    """A flipped bit, a cut file and one that holds something else are no alignment."""
    learned = saved(tmp_path, tiny_model("llama"), Place(layer=1, position=7))
    content = bytearray(learned.path.read_bytes())
    content[-3] ^= 1
    learned.path.write_bytes(content)
    with pytest.raises(AlignmentError, match="its checksum is wrong"):
        load_alignment(learned.path)
    learned.path.write_bytes(content[:100])
    with pytest.raises(AlignmentError, match="no alignment, or torn"):
        load_alignment(learned.path)


def test_a_basis_is_read_without_torch(tmp_path: Path) -> None:
    """Loading an alignment and its basis as numbers of numpy loads no torch."""
    learned = saved(tmp_path, tiny_model("llama"), Place(layer=1, position=7))
    code = (
        "import sys, causalsweep\n"
        f"basis = causalsweep.load_alignment({str(learned.path)!r}).subspace('P')\n"
        "print(basis.shape[0], 'torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.split() == ["32", "False"]
