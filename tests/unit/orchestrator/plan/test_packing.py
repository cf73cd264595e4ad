"""Costs and packing: against counts made by hand, and against what every packing must hold to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.grid.expand import Strand, expand
from orchestrator.plan.costs import DEVICES, Calibration, CostModel, Device
from orchestrator.plan.packing import Part, makespan_s, pack
from orchestrator.spec.schema import load_spec
from tests.unit.orchestrator.specs import llama_7b, strand_of
from workers.data.model_info import ModelInfo
from workers.files.job import JobCell
from workers.files.place import Place

SMALL = ModelInfo(
    path=Path("m"),
    n_layers=4,
    hidden_size=64,
    intermediate_size=128,
    n_heads=4,
    n_kv_heads=4,
    head_size=16,
    vocab_size=300,
    gated_mlp=True,
    fingerprint="f",
)
# A device that does one operation a second and nothing else costs anything.
COUNTER = Device(
    half_flops=1.0,
    float32_flops=1.0,
    tf32_flops=1.0,
    reference_share=1.0,
    suffix_share=1.0,
    call_s=0.0,
    cell_s=0.0,
    start_s=0.0,
)
STEPS = 3 * 313  # 20,000 pairs in batches of 64
PAIRS = STEPS * 64


def test_the_width_of_a_site_decides_its_rotation() -> None:
    """A head's rotation is of the head's size, and the own block of a site inside it runs for its token."""
    places = {
        "block_output": Place(layer=1, position=80),
        "head": Place(layer=1, position=80, site="head_output", unit=0),
        "neurons": Place(layer=1, position=80, site="mlp_neurons"),
        "query": Place(layer=1, position=80, site="query", unit=1),
    }
    strand = strand_at(list(places.values()))
    costs = CostModel(SMALL, COUNTER, dtype="float32")
    seconds = {name: costs.of(strand).column_s([place]) for name, place in places.items()}

    def rotation(width: int) -> float:
        return STEPS * (10 * width**3 + 18 * width**2 * 64)

    own_token = 2 * SMALL.n_layer_parameters * (2 * PAIRS + 3000)
    assert seconds["head"] - seconds["block_output"] == pytest.approx(rotation(16) - rotation(64) + own_token)
    assert seconds["neurons"] - seconds["block_output"] == pytest.approx(rotation(128) - rotation(64) + own_token)
    assert seconds["query"] == pytest.approx(seconds["head"])


@pytest.mark.parametrize("site", ["block_input", "key", "value"])
def test_sites_that_later_tokens_attend_to_cost_their_block_for_all_of_these(site: str) -> None:
    """A changed key reaches the tokens behind it in its own block: two of them at position 80 of 82."""
    unit = None if site == "block_input" else 0
    inside, token = Place(layer=1, position=80, site=site, unit=unit), Place(layer=1, position=80, site="mlp_output")
    strand = strand_at([inside, token])
    costs = CostModel(SMALL, COUNTER, dtype="float32")
    rotation = STEPS * sum(sign * (10 * d**3 + 18 * d**2 * 64) for sign, d in ((1, 16 if unit == 0 else 64), (-1, 64)))
    one_token = 2 * SMALL.n_layer_parameters * (2 * PAIRS + 3000)
    assert costs.of(strand).column_s([inside]) - costs.of(strand).column_s([token]) == pytest.approx(
        rotation + one_token
    )


def strand_at(places: Sequence[Place]) -> Strand:
    """A strand with a cell at each of these places."""
    cells = tuple(JobCell(key=f"k{index}", place=place, token="") for index, place in enumerate(places))
    return replace(strand_of(), cells=cells)


def costs_of(engine: str = "") -> CostModel:
    """The demo-sized model on a worker of a CPU."""
    return CostModel(SMALL, DEVICES["cpu"], dtype="float32", engine=engine)


def test_reference_counts_source_base_and_gradient() -> None:
    """A reference cell at layer l is 2 T N + T (N - 1 - l) layer-tokens a pair, and 2 T N for each test pair."""
    strand = strand_of()
    block = 2 * SMALL.n_layer_parameters
    expected = block * (PAIRS * (2 * 82 * 4 + 82 * (4 - 1 - 1)) + 3000 * 2 * 82 * 4)
    costs = CostModel(SMALL, COUNTER, dtype="float32", engine="reference")
    assert costs.of(strand).column_s([Place(layer=1, position=80)]) == pytest.approx(expected)


def test_suffix_tail_counts_what_follows_the_intervention() -> None:
    """Moving a cell one token to the left adds its blocks, forward and backward for each training pair."""
    costs = CostModel(SMALL, COUNTER, dtype="float32")
    strand = strand_of()
    more = costs.of(strand).column_s([Place(layer=1, position=79)]) - costs.of(strand).column_s(
        [Place(layer=1, position=80)]
    )
    assert more == pytest.approx(2 * SMALL.n_layer_parameters * 2 * (2 * PAIRS + 3000))


def test_shared_forward_spares_the_prefix() -> None:
    """A cohort's shared forward runs T - K tokens through the base's N blocks and the source's l_max + 1."""
    costs = CostModel(SMALL, COUNTER, dtype="float32")
    expected = 2 * SMALL.n_layer_parameters * (82 - 38) * (4 + 3 + 1) * (PAIRS + 1000)
    assert costs.of(strand_of()).shared_s == pytest.approx(expected)


