"""What planning knows of any method, and the settings that all methods share: none. No torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from workers.files.metrics import IIA
from workers.files.place import AnyPlace


class MethodError(ValueError):
    """A method or a setting of it must be mended; the message names key, value and what is expected."""


class MethodSettings(BaseModel):
    """A method without settings, and what planning must know of any method.

    `sites`: those that the method works at; none: all of them. `metric`: what its numbers are, a key of
    `workers.files.metrics.METRICS`. `changes_model`: it intervenes, so that it is evaluated by running tails; a reading
    changes nothing and runs none. `fits`: what a cell costs before it is evaluated. `label_keys`: settings that tell
    the cells of one grid apart, so that they are part of the method's label. `tells_classes`: it tells classes of a
    variable's values apart: two, for which they need an order, or with `takes_names` as many as there are. `later`:
    settings that came after the method; at their default they are no part of a cell key. `whole_vector`: it takes a
    vector over as it is. `subspace_of_each`: it can learn a subspace of each place of a set. `own_forwards`: how often
    each cell runs the whole model on every test prompt.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metric: ClassVar[str] = IIA
    changes_model: ClassVar[bool] = True
    fits: ClassVar[Literal["by gradient", "on activations", "not at all"]] = "on activations"
    label_keys: ClassVar[tuple[str, ...]] = ()
    sites: ClassVar[tuple[str, ...]] = ()
    tells_classes: ClassVar[bool] = False
    takes_names: ClassVar[bool] = False
    later: ClassVar[tuple[str, ...]] = ()
    whole_vector: ClassVar[bool] = False
    subspace_of_each: ClassVar[bool] = False
    own_forwards: ClassVar[int] = 0

    @property
    def positions(self) -> tuple[int, ...]:
        """Positions of the prompts that the settings name, beside the cells' own."""
        return ()

    def why_not(self, *, width: int, n_variables: int) -> str:
        """Why the method has no meaning for that number of variables in a vector of this size; empty where it has."""
        return ""

    def why_not_at(self, place: AnyPlace) -> str:
        """Why the method has no meaning at a place, or at one of a set; empty where it has."""
        for point in place.points if self.sites else ():
            if point.site not in self.sites:
                return f"the method works at {', '.join(self.sites)}, and not at {point.site}"
        return ""

    def reads(self, place: AnyPlace, n_layers: int) -> tuple[AnyPlace, ...]:
        """The places whose activations a cell at `place` reads."""
        return (place,)


class ClassSettings(MethodSettings):
    """A variable's classes. With `classes: cut` a number is above the cut or not, and a value that is no number is a
    class of its own; with `each` every value is a class."""

    tells_classes = True
    takes_names = True
    later: ClassVar[tuple[str, ...]] = ("classes",)
    label_keys: ClassVar[tuple[str, ...]] = ("classes",)

    classes: Literal["cut", "each"] = "cut"
