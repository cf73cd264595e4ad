"""The sparse autoencoders of a grid: a spec names one, its files are checked, their hash enters the cell keys."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from workers.data.sae_file import SaeError, digest_of, files_of, read_sae
from workers.files.folder import SweepFolder
from workers.methods.base_settings import MethodError
from workers.methods.settings import METHODS, AutoencoderSettings


def with_autoencoder(
    settings: Mapping[str, Any], folder: SweepFolder | None = None
) -> tuple[dict[str, Any], dict[str, Path]]:
    """The settings with the autoencoder that they name, if they do, and where its files lie by their hash: its path
    stands for its SHA-256, its width and its number of features. The sweep's own copy serves where the path is gone.

    Raises: MethodError naming the setting, what was found and what would be right.
    """
    found = dict(settings)
    if not issubclass(METHODS[settings["name"]], AutoencoderSettings):
        return found, {}
    is_wanted = settings.get("basis", "sae") == "sae"
    if not is_wanted:
        if settings["path"]:
            raise MethodError(f"path: got {settings['path']!r}; only `basis: sae` reads an autoencoder")
        return found, {}
    path = Path(settings["path"])
    if folder is not None and settings["sha256"] and not path.exists():
        path = folder.autoencoder(settings["sha256"])
    if not settings["path"]:
        raise MethodError("path: got ''; expected the folder of a sparse autoencoder, or its params.npz")
    try:
        digest, sae = digest_of(files_of(path)), read_sae(path)
    except SaeError as error:
        raise MethodError(f"path: {error}") from error
    if settings["sha256"] not in ("", digest):
        raise MethodError(f"sha256: got {settings['sha256']!r}; the files at {path} have {digest}")
    wrong = [feature for feature in settings.get("features", ()) if feature >= sae.n_features]
    if wrong:
        raise MethodError(f"features: got {wrong[0]}; the autoencoder at {path} has {sae.n_features}, from 0 on")
    if settings.get("k", 0) > sae.n_features:
        raise MethodError(f"k: got {settings['k']}; the autoencoder at {path} has {sae.n_features} features")
    found |= {"path": "", "sha256": digest, "width": sae.width, "n_features": sae.n_features}
    return found, {digest: path}