def test_prompts_of_unequal_length_cost_their_own_tokens() -> None:
    """Prompts of up to 82 tokens, 70 on average, whose position 200 lies 1.5 tokens before the end: the means count."""
    costs = CostModel(SMALL, COUNTER, dtype="float32")
    strand = replace(strand_of(), mean_tokens=70.0, tail_tokens={200: 1.5})
    block = 2 * SMALL.n_layer_parameters
    assert costs.of(strand).shared_s == pytest.approx(block * (70 - 38) * (4 + 3 + 1) * (PAIRS + 1000))
    named, last = (costs.of(strand).column_s([Place(layer=1, position=at)]) for at in (200, 69))
    assert named - last == pytest.approx(block * 2 * 0.5 * (2 * PAIRS + 3000))


def test_trained_cells_cost_their_further_settings_only() -> None:
    """No training step and no training pair: three forward passes a setting through the test pairs' tails."""
    costs = CostModel(SMALL, COUNTER, dtype="float32", n_settings={"left_boundary": 2})
    strand = replace(strand_of(), is_trained=True)
    more = costs.of(strand).column_s([Place(layer=1, position=79)]) - costs.of(strand).column_s(
        [Place(layer=1, position=80)]
    )
    assert more == pytest.approx(2 * SMALL.n_layer_parameters * 2 * (2 * 3000))
    shared = 2 * SMALL.n_layer_parameters * (82 - 38) * (4 + 3 + 1) * 2000
    assert costs.of(strand).shared_s == pytest.approx(shared)


def test_measured_cells_scale_the_table() -> None:
    """A calibration multiplies a cohort's seconds and replaces the start-up."""
    strand = strand_of()
    measured = CostModel(
        SMALL, DEVICES["cpu"], dtype="float32", calibration=Calibration(work=2.0, start_s=3.0, n_cells=9)
    )
    assert measured.of(strand).cohort_s(strand.cells) == pytest.approx(2 * costs_of().of(strand).cohort_s(strand.cells))
    assert measured.start_s == 3.0


def test_paper_takes_about_1365_jobs_of_an_hour_and_a_half(project: Path, tmp_path: Path, demo_model: Path) -> None:
    """The reference engine's plan of the paper's sweep: one cell a job, 1.5 h each on average."""
    model = llama_7b(tmp_path / "alpaca", demo_model / "tokenizer.json")
    spec = load_spec(project / "examples" / "alpaca-7b.yaml", [f"model.path={model}", "engine=reference"])
    grid = expand(spec)
    jobs = pack(
        grid.strands, CostModel(grid.models[0].info, DEVICES["a100"], dtype="bfloat16"), target_s=1.5 * 3600, n_gpus=16
    )
    hours = sum(job.predicted_s for job in jobs) / 3600
    assert len(jobs) == 1365
    assert hours / len(jobs) == pytest.approx(1.5, abs=0.05)


def test_demo_fills_two_nodes_of_eight(project: Path) -> None:
    """The demo's 208 cells, minutes of work, still give each of 16 GPUs a job."""
    grid = expand(load_spec(project / "examples" / "demo.yaml"))
    costs = CostModel(grid.models[0].info, DEVICES["cpu"], dtype="float32")
    assert len(pack(grid.strands, costs, target_s=5400, n_gpus=16)) >= 16


