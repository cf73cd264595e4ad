"""The tangent-space rotation against autograd, the matrix exponential and torch's parametrisation."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from workers.methods import rotation as rotation_module
from workers.methods.alignment import random_rotation
from workers.methods.rotation import ParametrizedRotation, TangentRotation, cayley_less_identity

CPU = torch.device("cpu")
D = 12


def rotations(n_cells: int) -> Tensor:
    return torch.stack([random_rotation(f"cell {index}", D, CPU) for index in range(n_cells)])


def off_orthogonal(matrices_CDD: Tensor) -> float:
    return float((matrices_CDD.mT @ matrices_CDD - torch.eye(matrices_CDD.shape[-1])).abs().max())


def test_a_random_rotation_is_orthogonal_and_depends_on_its_text_alone() -> None:
    """Same text, same matrix; other text, another."""
    assert off_orthogonal(random_rotation("a", D, CPU)[None]) < 1e-5
    assert torch.equal(random_rotation("a", D, CPU), random_rotation("a", D, CPU))
    assert not torch.equal(random_rotation("a", D, CPU), random_rotation("b", D, CPU))


def test_the_tangent_gradient_is_that_of_the_papers_form() -> None:
    """The gradient by hand equals autograd's through rotate, mix, rotate back, taken at R exp(A) for A = 0."""
    torch.manual_seed(0)
    matrix_1DD = rotations(1)
    base, source, mask, weight = torch.randn(4, 1, 5, D)
    rotation = TangentRotation(matrix_1DD)
    (rotation.mix(base, source, mask.sigmoid()) * weight).sum().backward()
    below = torch.zeros(D, D, requires_grad=True)
    turned = matrix_1DD @ torch.matrix_exp(torch.tril(below, -1) - torch.tril(below, -1).mT)
    mixed = ((1 - mask.sigmoid()) * (base @ turned) + mask.sigmoid() * (source @ turned)) @ turned.mT
    (mixed * weight).sum().backward()
    torch.testing.assert_close(torch.tril(rotation.tangent_CDD.grad[0], -1), below.grad, rtol=1e-4, atol=1e-4)


def test_both_forms_of_the_mix_agree() -> None:
    """base + ((source - base) R * m) R^T is the paper's rotate, mix, rotate back."""
    base, source, mask = torch.randn(3, 2, 5, D)
    matrices = rotations(2)
    found = TangentRotation(matrices).mix(base, source, mask.sigmoid())
    torch.testing.assert_close(
        found, ParametrizedRotation(matrices).mix(base, source, mask.sigmoid()), rtol=1e-4, atol=1e-5
    )


def test_a_base_is_left_alone_to_the_last_bit_where_the_mask_is_zero() -> None:
    """An empty mask is no intervention at all."""
    base, source = torch.randn(2, 1, 5, D)
    assert torch.equal(TangentRotation(rotations(1)).mix(base, source, torch.zeros(1, 5, D)), base)


def test_the_matrices_stay_orthogonal_over_a_whole_training() -> None:
    """1,000 steps at the paper's learning rate leave R^T R within 1e-5 of the identity."""
    torch.manual_seed(0)
    rotation = TangentRotation(rotations(2))
    optimizer = torch.optim.Adam(rotation.parameters, lr=1e-3, fused=True)
    for _ in range(1000):
        noise = torch.randn(2, D, D)
        rotation.tangent_CDD.grad = noise - noise.mT
        optimizer.step()
        rotation.finish_step()
    assert off_orthogonal(rotation.matrices()) < 1e-5


def skews(*norms: float, d: int = D) -> Tensor:
    """Skew matrices of these spectral norms."""
    noise = torch.randn(len(norms), d, d, generator=torch.Generator().manual_seed(0))
    skew = noise - noise.mT
    return skew * (torch.tensor(norms) / torch.linalg.matrix_norm(skew, ord=2))[:, None, None]


@pytest.mark.parametrize("norm", [0.0, 1e-4, 1e-2, 0.1, 0.5, 1.0, 1.9, 5.0, 300.0])
def test_the_cayley_transform_is_exact_for_small_and_large_steps(norm: float) -> None:
    """The sum of the series, or the inverse where it is long, equals what solving the equation in float64 gives."""
    skew = skews(norm)
    identity = torch.eye(D, dtype=torch.float64)
    exact = torch.linalg.solve(identity - 0.5 * skew.double(), identity + 0.5 * skew.double()) - identity
    torch.testing.assert_close(cayley_less_identity(skew).double(), exact, rtol=1e-5, atol=2e-6)


def test_a_cells_transform_does_not_depend_on_its_neighbours() -> None:
    """A small step beside a very large one, bit by bit as alone."""
    together = cayley_less_identity(skews(1e-3, 0.3, 40.0))
    for index, norm in enumerate((1e-3, 0.3, 40.0)):
        alone = cayley_less_identity(skews(1e-3, 0.3, 40.0)[index : index + 1])
        assert torch.equal(together[index], alone[0]), norm


def test_tensor_cores_leave_the_matrices_orthogonal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products rounded as TF32 rounds its operands, to 11 bits: after each of 200 steps R^T R is within 1e-5."""

    def rounded(matrices: Tensor) -> Tensor:
        return ((matrices.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)

    monkeypatch.setattr(rotation_module, "product", lambda left, right: torch.bmm(rounded(left), rounded(right)))
    d = 128
    rotation = TangentRotation(random_rotation("cell", d, CPU)[None])
    optimizer = torch.optim.Adam(rotation.parameters, lr=1e-3, fused=True)
    torch.manual_seed(0)
    worst = 0.0
    for _ in range(200):
        noise = torch.randn(1, d, d)
        rotation.tangent_CDD.grad = noise - noise.mT
        optimizer.step()
        rotation.finish_step()
        worst = max(worst, off_orthogonal(rotation.matrices()))
    assert 1e-7 < worst < 1e-5


def test_both_rotations_learn_a_planted_subspace() -> None:
    """Asked to carry over one given direction and nothing else, both find it."""
    torch.manual_seed(0)
    direction = nn.functional.normalize(torch.randn(D), dim=0)
    mask = torch.zeros(1, 64, D)
    mask[..., 0] = 1.0
    for rotation in (TangentRotation(rotations(1)), ParametrizedRotation(rotations(1))):
        optimizer = torch.optim.Adam(rotation.parameters, lr=3e-2)
        for _ in range(300):
            base, source = torch.randn(2, 1, 64, D)
            wanted = base + ((source - base) @ direction)[..., None] * direction
            loss = (rotation.mix(base, source, mask) - wanted).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rotation.finish_step()
        assert float((rotation.matrices()[0, :, 0] @ direction).abs()) > 0.999


def test_a_restored_rotation_goes_on_bit_by_bit() -> None:
    """State written and read back in mid-training leads to the same matrices."""
    torch.manual_seed(0)
    moves = [noise - noise.mT for noise in torch.randn(60, 1, D, D) * 1e-2]

    def run(rotation: TangentRotation, some: list[Tensor]) -> TangentRotation:
        for move in some:
            rotation.tangent_CDD.data.copy_(move)
            rotation.finish_step()
        return rotation

    whole = run(TangentRotation(rotations(1)), moves)
    resumed = TangentRotation(rotations(1) * 0)
    resumed.restore(run(TangentRotation(rotations(1)), moves[:37]).state())
    assert torch.equal(run(resumed, moves[37:]).matrices(), whole.matrices())
