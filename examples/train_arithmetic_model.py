"""Make `examples/arithmetic-model`: a four-layer Llama that says the last digit of (a + b) * c.

python examples/train_arithmetic_model.py
"""

from __future__ import annotations

from pathlib import Path

from tiny_training import Variant, train_command

if __name__ == "__main__":
    train_command(
        "Train the arithmetic example's model.",
        folder=Path(__file__).with_name("arithmetic-model"),
        variants={"plain": Variant(task={"name": "arithmetic"}, share=1.0)},
        steps=1500,
    )