def cells_of(parts: list[Part]) -> list[JobCell]:
    """Every cell of some parts."""
    return [cell for part in parts for cell in part.cells]


@settings(max_examples=60, deadline=None)
@given(
    n_strands=st.integers(1, 5),
    n_layers=st.integers(1, 4),
    n_positions=st.integers(1, 13),
    target_s=st.floats(5, 5000),
    n_gpus=st.integers(1, 40),
    engine=st.sampled_from(["suffix", "reference"]),
)
def test_each_cell_is_in_one_job_and_no_gpu_idles(
    n_strands: int, n_layers: int, n_positions: int, target_s: float, n_gpus: int, engine: str
) -> None:
    """Whatever the grid: every cell once, longest job first, and fewer jobs than GPUs only where positions (with the
    reference engine: cells) are fewer."""
    strands = [
        strand_of(layers=range(n_layers), positions=range(82 - n_positions, 82), seed=seed, engine=engine)
        for seed in range(n_strands)
    ]
    jobs = pack(strands, costs_of(), target_s=target_s, n_gpus=n_gpus)
    packed = [cell.key for job in jobs for cell in cells_of(list(job.parts))]
    wanted = [cell.key for strand in strands for cell in strand.cells]
    assert sorted(packed) == sorted(wanted)
    n_columns = n_strands * n_positions * (n_layers if engine == "reference" else 1)
    assert len(jobs) >= min(n_gpus, n_columns)
    assert [job.predicted_s for job in jobs] == sorted((job.predicted_s for job in jobs), reverse=True)


def test_jobs_keep_to_the_target_length() -> None:
    """Where single cells are short, no job exceeds the target by more than a tenth."""
    strands = [strand_of(seed=seed, engine="reference") for seed in range(4)]
    jobs = pack(strands, costs_of(), target_s=1200, n_gpus=1)
    assert max(job.predicted_s for job in jobs) <= 1.1 * 1200
    assert len(jobs) > 1


@pytest.mark.parametrize("n_gpus", [1, 6, 13, 52, 400])
def test_layers_of_a_position_stay_together(n_gpus: int) -> None:
    """The engine runs all layers of a position in one call, so a job has all or none of them, however many GPUs wait:
    a cell's last bits do not depend on the cluster."""
    strand = strand_of()
    for job in pack([strand], costs_of(), target_s=5400, n_gpus=n_gpus):
        for part in job.parts:
            layers: dict[int, list[int]] = {cell.place.position: [] for cell in part.cells}
            for cell in part.cells:
                layers[cell.place.position].append(cell.place.layer)
            assert all(found == [0, 1, 2, 3] for found in layers.values())


def test_part_with_a_checkpoint_is_never_cut() -> None:
    """A kept cohort goes into one job as it is, also when GPUs would stay idle."""
    strand: Strand = strand_of()
    kept = Part(costs=costs_of().of(strand), cells=strand.cells[:8], seconds=100.0, whole=True)
    jobs = pack([], costs_of(), target_s=5400, n_gpus=16, kept=[kept])
    assert [job.parts for job in jobs] == [(kept,)]


def test_makespan_gives_the_longest_job_first() -> None:
    """Jobs of 3, 2, 2 and 1 hours on two GPUs end after four."""
    strand = strand_of()
    free = CostModel(SMALL, COUNTER, dtype="float32", calibration=Calibration(work=1.0, start_s=0.0, n_cells=1))
    cost = free.of(strand)
    parts = [Part(costs=cost, cells=strand.cells[:1], seconds=3600.0 * hours, whole=True) for hours in (1, 2, 3, 2)]
    jobs = [job for part in parts for job in pack([], free, target_s=9e9, n_gpus=1, kept=[part])]
    assert makespan_s(jobs, 2) == pytest.approx(4 * 3600)


def test_label_says_what_and_where() -> None:
    """A job's label names experiment, layers, positions, seed and number of cells."""
    (job,) = pack([strand_of(layers=range(2), positions=range(80, 82))], costs_of(), target_s=5400, n_gpus=1)
    assert job.label == "left_boundary L0..1 p80..81 s42 (4 cells)"
