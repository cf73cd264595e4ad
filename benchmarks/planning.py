"""Seconds and peak memory of planning a grid of 100,000 cells: expand, hash, pack, write cells.parquet.

    python benchmarks/planning.py            # one line of JSON; exit code 1 beyond 5 s or 1 GB

The model is LLaMA 7B's config.json with the demo's tokenizer; nothing is loaded.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path

STARTED = time.perf_counter()  # imports count

from orchestrator.grid.expand import expand  # noqa: E402
from orchestrator.grid.file import write_grid  # noqa: E402
from orchestrator.plan.costs import DEVICES, CostModel  # noqa: E402
from orchestrator.plan.packing import pack  # noqa: E402
from orchestrator.spec.schema import parse_spec  # noqa: E402

DEMO_MODEL = Path(__file__).parent.parent / "examples" / "demo-model"
LLAMA_7B = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}


def main(engine: str) -> int:
    """0 when the limits are kept."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "config.json").write_text(json.dumps(LLAMA_7B), encoding="utf-8")
        shutil.copy(DEMO_MODEL / "tokenizer.json", folder)
        grid = {"experiments": ["left_boundary", "midpoint_distance"], "layers": "all", "positions": "3..81"}
        raw = {"name": "big", "model": ".", "task": "price_tagging", "engine": engine}
        spec = parse_spec(raw | {"grid": grid | {"seeds": list(range(20))}}, source="big.yaml", folder=folder)
        cells = expand(spec)
        costs = CostModel(cells.model, DEVICES["a100"], dtype="bfloat16")
        jobs = pack(cells.strands, costs, target_s=5400, n_gpus=16)
        write_grid(cells, folder / "cells.parquet")
    seconds = time.perf_counter() - STARTED
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    cpu_s = time.process_time()  # what a machine that others load as well cannot inflate
    result = {"engine": engine, "cells": cells.n_cells, "jobs": len(jobs), "seconds": round(seconds, 2)}
    print(json.dumps(result | {"cpu_seconds": round(cpu_s, 2), "peak_gb": round(peak_gb, 2)}))
    return 0 if seconds < 5 and peak_gb < 1 else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "suffix"))
