"""The intervention against an independent implementation: pyvene's Boundless DAS on the demo's checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.workers.tiny import at
from workers.data.layout import read_layout
from workers.data.pairs import make_pairs
from workers.data.tokenizer import Tokenizer
from workers.engine.model import LanguageModel, load_model
from workers.engine.reference import ReferenceEngine
from workers.engine.suffix import SuffixEngine
from workers.files.place import Place
from workers.methods.alignment import random_rotation
from workers.methods.base import Batch, to_device
from workers.methods.boundless_das import soft_masks
from workers.methods.rotation import ParametrizedRotation, TangentRotation
from workers.tasks import load_task

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

CPU = torch.device("cpu")
POINTS = [(0, 69), (1, 70), (2, 81), (3, 81)]
BOUNDARY, TEMPERATURE = 0.3, 1.7  # about 19 of 64 dimensions, softly


@pytest.fixture(scope="module")
def model(demo_model: Path) -> LanguageModel:
    """The demo's, in float32."""
    return load_model(demo_model, dtype="float32", device=CPU)


@pytest.fixture(scope="module")
def batch(demo_model: Path) -> Batch:
    """Eight pairs of the game."""
    task, tokenizer = load_task({"name": "price_tagging"}), Tokenizer.load(demo_model)
    hypothesis, layout = task.hypotheses["left_boundary"], read_layout(task, tokenizer)
    return to_device(make_pairs(task, hypothesis, tokenizer, layout, n_pairs=8, split="test", seed=1), CPU)


def measures(logits_BV: Tensor, label_B: Tensor, rotation: nn.Parameter, boundary: nn.Parameter) -> dict[str, Tensor]:
    """Logits, loss, and the loss's gradients; of the rotation's the part that torch's parametrisation learns from."""
    loss = nn.functional.cross_entropy(logits_BV, label_B) + boundary.sum()
    loss.backward()
    assert rotation.grad is not None
    gradient = torch.tril(rotation.grad.view(rotation.shape[-2:]), -1)
    return {"logits": logits_BV, "loss": loss, "rotation": gradient, "boundary": boundary.grad}


def pyvenes(model: LanguageModel, batch: Batch, point: tuple[int, int], matrix_DD: Tensor) -> dict[str, Tensor]:
    """What pyvene computes with this rotation."""
    import pyvene  # prints on import

    layer, position = point
    config = pyvene.IntervenableConfig(
        model_type=type(model.model),
        representations=[pyvene.RepresentationConfig(layer, "block_output", "pos", 1)],
        intervention_types=pyvene.BoundlessRotatedSpaceIntervention,
    )
    intervenable = pyvene.IntervenableModel(config, model.model)
    intervention: Any = next(iter(intervenable.interventions.values()))
    with torch.no_grad():
        intervention.rotate_layer.weight = matrix_DD
    intervention.set_temperature(torch.tensor(TEMPERATURE))
    intervention.set_intervention_boundaries(BOUNDARY)
    _, output = intervenable(
        {"input_ids": batch.base.ids_BT}, [{"input_ids": batch.source.ids_BT}], {"sources->base": position}
    )
    rotation = intervention.rotate_layer.parametrizations.weight.original
    return measures(output.logits[:, -1], batch.label_B, rotation, intervention.intervention_boundaries)


def ours(
    model: LanguageModel, batch: Batch, point: tuple[int, int], matrix_DD: Tensor, engine: str
) -> dict[str, Tensor]:
    """What an engine computes with this rotation."""
    layer, position = point
    boundary = nn.Parameter(torch.tensor([BOUNDARY]))
    mask_CBD = soft_masks(boundary, 1, TEMPERATURE, model.hidden_size)[:, batch.variable_B]
    if engine == "suffix":
        n_prefix = 40
        rotation: Any = TangentRotation(matrix_DD[None])
        runner: Any = SuffixEngine(model, places=at(0, layer), prefix_P=batch.base.ids_BT[0, :n_prefix])
    else:
        rotation, runner = ParametrizedRotation(matrix_DD[None]), ReferenceEngine(model)
    forward = runner.forward(batch.base, batch.source)
    logits_CBV = forward.intervene(at(position, layer), lambda base, source: rotation.mix(base, source, mask_CBD))
    return measures(logits_CBV[0], batch.label_B, rotation.parameters[0], boundary)


@pytest.mark.parametrize("engine", ["suffix", "reference"])
@pytest.mark.parametrize("point", POINTS)
def test_logits_and_gradients_equal_pyvenes(
    model: LanguageModel, batch: Batch, point: tuple[int, int], engine: str
) -> None:
    """Same rotation, boundary and temperature: logits, loss and gradients to 1e-5 in float32."""
    matrix_DD = random_rotation("pyvene", model.hidden_size, CPU)
    wanted = pyvenes(model, batch, point, matrix_DD)
    found = ours(model, batch, point, matrix_DD, engine)
    for name, value in wanted.items():
        torch.testing.assert_close(
            found[name], value, rtol=1e-5, atol=1e-5, msg=lambda text, what=name: f"{what}: {text}"
        )
    untouched = model.model(batch.base.ids_BT).logits[:, -1]
    assert (wanted["logits"] - untouched).abs().max() > 1e-2  # the intervention does something at all


# Ours, and pyvene's name of it. Its `mlp_activation` is what the gate's activation function gives, before the product
# with the up projection: no input of the down projection, which `mlp_neurons` is.
SITES = {
    "block_input": "block_input",
    "attention_output": "attention_output",
    "mlp_output": "mlp_output",
    "head_output": "head_attention_value_output",
    "query": "head_query_output",
}


def pyvenes_swap(model: LanguageModel, batch: Batch, place: Place) -> Tensor:
    """pyvene's last logits_BV with the source's vector at the place."""
    import pyvene  # prints on import

    unit, name = place.unit, SITES[place.site]
    of_head = [] if unit is None else ["h.pos"]
    config = pyvene.IntervenableConfig(
        model_type=type(model.model),
        representations=[pyvene.RepresentationConfig(place.layer, name, *(of_head or ["pos"]), 1)],
        intervention_types=pyvene.VanillaIntervention,
    )
    intervenable = pyvene.IntervenableModel(config, model.model)
    n_pairs = len(batch.base.ids_BT)
    at_position = [[place.position]] * n_pairs
    where = [at_position] if unit is None else [[[[unit]] * n_pairs, at_position]]
    with torch.no_grad():
        _, output = intervenable(
            {"input_ids": batch.base.ids_BT},
            [{"input_ids": batch.source.ids_BT}],
            {"sources->base": (where, where)},
        )
    logits: Tensor = output.logits[:, -1]
    return logits


@pytest.mark.parametrize("site", SITES)
def test_swaps_inside_blocks_equal_pyvenes(model: LanguageModel, batch: Batch, site: str) -> None:
    """The whole vector of each site that both have, at a middle and at the last token: logits to 1e-5."""
    unit = 1 if site in ("head_output", "query") else None
    for layer, position in ((1, 70), (2, 81)):
        place = Place(layer=layer, position=position, site=site, unit=unit)
        wanted = pyvenes_swap(model, batch, place)
        engine = SuffixEngine(model, places=[place], prefix_P=batch.base.ids_BT[0, :40])
        with torch.no_grad():
            found = engine.forward(batch.base, batch.source).intervene([place], lambda _base, source: source)[0]
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5, msg=lambda text, at=place: f"{at}: {text}")
