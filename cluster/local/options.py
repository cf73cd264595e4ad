"""The `local:` block: what a user may say of jobs on this machine."""

from __future__ import annotations

from cluster.options import Block
from values.numbers import Workers


class LocalBlock(Block):
    """`workers`: how many jobs run side by side (default: one a GPU, or a CPU where there is none)."""

    workers: Workers | None = None
