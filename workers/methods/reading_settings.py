"""The settings of readings: methods that change nothing in the model and say what is there. No torch here."""

from __future__ import annotations

from typing import Final

from values.numbers import Count, CountOrNone, Positive
from workers.files.metrics import DECODING
from workers.files.place import BLOCK_OUTPUT, AnyPlace, Place, single
from workers.methods.base_settings import ClassSettings, MethodSettings

BLOCK_PARTS: Final = ("block_input", "attention_output", "mlp_output")  # the stream before a block, what it adds
RESIDUAL: Final = (BLOCK_OUTPUT, "block_input", "block_mid")  # the sites that hold the residual stream


class ReadingSettings(MethodSettings):
    """A reading: nothing is changed in the model, so no tail is run."""

    changes_model = False


class _LensSettings(ReadingSettings):
    """What lenses share."""

    metric = "lens_kl"
    sites = RESIDUAL

    def reads(self, place: AnyPlace, n_layers: int) -> tuple[AnyPlace, ...]:
        """The activation, and the last block's output at the same token, which the model's own distribution is of."""
        return (place, Place(layer=n_layers - 1, position=single([place])[0].position))


class LogitLensSettings(_LensSettings):
    """The logit lens: nothing to set."""

    fits = "not at all"


class TunedLensSettings(_LensSettings):
    """A tuned lens: `epochs` over the training prompts in batches of `batch_size`, Adam from `learning_rate` down to
    0."""

    epochs: Count = 3
    batch_size: Count = 64
    learning_rate: Positive = 1e-3


class ReadingVectorSettings(ClassSettings):
    """A reading vector, or one for each of several `classes` against the rest."""

    metric = DECODING
    changes_model = False


class SkillNeuronsSettings(ReadingSettings):
    """The most predictive neuron: nothing to set."""

    metric = DECODING
    tells_classes = True


class LogitAttributionSettings(ReadingSettings):
    """Direct logit attribution: nothing to set."""

    metric = "attribution"
    fits = "not at all"
    sites = (*RESIDUAL, "attention_output", "mlp_output", "head_output", "mlp_neurons")

    def reads(self, place: AnyPlace, n_layers: int) -> tuple[AnyPlace, ...]:
        """The component, and the last block's output, which the final norm's scale is of; of a block's parts also the
        stream before and behind it, which must differ by them."""
        (own,) = single([place])
        final = Place(layer=n_layers - 1, position=own.position)
        if own.site in RESIDUAL:
            return (own, final)
        around = [Place(layer=own.layer, position=own.position, site=site) for site in BLOCK_PARTS]
        return (own, final, Place(layer=own.layer, position=own.position), *around)


class AttentionPatternSettings(ReadingSettings):
    """An attention pattern: the mean attention from the cell's position to the position `to`, an index or a name."""

    metric = "attention"
    fits = "not at all"
    sites = ("head_output", "query")
    label_keys = ("to",)

    to: CountOrNone = 0

    @property
    def positions(self) -> tuple[int, ...]:
        """The key's."""
        return (self.to,)

    def reads(self, place: AnyPlace, n_layers: int) -> tuple[AnyPlace, ...]:
        """No activation: weights are read in a forward of their own."""
        return ()


class AttentionKnockoutSettings(ReadingSettings):
    """Attention knockout: in a `window` of layers around the cell's, the last token attends neither to the cell's
    position nor to those in `also`, by index or name."""

    metric = "knockout"
    fits = "not at all"
    sites = (BLOCK_OUTPUT, "head_output")
    label_keys = ("window", "also")
    own_forwards = 2  # the cell's, and that of its null

    window: Count = 10
    also: list[CountOrNone] = []  # noqa: RUF012 (pydantic copies a default)

    @property
    def positions(self) -> tuple[int, ...]:
        """The further ones."""
        return tuple(self.also)

    def reads(self, place: AnyPlace, n_layers: int) -> tuple[AnyPlace, ...]:
        """No activation: what is read is the answer, of forwards of its own."""
        return ()
