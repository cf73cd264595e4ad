"""Make `examples/demo-model`: a four-layer Llama that plays the price tagging game.

    python examples/train_demo_model.py

The training is seeded. Most steps show the game as it is. A few show the sibling instruction or a sentence of
irrelevant context, so that the demo can ask whether an alignment also holds there. The tokenizer cuts the prompt as
LLaMA's does: 82 tokens, the last thirteen with the labels of the paper's axes.
"""

from __future__ import annotations

from pathlib import Path

from tiny_training import TrainingPlan, Variant, train_command

GAME = {"name": "price_tagging"}
VARIANTS = {
    "plain": Variant(task=GAME, share=0.70),
    "sibling_instruction": Variant(
        task=GAME | {"say": ["True", "False"], "answers_as": ["True", "False"]},
        share=0.10,
    ),
    "pricing_tag_game": Variant(task=GAME | {"context": "Pricing tag game!"}, share=0.10),
    "fruitarian_frogs": Variant(
        task=GAME | {"context": "Fruitarian Frogs May Be Doing Flowers a Favor"},
        share=0.10,
    ),
}
# Words that LLaMA's tokenizer writes as more than one token.
SPLITS = [
    (" pa", "ired"),
    (" appropri", "ately"),
    (" comple", "tes"),
    (" Inst", "ruction"),
    ("P", "ric", "ing"),
    ("F", "ru", "it", "arian"),
    (" Fro", "gs"),
    (" Do", "ing"),
    (" Flow", "ers"),
    (" Fav", "or"),
]

if __name__ == "__main__":
    train_command(
        "Train the demo's model.",
        folder=Path(__file__).with_name("demo-model"),
        variants=VARIANTS,
        splits=SPLITS,
        plan=TrainingPlan(steps=1500),
    )
