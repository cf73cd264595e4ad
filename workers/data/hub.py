"""Models of the Hugging Face Hub, as far as they lie in the local cache: an id and a revision become a folder.

Nothing is downloaded: a plan on a login node must not begin to load some hundred gigabytes. What is missing is named
with the command that fetches it. The cache is the one that huggingface_hub uses (`HF_HOME`, `HF_HUB_CACHE`).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from workers.data.model_info import ModelError

_ID: Final = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_SNAPSHOT: Final = re.compile(r"models--(?P<owner>.+?)--(?P<name>.+)")


def is_hub_id(text: str) -> bool:
    """Whether `text` may be the id of a model on the Hub: `OWNER/NAME`."""
    return _ID.fullmatch(text) is not None and "--" not in text and ".." not in text


def snapshot_folder(hub_id: str, revision: str) -> Path:
    """The folder of the model at a branch, tag or commit (empty: `main`); its name is the commit.

    Raises: ModelError with the command that downloads it.
    """
    from huggingface_hub import snapshot_download  # here: it takes half a second, and most sweeps need it not
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hub_id, revision=revision or None, local_files_only=True))
    except (HFValidationError, LocalEntryNotFoundError):
        at = f" at revision {revision}" if revision else ""
        raise ModelError(
            f"got {hub_id!r}; there is no such folder, and the Hub's cache has no model of this id{at}; "
            f"correct the path, or run: {download_command(hub_id, revision)}"
        ) from None


def download_command(hub_id: str, revision: str) -> str:
    """What a shell is to run to have the model in the cache."""
    return f"hf download {hub_id}" + (f" --revision {revision}" if revision else "")


def model_name(path: str) -> str:
    """What people call the checkpoint in the folder `path`: its id on the Hub, or the path itself."""
    folder = Path(path)
    found = _SNAPSHOT.fullmatch(folder.parent.parent.name)
    return f"{found['owner']}/{found['name']}" if found and folder.parent.name == "snapshots" else path


def row_name(path: str, untrained_seed: int | None) -> str:
    """What the column `model` of a row says: `model_name`, and whether its weights are initial ones."""
    name = model_name(path)
    return name if untrained_seed is None else f"{name} (untrained, seed {untrained_seed})"
