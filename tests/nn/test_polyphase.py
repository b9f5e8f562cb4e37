"""Phases, and selections that are shared or given from outside."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stitchsafe.nn import (
    LPD,
    LPU,
    Selection,
    pinned,
)
from stitchsafe.nn._polyphase import join, local_phases, next_origin, offsets, phase, place, split


def every(size: int, ndim: int = 2):
    return itertools.product(range(size), repeat=ndim)


# phases


@pytest.mark.parametrize("ndim", [2, 3])
def test_phases_are_row_major_and_come_together_again(ndim):
    x = torch.randn(2, 3, *(4, 6, 8)[:ndim])
    apart = split(x)
    for index, start in enumerate(offsets(ndim)):
        assert index == sum(d << (ndim - 1 - axis) for axis, d in enumerate(start))
        cut = tuple(slice(d, None, 2) for d in start)
        assert torch.equal(apart[:, index], x[(..., *cut)])
        assert torch.equal(phase(x, index), x[(..., *cut)])
        placed = place(apart[:, index], F.one_hot(torch.tensor([index]), 2**ndim))
        assert torch.equal(placed[(..., *cut)], x[(..., *cut)])
        assert placed.count_nonzero() == apart[:, index].count_nonzero()
    assert torch.equal(join(apart), x)


def test_the_order_of_phases_is_that_of_pixel_unshuffle():
    x = torch.randn(2, 1, 4, 6)
    assert torch.equal(F.pixel_unshuffle(x, 2), split(x)[:, :, 0])


@pytest.mark.parametrize("shape", [(1, 2, 5, 4), (1, 2, 4, 4, 7)])
def test_odd_sizes_are_refused(shape):
    with pytest.raises(ValueError, match=f"axis {shape[2:].index(max(shape[2:]))} has .* even"):
        LPD(len(shape) - 2, 2).eval()(torch.zeros(shape))


# shared and given selections


def test_a_shortcut_takes_the_sample_of_the_main_branch():
    torch.manual_seed(0)
    down = LPD(2, 4)  # in training: a sample
    main, shortcut = torch.randn(3, 4, 8, 8), torch.randn(3, 7, 8, 8)
    _, selection = down(main)
    z, same = down(shortcut, selection)
    assert same is selection
    expected = (split(shortcut) * selection.weights.to(shortcut)[:, :, None, None, None]).sum(1)
    assert torch.allclose(z, expected, atol=1e-6)
    assert ((selection.weights > 0) & (selection.weights < 1)).all()


def test_upsampling_places_by_weights():
    torch.manual_seed(0)
    y, selection = LPD(2, 3)(torch.randn(2, 3, 8, 8))
    apart = split(LPU()(y, selection))
    for index in range(4):
        weight = selection.weights.to(y)[:, index].reshape(-1, 1, 1, 1)
        assert torch.equal(apart[:, index], y * weight)


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradients_of_upsampling_without_a_filter(ndim):
    torch.manual_seed(0)
    y = torch.randn(2, 2, *(3, 2, 2)[:ndim]).double().requires_grad_()
    mixed = torch.rand(2, 2**ndim).double()
    for weights in (mixed, F.one_hot(mixed.argmax(1), 2**ndim).double()):
        weights = weights.requires_grad_()
        assert torch.autograd.gradcheck(lambda y, w: LPU()(y, Selection(w)), (y, weights))


def test_the_gain_of_upsampling():
    """FACTS: a quarter in 2-D unless compensated, an eighth in 3-D."""
    for ndim in (2, 3):
        selection = pinned(0, ndim=ndim)[0]
        y = torch.ones(1, 1, *(4,) * ndim)
        gain = [float(LPU(low_pass=3, compensate=c)(y, selection).mean()) for c in (False, True)]
        assert gain == [0.5**ndim, 1.0]


@pytest.mark.parametrize("ndim", [2, 3])
def test_global_phases_keep_the_same_elements_whatever_the_tiles_origin(ndim):
    world = torch.arange(24**ndim).reshape(1, 1, *(24,) * ndim).double()
    for k, origin in itertools.product(range(2**ndim), every(2, ndim)):
        kept = phase(world, k)
        tile = world[(..., *(slice(o + 4, o + 12) for o in origin))]
        start = tuple(o + 4 for o in origin)
        local = int(local_phases(torch.tensor(k), start, ndim))
        begin = next_origin(torch.tensor(k), start, ndim).tolist()
        expected = kept[(..., *(slice(b, b + 4) for b in begin))]
        assert torch.equal(phase(tile, local), expected)


def test_origins_of_an_extended_border_are_negative():
    assert int(local_phases(torch.tensor(0), (-1, -2), 2)) == 2
    assert next_origin(torch.tensor([0, 3]), (-3, -2), 2).tolist() == [[-1, -1], [-2, -1]]


@pytest.mark.parametrize("origin", [(0, 0), (3, 6), (5, 1), (8, 2)])
def test_tiles_with_given_phases_equal_the_whole(origin):
    """Several levels, valid convolutions, any origin: only global phases make this exact."""
    torch.manual_seed(7)
    size, levels = 44, 2

    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.ModuleList(nn.Conv2d(n, 2, 3) for n in (1, 2, 2))
            self.down = nn.ModuleList(LPD(2, 2, score_padding="valid") for _ in range(levels))

        def forward(self, x, selections=None):
            chosen = []
            for level, conv in enumerate(self.conv):
                x = conv(x).tanh()
                if level < levels:
                    x, selection = self.down[level](x, selections and selections[level])
                    chosen.append(selection)
            return x, chosen

    net = Encoder().double().eval()
    x = torch.randn(1, 1, 2 * (2 * (3 + 6) + 2) + 2 + size, 66 + 20).double()
    with torch.inference_mode():
        whole, chosen = net(x)
        decided = [int(selection.phases) for selection in chosen]
        tile = x[..., origin[0] : origin[0] + 30, origin[1] : origin[1] + 30]
        found, _ = net(tile, pinned(decided, ndim=2, origin=origin))
        at = torch.tensor(origin)
        for k in decided:
            at = next_origin(torch.tensor(k), at, 2)
        top, left = at.tolist()
        expected = whole[..., top : top + found.shape[2], left : left + found.shape[3]]
        assert torch.allclose(found, expected, rtol=0, atol=1e-12)
        if any(o % 4 for o in origin):
            naive, _ = net(tile, pinned(decided, ndim=2))
            assert (naive - expected).abs().max() > 1e-3


def test_selections_may_differ_between_images_of_a_batch():
    x = torch.randn(3, 1, 4, 4)
    (selection,) = pinned(torch.tensor([[0, 1, 3]]), ndim=2, origin=[[0, 0], [1, 0], [1, 1]])
    assert selection.phases.tolist() == [0, 3, 0]
    y, _ = LPD(2, 1).eval()(x, selection)
    for image, index in enumerate((0, 3, 0)):
        assert torch.equal(y[image], phase(x, index)[image])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phases": 4, "ndim": 2}, "0 to 3"),
        ({"phases": [-1], "ndim": 3}, "0 to 7"),
        ({"phases": 0.5, "ndim": 2}, "whole numbers"),
        ({"phases": 0, "ndim": 2, "origin": (1, 2, 3)}, "2 whole numbers"),
    ],
)
def test_impossible_phases_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        pinned(arguments.pop("phases"), **arguments)
