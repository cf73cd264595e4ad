"""A checkpoint tried before anything runs: do its weights belong to its configuration?

What the model of a configuration consists of is known to transformers alone. So a process of its own builds that model
without memory for its weights, and compares it with the headers of the weight files (`workers.engine.loading`). That
takes the seconds of importing torch, once for each checkpoint: the verdict is kept in the user's cache.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from workers.data.checkpoint_files import check_files
from workers.data.model_info import ModelError, ModelInfo
from workers.files.folder import replace_file
from workers.files.job import content_key

log = logging.getLogger(__name__)

_HERE: Final = "<checkpoint>"  # in a verdict that is kept, for the folder: a copy elsewhere has the same verdict
_TIMEOUT_S: Final = 600.0
_PROJECT: Final = Path(__file__).parents[2]
_JUDGES: Final = ("workers/engine/loading.py", "workers/data/checkpoint_files.py")


def check_checkpoint(info: ModelInfo) -> tuple[str, ...]:
    """Notes on how the checkpoint will be loaded; none where its weights are still absent.

    Where it cannot be tried (no torch, say) a warning is logged: each job tries it again before it computes anything.
    Raises: ModelError naming the file, or the weights, and what would be right.
    """
    if not check_files(info.path):
        return ()
    verdict = _verdict(info.path, info.fingerprint)
    if verdict["problem"]:
        raise ModelError(verdict["problem"])
    return tuple(verdict["notes"])


def _verdict(path: Path, fingerprint: str) -> dict[str, Any]:
    kept = _cache() / f"{_key(fingerprint)}.json"
    try:
        text = kept.read_text(encoding="utf-8").replace(_HERE, json.dumps(str(path))[1:-1])
        known: dict[str, Any] = json.loads(text)
        return {"problem": known["problem"], "notes": known["notes"]}
    except (OSError, ValueError, KeyError, TypeError):
        pass
    verdict = _asked(path)
    if verdict is None:
        return {"problem": "", "notes": []}
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        replace_file(kept, json.dumps(verdict).replace(json.dumps(str(path))[1:-1], _HERE))
    except OSError as error:
        log.debug("%s: not kept: %s", kept, error)
    return verdict


def _asked(path: Path) -> dict[str, Any] | None:
    """The verdict of a process that imports torch; None where it cannot be had."""
    environment = os.environ | {
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": os.pathsep.join([str(_PROJECT), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    command = [sys.executable, "-m", "workers.engine.loading", str(path)]
    try:
        ended = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True, cwd=_PROJECT
        )
        verdict: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        said = str(getattr(error, "stderr", "") or error).strip().splitlines()
        log.warning("%s: whether its weights are whole cannot be tried here; each job tries it (%s)", path, said[-1:])
        return None
    return verdict


def _key(fingerprint: str) -> str:
    """Changes with the checkpoint, wherever it lies, and with whatever judges it."""
    versions = {}
    for name in ("torch", "transformers", "safetensors"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = ""
    judges = [(_PROJECT / name).read_text(encoding="utf-8") for name in _JUDGES]
    return content_key({"fingerprint": fingerprint, "versions": versions, "judges": judges})


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "causalsweep" / "checkpoints"
