"""Learning an orthogonal matrix, twice: a step in the tangent space, and torch's own parametrisation (the oracle).

Both stand for C rotations R_CDD at once and mix in the rotated basis:
    mixed = base + (((source - base) R) * mask) R^T          (`TangentRotation`)
    mixed = ((1 - mask) * (base R) + mask * (source R)) R^T  (`ParametrizedRotation`: the paper's; equal)

Shapes, by suffix: C cells, B pairs, D width of the site.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from workers.methods.alignment import Alignment, Learned

_STEPS_BETWEEN_POLISHES: Final = 10
_CAYLEY_ERROR: Final = 1e-7
_MOST_FACTORS: Final = 4  # terms of the series: enough for |A| up to 1, far above a step of the optimizer


class AbstractRotation(ABC):
    """C orthogonal matrices that learn. `parameters` go to the optimizer; each of its steps ends with `finish_step`."""

    parameters: list[nn.Parameter]

    @abstractmethod
    def mix(self, base_CBD: Tensor, source_CBD: Tensor, mask_CBD: Tensor) -> Tensor:
        """mixed_CBD, differentiable in the parameters and the mask."""

    @abstractmethod
    def finish_step(self) -> None:
        """Bring the matrices back to orthogonality after the optimizer has moved the parameters."""

    @abstractmethod
    def matrices(self) -> Tensor:
        """The present R_CDD, detached."""

    def learned(self, mask_CVD: Tensor, n_directions: int) -> Learned:
        """What an interchange with these masks is, frozen; they let nothing through behind `n_directions`."""
        directions_CDK = self.matrices()[:, :, :n_directions].contiguous()
        return Alignment(directions_CDK, mask_CVD[:, :, :n_directions].contiguous())

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What to write into a checkpoint, beside the optimizer's own state; `restore` continues from it."""

    @abstractmethod
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from what `state` gave."""


class _TangentMix(torch.autograd.Function):
    """mixed_CBD, with the gradient of the rotation given in the tangent space at R.

    Write R exp(A) for a small skew A. With y = (source - base) R, z = mask * y and u = (dL/dmixed) R,
        dL/dA = y^T (mask * u) + u^T z,    and its skew part  S = dL/dA - (dL/dA)^T
    is the gradient in the entries below A's diagonal. Two products of B x D matrices; R^T (dL/dR), a D x D x D product,
    is never formed.
    """

    @staticmethod
    def forward(
        ctx: Any, tangent_CDD: Tensor, rotation_CDD: Tensor, base_CBD: Tensor, source_CBD: Tensor, mask_CBD: Tensor
    ) -> Tensor:
        rotated_CBD = torch.bmm(source_CBD - base_CBD, rotation_CDD)
        ctx.save_for_backward(rotation_CDD, rotated_CBD, mask_CBD)
        return base_CBD + torch.bmm(rotated_CBD * mask_CBD, rotation_CDD.mT)

    @staticmethod
    def backward(ctx: Any, grad_CBD: Tensor) -> tuple[Tensor, None, None, None, Tensor]:
        rotation_CDD, rotated_CBD, mask_CBD = ctx.saved_tensors
        grad_CBD = torch.bmm(grad_CBD, rotation_CDD)
        left = torch.cat([rotated_CBD, grad_CBD], dim=1)
        right = torch.cat([grad_CBD * mask_CBD, rotated_CBD * mask_CBD], dim=1)
        tangent_grad_CDD = torch.bmm(left.mT, right)
        return tangent_grad_CDD - tangent_grad_CDD.mT, None, None, None, grad_CBD * rotated_CBD


class TangentRotation(AbstractRotation):
    """The optimizer moves a skew matrix A from zero; R is then multiplied by A's Cayley transform and A is zero again.

    No matrix exponential is taken. Rounding errors of the products are removed every few steps by a Newton-Schulz step.
    Source: Li, Fuxin, Todorovic, "Efficient Riemannian optimization on the Stiefel manifold via the Cayley transform",
    ICLR 2020 (retraction); Lezcano-Casado, "Trivializations for gradient-based optimization on manifolds", NeurIPS 2019
    (a tangent basis that moves along with R).
    """

    def __init__(self, matrices_CDD: Tensor) -> None:
        self.rotation_CDD = matrices_CDD.clone()
        self.tangent_CDD = nn.Parameter(torch.zeros_like(matrices_CDD))
        self.parameters = [self.tangent_CDD]
        self._n_steps = 0

    def mix(self, base_CBD: Tensor, source_CBD: Tensor, mask_CBD: Tensor) -> Tensor:
        mixed: Tensor = _TangentMix.apply(self.tangent_CDD, self.rotation_CDD, base_CBD, source_CBD, mask_CBD)
        return mixed

    @torch.no_grad()
    def finish_step(self) -> None:
        """R <- R + R (Q - I), Q the Cayley transform of A."""
        with _tensor_cores():
            self.rotation_CDD += product(self.rotation_CDD, cayley_less_identity(self.tangent_CDD))
        self.tangent_CDD.zero_()
        self._n_steps += 1
        if self._n_steps % _STEPS_BETWEEN_POLISHES == 0:
            self.polish()

    @torch.no_grad()
    def polish(self) -> None:
        """R <- R + R (I - R^T R) / 2: one Newton-Schulz step towards the nearest orthogonal matrix."""
        error_CDD = torch.eye(self.rotation_CDD.shape[-1], device=self.rotation_CDD.device)
        error_CDD = error_CDD - torch.bmm(self.rotation_CDD.mT, self.rotation_CDD)
        with _tensor_cores():
            self.rotation_CDD += 0.5 * product(self.rotation_CDD, error_CDD)

    def matrices(self) -> Tensor:
        return self.rotation_CDD.detach()

    def state(self) -> dict[str, Tensor]:
        """The matrices, and the count of steps, so that polishing falls on the same ones as without a break."""
        return {"rotation": self.rotation_CDD, "n_steps": torch.tensor(self._n_steps)}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.rotation_CDD = state["rotation"].to(self.rotation_CDD.device)
        self._n_steps = int(state["n_steps"])


def cayley_less_identity(skew_CDD: Tensor) -> Tensor:
    """Q_CDD - I for the Cayley transform Q = (I - B)^-1 (I + B) of B = A / 2, to _CAYLEY_ERROR; each cell on its own.

    Q - I = 2 (B + B^2 + B^3 + ...), and the series is summed in products of D x D matrices, which the hardware is made
    for, twice as many terms with each two:  (I + B) (I + B^2) (I + B^4) ... . A step of the optimizer is small, so the
    first or the second factor is the last. Where the series does not end soon, the inverse is taken.
    """
    half_CDD = 0.5 * skew_CDD
    sum_CDD, power_CDD = half_CDD, product(half_CDD, half_CDD)
    error_C = torch.linalg.matrix_norm(power_CDD)  # what the sum still lacks, relative to all of it
    for n_factors in range(1, _MOST_FACTORS + 1):
        is_open_C11 = (error_C > _CAYLEY_ERROR)[:, None, None]
        sum_CDD = torch.where(is_open_C11, sum_CDD + power_CDD + product(sum_CDD, power_CDD), sum_CDD)
        error_C = torch.where(is_open_C11[:, 0, 0], error_C.square(), error_C)
        if not (error_C > _CAYLEY_ERROR).any():
            return 2 * sum_CDD
        if n_factors < _MOST_FACTORS:
            power_CDD = product(power_CDD, power_CDD)
            error_C = torch.minimum(error_C, torch.linalg.matrix_norm(power_CDD))
    identity_DD = torch.eye(skew_CDD.shape[-1], device=skew_CDD.device)
    inverse_CDD, _ = torch.linalg.inv_ex(identity_DD - half_CDD)
    return 2 * torch.where((error_C > _CAYLEY_ERROR)[:, None, None], inverse_CDD - identity_DD, sum_CDD)


def product(left_CDD: Tensor, right_CDD: Tensor) -> Tensor:
    """left right, of matrices one of which is small: what rounding does to it is smaller still."""
    return torch.bmm(left_CDD, right_CDD)


@contextmanager
def _tensor_cores() -> Iterator[None]:
    """Let a GPU multiply float32 matrices on its tensor cores, in TF32: 8 to 10 times faster, 11 bits of mantissa."""
    matmul = torch.backends.cuda.matmul
    before, matmul.fp32_precision = matmul.fp32_precision, "tf32"
    try:
        yield
    finally:
        matmul.fp32_precision = before


class ParametrizedRotation(AbstractRotation):
    """torch.nn.utils.parametrizations.orthogonal, by the matrix exponential: one matrix at a time."""

    def __init__(self, matrices_CDD: Tensor) -> None:
        self._layers = [self._layer(matrix_DD) for matrix_DD in matrices_CDD]
        self.parameters = [parameter for layer in self._layers for parameter in layer.parameters()]

    @staticmethod
    def _layer(matrix_DD: Tensor) -> nn.Module:
        layer = nn.Linear(len(matrix_DD), len(matrix_DD), bias=False, device=matrix_DD.device)
        with torch.no_grad():
            layer.weight.copy_(matrix_DD)
        return parametrizations.orthogonal(layer, orthogonal_map="matrix_exp")

    def mix(self, base_CBD: Tensor, source_CBD: Tensor, mask_CBD: Tensor) -> Tensor:
        rotation_CDD = torch.stack([layer.weight for layer in self._layers])  # type: ignore[misc]
        base_rotated, source_rotated = torch.bmm(base_CBD, rotation_CDD), torch.bmm(source_CBD, rotation_CDD)
        return torch.bmm((1 - mask_CBD) * base_rotated + mask_CBD * source_rotated, rotation_CDD.mT)

    def finish_step(self) -> None:
        """Nothing: the parametrisation is orthogonal by construction."""

    def matrices(self) -> Tensor:
        with torch.no_grad():
            return torch.stack([layer.weight for layer in self._layers])  # type: ignore[misc]

    def state(self) -> dict[str, Tensor]:
        """Parameters and the fixed base that they are relative to, of each matrix."""
        return {
            f"{name}.{index}": tensor.detach()
            for index, layer in enumerate(self._layers)
            for name, tensor in layer.state_dict().items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        for index, layer in enumerate(self._layers):
            layer.load_state_dict({name: state[f"{name}.{index}"] for name in layer.state_dict()})
