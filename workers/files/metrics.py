"""What the numbers of a row are: the meaning of its `metric`. No torch here: tables, maps and pages ask too.

A row has one metric, that of its method. Two metrics never share a scale, a table or a map: they may not even have a
unit in common. To add one: an entry in `METRICS`, and a measure in `workers.files.shard.SUMMED` or `READ` where it is
the mean of something that no column holds yet.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

IIA: Final = "iia"
DECODING: Final = "decoding"
CLASS_SCORES: Final = ("chance", "balanced", "f1", "mcc")  # a classifier's, beside its accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Meaning:
    """What one kind of number says.

    `title` names it on axes and in tables. It is a share, `n_correct` of `n_total`, unless `measure` names what it is
    the mean of over `n_total` pairs or prompts, in `unit`. `changes_model`: it is an intervention's, else a reading's.
    `best` says which end of a map is of interest. `null` is its own control (the columns that end in `_random`).
    `changed` is what was changed in a reading's run. `about` is what a reading's numbers say, and do not say.
    """

    title: str
    about: str
    changes_model: bool = False
    null: str = ""
    measure: str = ""
    unit: str = ""
    best: str = "highest"
    changed: str = "nothing was changed in the model"

    @property
    def label(self) -> str:
        """The title with its unit, for a colour bar."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    @property
    def words(self) -> str:
        """The title within a sentence: abbreviations keep their capitals."""
        return self.title if self.title[1].isupper() else self.title[0].lower() + self.title[1:]

    @property
    def is_share(self) -> bool:
        """Whether it is a share of right answers."""
        return not self.measure


METRICS: Final[dict[str, Meaning]] = {
    IIA: Meaning(
        title="IIA",
        changes_model=True,
        null="random rotation",
        about="How often the model gives the counterfactual answer once the activation is changed.",
    ),
    DECODING: Meaning(
        title="Decoding accuracy",
        null="the method's own null",
        about="How well a probe reads the variable off the same activations. This is not IIA: nothing was changed in "
        "the model, and what can be decoded need not be what the model uses.",
    ),
    "lens_kl": Meaning(
        title="KL from the model's distribution to the lens's",
        measure="kl",
        unit="nats",
        best="lowest",
        null="the lens of another prompt",
        about="How far the token distribution that is read off an activation is from the model's own at the same "
        "token. This is no effect: nothing was changed in the model.",
    ),
    "attribution": Meaning(
        title="Attribution to the logit difference",
        measure="logit_diff",
        unit="logits",
        null="a random direction of the same length",
        about="What a component writes directly into the answer's logit less that of the counterfactual answer. What "
        "it does by way of later layers is not in it.",
    ),
    "attention": Meaning(
        title="Attention",
        measure="attention",
        unit="share of the query's attention",
        null="equal attention to every token in sight",
        about="How much a head attends to a position. A head may attend to what it makes no use of.",
    ),
    "knockout": Meaning(
        title="Relative change of the answer's probability",
        measure="relative_change",
        best="lowest",
        null="as many random other edges",
        changed="edges of the attention were cut",
        about="How much less likely the answer becomes when the last token cannot attend to a position. What another "
        "token passes on is not in it.",
    ),
    # Of interventions too, chosen instead of IIA when results are shown (`orchestrator.store.metrics`).
    **{
        name: Meaning(title=title, measure=name, changes_model=True, null="random rotation", about="")
        for name, title in (
            ("label_logprob", "Log-probability of the label"),
            ("logit_diff", "Logit difference"),
            ("kl", "KL divergence"),
            ("log_odds", "Log odds ratio"),
        )
    },
    "flips": Meaning(title="Share of flips", changes_model=True, null="random rotation", about=""),
}
