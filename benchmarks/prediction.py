"""Do a plan's jobs take as long as it says? Runs the demo, then plans and runs it with another seed, calibrated by it.

python benchmarks/prediction.py    # ten minutes of two idle cores
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

from orchestrator import Sweep

SPEC: Final = Path(__file__).parents[1] / "examples" / "demo.yaml"
SEEDS: Final = {"from the table": 42, "calibrated": 43}


def main() -> int:
    """0; each job's predicted and measured seconds as JSON on standard output."""
    with TemporaryDirectory() as folder:
        result = {name: jobs_of(f"prediction-{seed}", seed, Path(folder)) for name, seed in SEEDS.items()}
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    return 0


def jobs_of(name: str, seed: int, sweeps: Path) -> list[dict[str, Any]]:
    """The jobs of one whole run: what the plan said of each, and what it took from its first to its last moment."""
    sweep = Sweep.load(SPEC, overrides=[f"name={name}", f"grid.seeds=[{seed}]"], sweeps=sweeps)
    sweep.run()
    assert sweep.check().is_done
    jobs = []
    for job in sweep.status().jobs:
        assert job.progress is not None
        measured_s = job.progress.ended - job.progress.started
        ratio = round(job.predicted_s / measured_s, 2)
        jobs.append(
            {"job": job.label, "predicted_s": job.predicted_s, "measured_s": round(measured_s, 1), "ratio": ratio}
        )
    return jobs


if __name__ == "__main__":
    sys.exit(main())
