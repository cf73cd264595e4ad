"""Looks around on a node for `doctor`.

python -m cluster.slurm.probe FOLDER NONCE    prints what it saw as one line of JSON
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cluster.files import get_record, put_json

_TORCH = "import torch; print(torch.__version__, torch.cuda.device_count())"


def main(folder: Path, nonce: str) -> dict[str, object]:
    """What this node sees of the shared folder, the clock, its GPUs and torch."""
    note = folder / f"{nonce}.json"
    sees = get_record(note, dict[str, str]) is not None
    if sees:
        put_json(note, {"from": "node"})  # a rename over a file that another machine wrote
    torch = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, check=False)
    return {
        "node": os.environ.get("SLURMD_NODENAME") or socket.gethostname(),
        "sees": sees,
        "time": time.time(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
        "torch": torch.stdout.split() or ["", torch.stderr.strip().rpartition("\n")[2]],
    }


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), sys.argv[2])))
