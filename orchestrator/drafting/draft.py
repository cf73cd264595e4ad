"""`init`'s work: find out, write the spec and the task file, plan them, and say what to type next."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from orchestrator.drafting import proposal
from orchestrator.drafting.model import NamedModel, find_model
from orchestrator.errors import SpecError, StorageError
from orchestrator.plan.plan import Plan
from orchestrator.sweep import Sweep
from workers.files.folder import replace_file

_TRAINING_PAIRS: Final = (20000, 8000, 4000, 2000, 1000, 500)  # the most that takes no longer than _MAKESPAN_H
_MAKESPAN_H: Final = 2.0
_FLOAT32_BELOW: Final = 1_000_000_000  # parameters; a larger model on a GPU runs in bfloat16


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What was written. `notes` say what a user should look at first; `commands` are to be typed next."""

    spec: Path
    task: Path | None
    plan: Plan
    notes: tuple[str, ...]
    commands: tuple[str, ...]


def draft(named: str, *, task: str = "", slurm: str = "", name: str = "", folder: Path = Path()) -> Draft:
    """A spec for the model, and a task file where `task` names none, in `folder`; they plan as they are.

    Raises: SpecError (nothing is written), StorageError.
    """
    options = _slurm_options(slurm)
    model = find_model(named)
    name = name or model.name
    spec, file = folder / f"{name}.yaml", folder / f"{name.replace('-', '_').replace('.', '_')}_task.py"
    choice = proposal.choose_task(model, task, file)
    for path in (spec, *([file] if choice.text else [])):
        if path.exists():
            raise SpecError(f"init: {path}: is there already; give another --name, or move it away")
    written = [file] if choice.text else []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if choice.text:
            replace_file(file, choice.text)
        plan = _planned(spec, model, choice, options)
    except BaseException as error:  # whatever it was: what does not plan is not left behind
        for path in (spec, *written):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StorageError(f"{folder}: cannot write: {error.strerror}") from error
        raise
    on = " --on slurm" if options else ""
    return Draft(
        spec=spec,
        task=file if choice.text else None,
        plan=plan,
        notes=tuple(_notes(model, options, bool(choice.text))),
        commands=(
            f"causalsweep prompt {spec}",
            f"causalsweep doctor {spec}{on}" if options else f"causalsweep plan {spec}",
            f"causalsweep run {spec}{on}",
        ),
    )


def _planned(spec: Path, model: NamedModel, choice: proposal.TaskChoice, options: Mapping[str, str]) -> Plan:
    """The plan of the spec, written with as many training pairs as fit into the time. Raises: SweepError."""
    plan: Plan | None = None
    before = 0
    for n_train in _TRAINING_PAIRS:
        text, size = _spec_text(spec, model, choice, options, n_train)
        if size == before:  # the file of pairs has no more
            continue
        before = size
        replace_file(spec, text)
        plan = Sweep.load(spec).plan()
        if plan.totals.makespan_h <= _MAKESPAN_H:
            break
    assert plan is not None
    return plan


def _spec_text(
    spec: Path, model: NamedModel, choice: proposal.TaskChoice, options: Mapping[str, str], n_train: int
) -> tuple[str, int]:
    experiments = proposal.experiments_of(choice.source)
    layout = choice.source.layout(experiments[0])
    positions = proposal.positions_of(layout)
    sizes = proposal.limited(choice.source, experiments, {"n_train": n_train, "n_eval": 200, "n_test": 1000})
    has_gpu = bool(options) or shutil.which("nvidia-smi") is not None
    dtype = "bfloat16" if has_gpu and model.info.n_parameters >= _FLOAT32_BELOW else "float32"
    more = len(choice.source.variables) - len(experiments)
    lines = [
        f"# A sweep of {model.name}, written by `causalsweep init`. All of it is yours to change:",
        f"# causalsweep prompt {spec.name} shows a prompt's tokens, causalsweep plan {spec.name} what the grid costs.",
        f"name: {_scalar(spec.stem)}",
        "",
        "model:",
        f"  path: {_scalar(model.path)}" + ("" if model.has_weights else " # no weights yet: `run` needs them"),
        f"  dtype: {dtype} # float32, bfloat16 or float16",
        "",
        f"task: {_flow(choice.settings)}",
        "",
        "grid:",
        f"  experiments: {_flow(experiments)}" + (f" # and {more} more that the task has" if more else " # hypotheses"),
        f"  layers: {_flow(proposal.layers_of(model.info.n_layers))} # all are 0..{model.info.n_layers - 1}",
        f"  positions: {_flow(positions)} # {_about(positions, layout.is_indexed)}",
        "  seeds: [42]",
        "",
        "method: boundless_das # `causalsweep methods` lists them",
        f"data: {_flow(sizes)} # pairs: training, validation, measurement",
        "gate: {task_accuracy: 0.8} # a model that does worse than this is not searched; its cells are skipped",
        "jobs: {target_h: 1.5} # cells are packed into jobs of about this length",
        *_slurm_lines(options),
    ]
    return "\n".join(lines) + "\n", sizes["n_train"]


def _about(positions: list[int | str] | str, is_indexed: bool) -> str:
    if not is_indexed:
        return "by name: prompts differ in length"
    if isinstance(positions, str):
        return "from the first token in which prompts differ to the last; labels work too"
    return "the tokens in which prompts differ, and the last ones; labels work too"


def _slurm_lines(options: Mapping[str, str]) -> list[str]:
    if not options:
        return []
    lines = ["", "slurm: # sbatch's options by their long names, and causalsweep's own (docs/slurm.md)"]
    lines += [f"  {key}: {_scalar(value)}" for key, value in options.items()]
    if "gpus" not in options:
        lines.append("  gpus: 1 # a SLURM job; a100:1 asks for a kind")
    lines.append('  # setup: ["module load cuda", "source /path/to/venv/bin/activate"] # run on the node first')
    lines += ["", "cluster: {nodes: 1, gpus_per_node: 8, gpu: a100} # the partition's machines, for `plan`"]
    return lines


def _slurm_options(text: str) -> dict[str, str]:
    """`partition=gpu,account=abc` as a mapping. Raises: SpecError."""
    options: dict[str, str] = {}
    for part in filter(None, text.split(",")):
        key, equals, value = part.partition("=")
        if not equals or not key.strip() or not value.strip():
            raise SpecError(f"--slurm: got {part!r}; expected KEY=VALUE, as in partition=gpu,account=abc")
        options[key.strip()] = value.strip()
    return options


def _notes(model: NamedModel, options: Mapping[str, str], has_new_task: bool) -> list[str]:
    notes = []
    if has_new_task:
        notes.append("the task is an example that any model can read; change it into yours, or give --task")
    if not model.has_weights:
        notes.append(f"{model.path} has no weights yet: prompt and plan work, run needs them")
    if options:
        notes.append("cluster: says which machines to plan for; set it to those of your partition")
    return notes


def _scalar(value: str) -> str:
    """Text as YAML; plain where that is what it says."""
    is_plain = value.replace("_", "").replace("-", "").replace("/", "").replace(".", "").isalnum()
    looks_other = value.replace(".", "").replace("_", "").isdigit() or value.lower() in ("true", "false", "null", "yes")
    return value if is_plain and not looks_other and value[0] not in "-." else json.dumps(value)


def _flow(value: Any) -> str:
    """A value in YAML's flow style, which fits one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flow, value)) + "]"
    return _scalar(value) if isinstance(value, str) else json.dumps(value)
