"""Adaptive polyphase sampling: the phase of the largest norm."""

from __future__ import annotations

import itertools

import pytest
import torch

from stitchsafe.nn import APS, LPU, TieWarning, parameter_groups, pinned
from stitchsafe.nn._polyphase import split


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("norm", [1.0, 2.0, 3.0])
def test_it_keeps_the_phase_of_the_largest_norm(ndim, norm):
    torch.manual_seed(0)
    x = torch.randn(5, 3, *(4, 6, 4)[:ndim])
    y, selection = APS(ndim, norm=norm)(x)
    norms = split(x).flatten(2).norm(p=norm, dim=2)
    assert torch.equal(selection.phases, norms.argmax(1))
    assert torch.equal(y, split(x)[torch.arange(5), selection.phases])


@pytest.mark.parametrize("ndim", [2, 3])
def test_every_circular_shift_is_exact(ndim):
    torch.manual_seed(0)
    down, up = APS(ndim, low_pass=3, max_pool=2).double(), LPU(low_pass=3).double()
    sizes = (4, 6, 8)[:ndim]
    x = torch.randn(1, 2, *sizes).double()
    dims = tuple(range(2, 2 + ndim))
    whole = up(*down(x))
    for shift in itertools.product(*map(range, sizes)):
        moved = up(*down(x.roll(shift, dims)))
        assert torch.allclose(moved, whole.roll(shift, dims), rtol=0, atol=1e-12)


def test_ties_are_said():
    with pytest.warns(TieWarning):
        _, selection = APS(2)(torch.ones(1, 1, 4, 4))
    assert selection.weights.tolist() == [[0.25] * 4]
    chequered = torch.ones(1, 1, 4, 4).double()
    chequered[..., ::2, ::2] += 1e-6
    assert APS(2, ties="raise")(chequered)[1].phases.tolist() == [0]
    with pytest.warns(TieWarning):
        APS(2, input_error=1e-5)(chequered)


def test_it_has_nothing_to_learn_and_passes_gradients_on():
    torch.manual_seed(0)
    for ndim in (3, 2):
        down = APS(ndim).double()
        x = torch.randn(2, 2, *(4, 6, 6)[-ndim:]).double().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, down=down: down(x)[0], x)
    assert [group["params"] for group in parameter_groups(down, weight_decay=0.1)] == [[], []]
    y, _ = down(x, pinned(2, ndim=2)[0])
    assert torch.equal(y, x[..., 1::2, ::2])


def test_half_precision():
    x = torch.randn(1, 2, 6, 6).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, selection = APS(2, low_pass=3)(x)
    assert y.dtype == torch.bfloat16
    assert selection.scores.dtype == torch.float64


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: APS(1), "2 or 3"),
        (lambda: APS(2, norm=0), "norm"),
        (lambda: APS(2)(torch.zeros(1, 1, 3, 4)), "axis 0 has 3"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
