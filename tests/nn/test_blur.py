"""Low-pass filters: their taps, gain and placing; pooling by them."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from stitchsafe.nn import LowPass, LowPassPool, StrideOneMax


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("taps", [1, 2, 3, 4, 5, 7])
def test_the_taps_are_binomial_and_constants_stay(taps, ndim):
    row = torch.tensor([math.comb(taps - 1, k) for k in range(taps)]).double()
    x = torch.zeros(1, 1, *(9,) * ndim).double()
    x[(0, 0, *(4,) * ndim)] = 1
    found = LowPass(taps, padding="circular").double()(x)[0, 0]
    expected = torch.zeros(9).double()
    expected[4 - taps // 2 : 4 - taps // 2 + taps] = row / row.sum()
    for axis in range(ndim):
        other = tuple(a for a in range(ndim) if a != axis)
        assert torch.allclose(found.sum(other), expected, rtol=0, atol=1e-15)
    for padding in ("circular", "reflect", "valid"):
        y = LowPass(taps, padding=padding).double()(torch.ones(1, 2, *(8,) * ndim).double())
        assert torch.equal(y, torch.ones_like(y))
        assert y.shape[2] == (9 - taps if padding == "valid" else 8)


def test_paddings():
    x = torch.randn(2, 3, 6, 5).double()
    row = torch.tensor([1.0, 2.0, 1.0]).double() / 4
    kernel = (row[:, None] * row).expand(3, 1, 3, 3)
    modes = {"circular": "circular", "zeros": "constant", "reflect": "reflect"}
    for padding, mode in modes.items():
        expected = F.conv2d(F.pad(x, (1, 1, 1, 1), mode=mode), kernel, groups=3)
        assert torch.allclose(LowPass(padding=padding).double()(x), expected, rtol=0, atol=1e-15)
    expected = F.conv2d(x, kernel, groups=3)
    assert torch.allclose(LowPass(padding="valid").double()(x), expected, rtol=0, atol=1e-15)


@pytest.mark.parametrize("ndim", [2, 3])
def test_pooling_is_maximum_filter_and_sampling_in_this_order(ndim):
    x = torch.randn(1, 2, *(8,) * ndim)
    pool = LowPassPool(3, max_pool=2, stride=2)
    every = (slice(None),) * 2 + (slice(None, None, 2),) * ndim
    expected = LowPass(3)(StrideOneMax(2)(x))[every]
    assert torch.equal(pool(x), expected)
    assert LowPassPool(3, stride=3)(x).shape == (1, 2, *(3,) * ndim)


def test_the_maximum_is_that_of_max_pooling_at_its_places():
    x = torch.rand(1, 2, 8, 6)
    for padding in ("circular", "zeros", "valid"):
        dense = StrideOneMax(2, padding=padding)(x)
        assert torch.equal(dense[..., ::2, ::2], F.max_pool2d(x, 2))


def test_blurring_dampens_what_shifts_do_and_does_not_remove_it():
    torch.manual_seed(0)
    x = torch.randn(1, 1, 32, 32).double()
    change = []
    for taps in (1, 3, 5):
        pool = LowPassPool(taps).double()
        shifted = pool(x.roll((1, 1), (2, 3)))
        near = pool(x)
        change.append(float((shifted - near).norm() / near.norm()))
    assert change[0] > change[1] > change[2] > 0.1


@pytest.mark.parametrize("ndim", [2, 3])
def test_gradients_are_right(ndim):
    x = torch.randn(1, 2, *(4,) * ndim).double().requires_grad_()
    for padding, max_pool in itertools.product(("circular", "zeros", "reflect"), (None, 2)):
        pool = LowPassPool(3, padding=padding, max_pool=max_pool).double()
        assert torch.autograd.gradcheck(pool, x, fast_mode=True)


def test_autocast():
    x = torch.rand(1, 2, 8, 8)
    pool = LowPassPool(3, max_pool=2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(pool(x.bfloat16()).float(), pool.float()(x).float(), atol=0.02)
    assert pool.bfloat16()(x.bfloat16()).dtype == torch.bfloat16
    assert not pool.state_dict()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LowPass(0), "at least 1 tap"),
        (lambda: LowPass(3, padding="same"), "padding 'same'"),
        (lambda: LowPassPool(3, stride=0), "stride"),
        (lambda: StrideOneMax(0), "window"),
        (lambda: LowPass(3)(torch.zeros(4, 4)), "2 axes"),
        (lambda: LowPass(7)(torch.zeros(1, 1, 2, 2)), "3 elements of 'circular'.*at least 3 per"),
        (lambda: LowPass(7, padding="reflect")(torch.zeros(1, 1, 3, 9)), "at least 4 per axis"),
        (lambda: LowPass(7, padding="valid")(torch.zeros(1, 1, 6, 9)), "window of 7 does not fit"),
        (lambda: StrideOneMax(9)(torch.zeros(1, 1, 3, 9)), "4 elements of 'circular'"),
        (lambda: StrideOneMax(4, padding="valid")(torch.zeros(1, 1, 3, 9)), "window of 4"),
    ],
)
def test_bad_arguments_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
