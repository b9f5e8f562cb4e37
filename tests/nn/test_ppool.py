"""P-pooling: the paper's values and gradients, its limits, and max-pool's interface."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stitchsafe.nn import PPool2d, PPool3d

ONE_TO_FOUR = torch.tensor([1.0, 2.0, 3.0, 4.0]).double().reshape(1, 1, 2, 2)
POOL = {2: PPool2d, 3: PPool3d}
MAX = {2: F.max_pool2d, 3: F.max_pool3d}


def fixed(alpha: float, *given, ndim: int = 2, **more) -> nn.Module:
    return POOL[ndim](*(given or (2,)), alpha=alpha, learnable=False, **more).double()


@pytest.mark.parametrize(
    ("alpha", "value"), [(0, 2.5), (1, 3.0), (2, 3.3333), (3, 3.54), (10, 3.9449), (math.inf, 4)]
)
def test_values(alpha, value):
    """FACTS: of [1, 2, 3, 4]."""
    assert float(fixed(alpha)(ONE_TO_FOUR)) == pytest.approx(value, abs=5e-5)


def test_gradients_are_those_of_the_supplement():
    pool = PPool2d(2, alpha=2.0).double()
    x = ONE_TO_FOUR.clone().requires_grad_()
    y = pool(x)
    y.backward()
    assert x.grad.flatten().tolist() == pytest.approx([-0.1222, -0.0444, 0.2333, 0.7111], abs=5e-5)
    slope = float(torch.sigmoid(pool.theta.detach()))  # of softplus
    assert float(pool.theta.grad) / slope == pytest.approx(0.25982, abs=5e-6)
    # The formulas, at other places.
    x = (torch.rand(5, 1, 2, 2) + 0.1).double().requires_grad_()
    y = pool(x)
    y.sum().backward()
    a, v = float(pool.alpha.detach()), x.detach().flatten(1)
    w = v**a / (v**a).sum(1, keepdim=True)
    out = (w * v).sum(1, keepdim=True)
    expected = w * (a + 1 - a * out / v)
    assert torch.allclose(x.grad.flatten(1), expected, rtol=0, atol=1e-4)
    covariance = (w * v * v.log()).sum(1) - (w * v).sum(1) * (w * v.log()).sum(1)
    assert (covariance >= 0).all()
    pool.zero_grad()
    pool(x.detach()).sum().backward()
    assert float(pool.theta.grad) / slope == pytest.approx(float(covariance.sum()), abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("alpha", [1e-6, 0.3, 1.0, 20.0, 1e6])
@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-7, 1e-3, 1.0, 100.0, 6e4])
def test_it_is_finite_for_every_exponent_and_input(alpha, scale, dtype):
    """FACTS: plain float32 is NaN at (100, 20), (1e-3, 20) and on patches of zeros."""
    pool = PPool2d(2, alpha=alpha)
    x = (torch.tensor([0.0, 0.25, 0.5, 1.0]).reshape(1, 1, 2, 2) * scale).to(dtype).requires_grad_()
    y = pool(x)
    y.sum().backward()
    assert y.dtype == dtype
    assert y.isfinite().all()
    assert x.grad.isfinite().all()
    assert pool.theta.grad.isfinite().all()
    if scale > 16 * torch.finfo(dtype).tiny:  # else it is 0, or nearly, in this precision
        held = x.detach().double().flatten()
        ratio = held / held.max()
        expected = held.max() * (ratio ** (alpha + 1)).sum() / (ratio**alpha).sum()
        rounding = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[dtype]
        near = max(rounding * float(expected), float(torch.finfo(dtype).smallest_normal) / 64)
        assert abs(float(y.detach()) - float(expected)) <= near


def test_limits():
    torch.manual_seed(0)
    x = torch.rand(2, 3, 8, 8).double()
    assert torch.allclose(fixed(0.0)(x), F.avg_pool2d(x, 2), rtol=0, atol=1e-15)
    assert torch.equal(fixed(math.inf)(x), F.max_pool2d(x, 2))
    apart = torch.randperm(2 * 3 * 64).reshape(2, 3, 8, 8).double() + 1
    near = fixed(1e6)(apart)
    assert torch.allclose(near, F.max_pool2d(apart, 2), rtol=0, atol=1e-9)
    x = apart.clone().requires_grad_()
    fixed(1e6)(x).sum().backward()
    y = apart.clone().requires_grad_()
    F.max_pool2d(y, 2).sum().backward()
    assert torch.allclose(x.grad, y.grad, rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [1e-3, 0.05, 0.1, 0.25, 0.5, 1.0, 3.0])
def test_zeros_have_no_weight_and_bounded_gradients(alpha):
    """The formula gives 1 for every exponent above 0; behind ReLU zeros are usual."""
    x = torch.tensor([0.0, 0.0, 0.0, 1.0]).double().reshape(1, 1, 2, 2).requires_grad_()
    pool = PPool2d(2, alpha=alpha).double()
    y = pool(x)
    assert float(y.detach()) == 1
    y.backward()
    alpha = float(pool.alpha.detach())
    steepest = -(1e-4 ** (alpha - 1))  # of a line from 0 to eps; for 1 it is the formula's
    assert x.grad.flatten().tolist() == pytest.approx([*[steepest] * 3, 1], rel=1e-9)
    # Down to eps it is the formula.
    v = torch.tensor([1.01e-4, 1e-3, 0.1, 1.0]).double()
    expected = float((v ** (alpha + 1)).sum() / (v**alpha).sum())
    assert float(pool(v.reshape(1, 1, 2, 2)).detach()) == pytest.approx(expected, rel=1e-12)


def test_zeros_and_negatives():
    assert float(fixed(0.0)(torch.zeros(1, 1, 2, 2).double())) == 0
    some = torch.tensor([0.0, 0.0, 0.0, 2.0]).double().reshape(1, 1, 2, 2)
    assert float(fixed(0.0)(some)) == 0.5  # 0^0 = 1
    assert float(fixed(1.0)(some)) == pytest.approx(2, abs=1e-5)
    negative = torch.tensor([-3.0, -1.0, 0.0, 2.0]).double().reshape(1, 1, 2, 2)
    assert float(fixed(0.0)(negative)) == -0.5
    assert float(fixed(9.0)(negative)) == pytest.approx(2, abs=1e-9)


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "ceil"),
    [
        (k, s, p, d, c)
        for k, s, p, d, c in itertools.product(
            (2, 3), (None, 1, 2, 3), (0, 1), (1, 2), (False, True)
        )
        if 2 * p <= k
    ],
)
def test_it_is_max_pooling_in_all_its_settings(ndim, kernel, stride, padding, dilation, ceil):
    torch.manual_seed(0)
    x = 1 + torch.randperm(2 * 9 * 7 * 8).reshape(1, 2, *(9, 56) if ndim == 2 else (9, 7, 8))
    x = x.double()
    expected = MAX[ndim](x, kernel, stride, padding, dilation, ceil)
    found = fixed(1e6, kernel, stride, padding, dilation, ceil, ndim=ndim)(x)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 4.0, math.inf])
def test_infinity_is_kept_as_max_pooling_keeps_it(alpha):
    x = torch.tensor([1.0, 2.0, 3.0, math.inf]).reshape(1, 1, 2, 2).requires_grad_()
    y = PPool2d(2, alpha=alpha, learnable=False)(x)
    assert float(y.detach()) == math.inf
    y.backward()
    assert x.grad.flatten().tolist() == [0, 0, 0, 1]
    assert PPool2d(2)(torch.full((1, 1, 2, 2), math.nan)).isnan().all()


def test_an_exponent_that_overflows_its_type_is_the_maximum():
    x = torch.tensor([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 2, 2).half().requires_grad_()
    pool = PPool2d(2, alpha=1e6).half()
    y = pool(x)
    y.backward()
    assert float(y.detach()) == 4
    assert x.grad.flatten().tolist() == [0, 0, 0, 1]
    assert pool.theta.grad.isfinite().all()


def test_whole_numbers_are_not_cut():
    for alpha in (0.0, 1.0, math.inf):
        pool = PPool2d(2, alpha=alpha, learnable=False)
        y = pool(ONE_TO_FOUR.long())
        assert y.dtype == torch.float32
        assert torch.equal(y, pool(ONE_TO_FOUR.float()))


@pytest.mark.parametrize(("given", "own"), [(math.inf, 2.0), (2.0, math.inf)])
def test_weights_bring_the_exponent_along(given, own):
    layers = [PPool2d(2, alpha=alpha, learnable=False).double() for alpha in (given, own)]
    net = nn.Sequential(layers[1])
    net.load_state_dict(nn.Sequential(layers[0]).state_dict())
    assert float(layers[1].alpha) == given
    assert torch.equal(net(ONE_TO_FOUR), layers[0](ONE_TO_FOUR))


def test_what_is_padded_has_no_weight():
    x = torch.full((1, 1, 3, 3), 2.0).double()
    for alpha in (0.0, 0.5, 3.0):
        y = fixed(alpha, 3, 2, 1)(x)
        assert torch.allclose(y, torch.full((1, 1, 2, 2), 2.0).double(), rtol=0, atol=1e-12)


def test_settings_per_axis_and_images_without_a_batch():
    x = 1 + torch.randperm(2 * 8 * 9).reshape(2, 8, 9).double()
    pool = fixed(1e6, (2, 3), (2, 1), (1, 0), (1, 2))
    expected = F.max_pool2d(x, (2, 3), (2, 1), (1, 0), (1, 2))
    assert torch.allclose(pool(x), expected, rtol=0, atol=1e-9)
    assert torch.equal(pool(x[None])[0], pool(x))


def test_an_exponent_per_channel():
    pool = PPool2d(2, alpha=1.0, channels=2).double()
    with torch.no_grad():
        pool.theta[1] = 30.0  # softplus(30) = 30
    y = pool(ONE_TO_FOUR.expand(1, 2, 2, 2))
    assert y.flatten().tolist() == pytest.approx([3.0, float(fixed(30.0)(ONE_TO_FOUR))])
    with pytest.raises(ValueError, match="channels=3 or None"):
        pool(torch.ones(1, 3, 2, 2))


@pytest.mark.parametrize("alpha", [1e-6, 0.5, 1.0, 50.0, 1e6])
def test_the_exponent_begins_where_it_is_told(alpha):
    assert float(PPool2d(2, alpha=alpha).alpha.detach()) == pytest.approx(alpha, rel=1e-5)
    assert [name for name, _ in PPool2d(2).named_parameters()] == ["theta"]
    assert not list(PPool2d(2, learnable=False).parameters())


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("channels", [None, 2])
def test_gradients_are_right(ndim, channels):
    torch.manual_seed(0)
    pool = POOL[ndim](3, 2, 1, alpha=0.7, channels=channels).double()
    x = (torch.rand(2, 2, *(5, 4, 3)[:ndim]) + 0.2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, _: pool(x), (x, pool.theta))


def test_autocast_and_determinism():
    pool, x = PPool2d(2), torch.rand(1, 2, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = pool(x.bfloat16())
    assert low.dtype == torch.bfloat16
    assert torch.allclose(low.float(), pool(x), atol=0.01)
    assert torch.equal(pool(x), pool(x))


@pytest.mark.parametrize("alpha", [None, math.inf])
def test_it_runs_as_onnx(alpha, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    pool = PPool2d(3, 2, 1, ceil_mode=True, channels=2)
    if alpha is not None:
        pool = PPool2d(3, 2, 1, alpha=alpha, learnable=False)
    x = torch.rand(1, 2, 7, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(pool.eval(), (x,), tmp_path / "p.onnx", dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "p.onnx", providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    assert torch.allclose(torch.from_numpy(found), pool(x), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PPool2d((2, 2, 2)), "kernel_size"),
        (lambda: PPool3d(0), "kernel_size 0"),
        (lambda: PPool2d(2, 0), "stride 0"),
        (lambda: PPool2d(2, padding=2), "half the kernel"),
        (lambda: PPool2d(2, alpha=-1.0, learnable=False), "alpha -1.0"),
        (lambda: PPool2d(2, alpha=math.inf), "learnable=False"),
        (lambda: PPool2d(2, alpha=math.nan), "alpha nan"),
        (lambda: PPool2d(2, eps=0.0), "eps 0.0"),
        (lambda: PPool2d(2, eps=1.0), "eps 1.0"),
        (lambda: PPool2d(2)(torch.ones(1, 1, 1, 4)), "does not fit into 1"),
        (lambda: PPool2d(2)(torch.ones(4, 4)), "add or drop"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(make, message):
    with pytest.raises(ValueError, match=message):
        make()
