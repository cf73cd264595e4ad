"""The settings of readings: methods that change nothing in the model and say what is there. No torch here."""

from __future__ import annotations

from typing import Final

from workers.files.place import BLOCK_OUTPUT, Place
from workers.methods.base_settings import MethodSettings

RESIDUAL: Final = (BLOCK_OUTPUT, "block_input", "block_mid")  # the sites that hold the residual stream


class ReadingSettings(MethodSettings):
    """A reading: nothing is changed in the model, so no tail is run."""

    changes_model = False


class LogitLensSettings(ReadingSettings):
    """The logit lens: nothing to set."""

    metric = "lens_kl"
    fits = "not at all"
    sites = RESIDUAL

    def reads(self, place: Place, n_layers: int) -> tuple[Place, ...]:
        """The activation, and the last block's output at the same token, which the model's own distribution is of."""
        return (place, Place(layer=n_layers - 1, position=place.position))
