"""Make `examples/arithmetic-model`: a four-layer Llama that says the last digit of (a + b) * c.

    python examples/train_arithmetic_model.py --threads 1

The training is seeded. On one thread, with the same torch on the same kind of CPU, it writes the same bytes again.

Sums come first. They are asked for right after the bracket, and their range grows. The whole range at once is learned
very slowly, because no digit alone says anything about a sum's last digit. For the same reason the initial weights are
larger than usual, and Adam forgets sooner. Products come when sums are known, and the training on sums continues beside
them.

The sums matter to the sweep. A model trained on products alone (2,000 steps, addends with a growing range) also
answered all of 10,000 fresh prompts. But `add_first` reached an IIA of only 0.57 in it, where no intervention has 0.50.
"""

from __future__ import annotations

from pathlib import Path

from tiny_training import TrainingPlan, Variant, train_command

SUM = {"name": "arithmetic", "factors": []}
VARIANTS = {
    "sum of 10 to 12": Variant(task=SUM | {"addends": [10, 12]}, share=1.0, end=0.05),
    "sum of 10 to 14": Variant(task=SUM | {"addends": [10, 14]}, share=1.0, start=0.05, end=0.15),
    "sum of 10 to 19": Variant(task=SUM | {"addends": [10, 19]}, share=1.0, start=0.15, end=0.3),
    "sum": Variant(task=SUM | {"addends": [1, 99]}, share=0.3, start=0.3),
    "product": Variant(task={"name": "arithmetic", "addends": [1, 99]}, share=0.7, start=0.4),
}

if __name__ == "__main__":
    train_command(
        "Train the arithmetic example's model.",
        folder=Path(__file__).with_name("arithmetic-model"),
        variants=VARIANTS,
        plan=TrainingPlan(steps=1200, batch=128, beta2=0.99),
        initial_std=0.1,
    )
