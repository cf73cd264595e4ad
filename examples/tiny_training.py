"""Train a small Llama on tasks of the project: the next token after a task's prompt should be the right answer.

Only the answer's token enters the loss. The tokens with which all prompts of a batch begin are run once, as a batch of
one, and the prompts share their keys and values. This gives the same gradient with less than half of the work.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_tokenizer import build_tokenizer
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from workers.engine.model import cache_argument
from workers.tasks import load_task
from workers.tasks.base import AbstractTask


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One wording or range of the task: its share of the steps in the part of the training that shows it."""

    task: Mapping[str, Any]
    share: float
    start: float = 0.0  # as a share of all steps
    end: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How to train: AdamW, linear warm-up, cosine decay to zero."""

    steps: int
    batch: int = 256
    learning_rate: float = 3e-3
    warmup_steps: int = 50
    beta2: float = 0.999
    gradient_norm: float = 1.0
    seed: int = 0


def train_command(
    description: str,
    *,
    folder: Path,
    variants: Mapping[str, Variant],
    plan: TrainingPlan,
    initial_std: float = 0.02,
    splits: Sequence[tuple[str, ...]] = (),
) -> None:
    """The whole of a training script: tokenizer, training, measurement, checkpoint in `folder`.

    The same seed, threads, versions and kind of CPU give the same bytes.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", type=Path, default=folder, help="checkpoint folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, default=plan.steps, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=plan.seed, help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="default: %(default)s")
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    plan = replace(plan, steps=options.steps, seed=options.seed)
    tokenizer = build_tokenizer(_texts(variants), splits=splits)
    model = small_llama(tokenizer, initial_std=initial_std)
    train(model, tokenizer, variants, plan)
    record = {
        "plan": asdict(plan),
        "threads": options.threads,
        "variants": {name: asdict(variant) for name, variant in variants.items()},
        "accuracy": report(model, tokenizer, variants),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)
    (options.out / "training.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    print(f"checkpoint: {options.out}")


def small_llama(tokenizer: Any, *, layers: int = 4, hidden: int = 64, heads: int = 4, initial_std: float = 0.02) -> Any:
    """An untrained Llama over the tokenizer's vocabulary."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=hidden,
            intermediate_size=hidden * 11 // 4,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            max_position_embeddings=256,
            initializer_range=initial_std,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )


def train(model: Any, tokenizer: Any, variants: Mapping[str, Variant], plan: TrainingPlan) -> None:
    """Train `model` in place, one variant a step, drawn by its share; a line of progress every 100 steps."""
    rng = random.Random(plan.seed)
    tasks = {name: load_task(variant.task) for name, variant in variants.items()}
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.learning_rate, betas=(0.9, plan.beta2), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, plan))
    model.train()
    started = time.monotonic()
    for step in range(1, plan.steps + 1):
        shown = {name: one.share for name, one in variants.items() if one.start <= (step - 1) / plan.steps < one.end}
        (name,) = rng.choices(list(shown), list(shown.values()))
        tokens, lengths, labels = make_batch(tasks[name], tokenizer, rng, plan.batch)
        logits = last_logits(model, tokens, lengths)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), plan.gradient_norm)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == plan.steps:
            share = (logits.argmax(-1) == labels).float().mean().item()
            spent = time.monotonic() - started
            print(f"step {step}/{plan.steps}  loss {loss.item():.4f}  right {share:.3f}  {spent:.0f} s", flush=True)


def make_batch(
    task: AbstractTask, tokenizer: Any, rng: random.Random, n: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """`n` fresh prompts' token ids, n x tokens, filled up behind their ends; their lengths; each one's right answer."""
    draws = [task.sample(rng) for _ in range(n)]
    rows = [torch.tensor(row) for row in tokenizer([task.prompt(inputs) for inputs in draws])["input_ids"]]
    labels = tokenizer.convert_tokens_to_ids([task.answers[task.outcome(inputs)] for inputs in draws])
    tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return tokens, torch.tensor([len(row) for row in rows]), torch.tensor(labels)


def last_logits(model: Any, tokens: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The logits at each prompt's last token, n x vocabulary."""
    same = (tokens == tokens[0]).all(dim=0).long().cumprod(dim=0)
    n_prefix = min(int(same.sum()), int(lengths.min()) - 1)
    cache = DynamicCache(config=model.config)
    model.model(tokens[:1, :n_prefix], use_cache=True, **cache_argument(model.model, cache))
    cache.batch_repeat_interleave(len(tokens))
    hidden = model.model(tokens[:, n_prefix:], use_cache=True, **cache_argument(model.model, cache)).last_hidden_state
    return model.lm_head(hidden[torch.arange(len(tokens)), lengths - 1 - n_prefix])


@torch.no_grad()
def accuracy(model: Any, tokenizer: Any, task: AbstractTask, *, n: int) -> float:
    """The share of `n` fresh prompts that the model answers right (argmax over the whole vocabulary)."""
    model.eval()
    rng = random.Random("fresh prompts")
    n_right = 0
    for start in range(0, n, 500):
        tokens, lengths, labels = make_batch(task, tokenizer, rng, min(500, n - start))
        n_right += int((last_logits(model, tokens, lengths).argmax(-1) == labels).sum())
    return n_right / n


def report(model: Any, tokenizer: Any, variants: Mapping[str, Variant], *, n: int = 10_000) -> dict[str, float]:
    """The accuracy on each variant, printed as it is measured."""
    found = {}
    for name, variant in variants.items():
        found[name] = accuracy(model, tokenizer, load_task(variant.task), n=n)
        print(f"{name:>24}  right on {found[name]:.4f} of {n} fresh prompts", flush=True)
    return found


def _texts(variants: Mapping[str, Variant]) -> list[str]:
    """A prompt and all answers of each variant: the words that the tokenizer must know."""
    tasks = [load_task(variant.task) for variant in variants.values()]
    prompts = [task.prompt(task.sample(random.Random(0))) for task in tasks]
    return prompts + [answer for task in tasks for answer in task.answers.values()]


def _rate(step: int, plan: TrainingPlan) -> float:
    if step < plan.warmup_steps:
        return (step + 1) / plan.warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - plan.warmup_steps) / (plan.steps - plan.warmup_steps)))
