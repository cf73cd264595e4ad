"""How many cells fit side by side into a device's memory."""

from __future__ import annotations

from typing import Final

import torch

from workers.job.host_memory import available_bytes

_COPIES: Final = 5  # rotation, tangent, its gradient, two moments
_SHARE: Final = (
    0.5  # share of the available memory; activations take the rest, and after them the retraction of a column
)


def cells_that_fit(width: int, device: torch.device, *, n_states: int = 0) -> int:
    """The largest cohort at sites of `width` whose rotations fit, or the `n_states` vectors that a cell is fitted on.

    What a forward pass takes beside them is met by halving (`workers.job.run`).
    """
    bytes_per_cell = 4 * width * max(_COPIES * width, n_states)
    return max(1, int(_SHARE * available_device_bytes(device)) // bytes_per_cell)


def available_device_bytes(device: torch.device) -> int:
    """The memory of the device that nobody uses."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
