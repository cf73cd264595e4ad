"""Runs on the cluster as a Ray Job, `python -m cluster.ray.tune FOLDER/search.json`: a search by Ray Tune with ASHA.

Tune is not what runs sweeps: restored, it starts finished trials again; it forgets that a grid has grown; and it writes
its whole state anew each time. For a search it is the right tool: it stops what promises little.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import ray
from ray import cloudpickle, tune

from cluster.files import get_record, put_json
from cluster.ray import task
from cluster.ray.search import Range, Search

LOOK_S: Final = 0.5
GRACE_S: Final = 30.0


class CommandTrial(tune.Trainable):
    """One trial: a command that publishes its measures. It keeps its own checkpoints, in the trial's folder."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start the command, or start it again where it was killed: the folder is the same."""
        self._settings = {key: value for key, value in config.items() if not key.startswith("_")}
        self._metric, self._n_rungs, self._rung = config["_metric"], config["_n_rungs"], 0
        self._value: float | None = None
        folder = Path(config["_folder"]) / "trials" / self.trial_id
        folder.mkdir(parents=True, exist_ok=True)
        self._published, self._log = folder / "metrics.json", folder / "trial.log"
        (folder / "settings.json").write_text(json.dumps(self._settings), encoding="utf-8")
        gpu = ",".join(ray.get_runtime_context().get_accelerator_ids().get("GPU", []))
        env = {"CUDA_VISIBLE_DEVICES": gpu, task.ENV_METRICS_FILE: str(self._published), "CAUSALSWEEP_BACKEND": "ray"}
        self._command = task.Command([*config["_command"], str(folder)], env, str(self._log))

    def step(self) -> dict[str, Any]:
        """The metric at the next rung that the command reaches, or at its end. Raises: RuntimeError (it failed)."""
        while True:
            code = self._command.exit_code()  # before the file is read: its last version counts
            value, share = self._measured()
            rung = self._n_rungs if code == 0 else int(share * self._n_rungs)
            if code == 0 and value is None:  # started again behind its last measurement, it had nothing to measure
                value = self._value
            if value is not None and (rung > self._rung or code == 0):
                self._rung, self._value = rung, value
                return {self._metric: value, "rung": rung, "done": code == 0}
            if code is not None:
                raise RuntimeError(f"exit code {code}; {self._log} ends:\n{task.last_lines(str(self._log))}")
            time.sleep(LOOK_S)

    def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
        """How far it was reported; the training's own state lies in the trial's folder."""
        return {"rung": self._rung, "value": self._value}

    def load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Continue reporting from there."""
        self._rung, self._value = checkpoint["rung"], checkpoint["value"]

    def cleanup(self) -> None:
        """Stop the command: the trial ended, or promised too little."""
        self._command.end(GRACE_S)

    def __repr__(self) -> str:
        """What the dashboard calls the trial."""
        return " ".join(
            f"{key}={value:.3g}" if isinstance(value, float) else f"{key}={value}"
            for key, value in self._settings.items()
        )

    def _measured(self) -> tuple[float | None, float]:
        """The metric as last published, and the share of the training that is over."""
        try:
            readings = {one["name"]: one["value"] for one in json.loads(self._published.read_text(encoding="utf-8"))}
        except (OSError, ValueError):
            return None, 0.0
        return readings.get(self._metric), readings.get("steps_done", 0) / max(1, readings.get("steps_total", 1))


class TrialsFile(tune.Callback):
    """Keeps `trials.json`: what became of each trial, for those who have no Ray."""

    def __init__(self, folder: Path, metric: str) -> None:
        self._path, self._metric = folder / "trials.json", metric
        self._values: dict[str, dict[int, float]] = {}

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """A trial has reached a rung, for the first time or after it was started again."""
        self._values.setdefault(trial.trial_id, {})[result["rung"]] = result[self._metric]
        self._write(trials)

    def on_experiment_end(self, trials: list[Any], **info: Any) -> None:
        """All is over."""
        self._write(trials)

    def _write(self, trials: list[Any]) -> None:
        put_json(
            self._path,
            [
                {
                    "name": trial.trial_id,
                    "settings": {key: value for key, value in trial.config.items() if not key.startswith("_")},
                    "state": str(trial.status),
                    "values": sorted(self._values.get(trial.trial_id, {}).items()),
                    "error": Path(trial.error_file).read_text(errors="replace")[-2000:] if trial.error_file else "",
                }
                for trial in trials
            ],
        )


def main(arguments: Sequence[str]) -> int:
    """0 when the search has ended, 1 when every trial failed."""
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout)
    path = Path(arguments[0])
    folder, search = path.parent, get_record(path, Search)
    if search is None:
        sys.exit(f"{path}: missing or damaged; start the search again, in a new folder")
    cloudpickle.register_pickle_by_value(task)  # the raylet's Python need not have this package
    ray.init(address=os.environ["RAY_ADDRESS"], log_to_driver=False, logging_level=logging.WARNING)
    space = {key: _domain(value) for key, value in search.space.items()}
    tuner = tune.Tuner(
        tune.with_resources(CommandTrial, {"gpu": search.n_gpus, "cpu": search.cpus_per_trial}),
        param_space={
            **space,
            "_folder": str(folder),
            "_command": list(search.command),
            "_metric": search.metric,
            "_n_rungs": search.n_rungs,
        },
        tune_config=tune.TuneConfig(
            metric=search.metric,
            mode="max",
            num_samples=search.n_trials,
            time_budget_s=search.time_limit_s,
            scheduler=tune.schedulers.ASHAScheduler(
                time_attr="rung", max_t=search.n_rungs, grace_period=1, reduction_factor=3
            ),
            search_alg=tune.search.BasicVariantGenerator(random_state=search.seed),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder),
            failure_config=tune.FailureConfig(max_failures=search.max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1, num_to_keep=1),
            callbacks=[TrialsFile(folder, search.metric)],
            verbose=1,
        ),
    )
    results = tuner.fit()
    return 1 if results.num_errors == len(results) else 0


def _domain(value: Range | tuple[Any, ...]) -> Any:
    if isinstance(value, Range):
        return (tune.loguniform if value.log else tune.uniform)(value.low, value.high)
    return tune.choice(list(value))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
