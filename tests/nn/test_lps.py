"""Learnable polyphase sampling: equivariance, numbers and types."""

from __future__ import annotations

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stitchsafe.nn import (
    LPD,
    LPU,
    LogitsNetwork,
    pinned,
)

CONV = {2: nn.Conv2d, 3: nn.Conv3d}


class CircularUNet(nn.Module):
    """A U-Net with circular padding, and polyphase sampling or max-pool and nearest upsampling."""

    def __init__(self, sampling: str, *, ndim=2, levels=3, channels=4, low_pass=None, **more):
        super().__init__()
        conv, c = CONV[ndim], channels
        self.sampling = sampling

        def block(before: int, after: int) -> nn.Sequential:
            layer = conv(before, after, 3, padding=1, padding_mode="circular")
            return nn.Sequential(layer, nn.ReLU())

        self.down = nn.ModuleList(block(c if n else 1, c) for n in range(levels + 1))
        self.up = nn.ModuleList(block(2 * c, c) for _ in range(levels))
        if sampling == "lps":
            self.shrink = nn.ModuleList(
                LPD(ndim, c, low_pass=low_pass, **more) for _ in range(levels)
            )
            self.grow = nn.ModuleList(LPU(low_pass=low_pass) for _ in range(levels))

    def forward(self, x: Tensor, selections=None) -> Tensor:
        kept, chosen = [], []
        for level, block in enumerate(self.down):
            x = block(x)
            if level < len(self.up):
                kept.append(x)
                if self.sampling == "lps":
                    given = selections[level] if selections else None
                    x, selection = self.shrink[level](x, given)
                    chosen.append(selection)
                else:
                    x = F.max_pool2d(x, 2)
        for level in reversed(range(len(self.up))):
            if self.sampling == "lps":
                x = self.grow[level](x, chosen[level])
            else:
                x = F.interpolate(x, scale_factor=2.0)
            x = self.up[level](torch.cat([kept[level], x], 1))
        return x


def rolled(x: Tensor, shift: tuple[int, ...]) -> Tensor:
    return x.roll(shift, tuple(range(2, 2 + len(shift))))


def exact_shifts(net: nn.Module, x: Tensor, shifts, tolerance=1e-12) -> int:
    """For how many shifts the output moves along with the input."""
    with torch.inference_mode():
        whole, shifts = net(x), list(shifts)
        found = 0
        for start in range(0, len(shifts), 64):
            some = shifts[start : start + 64]
            out = net(torch.cat([rolled(x, shift) for shift in some]))
            for shift, each in zip(some, out, strict=True):
                found += int((each - rolled(whole, shift)[0]).abs().max() <= tolerance)
    return found


def every(size: int, ndim: int = 2):
    return itertools.product(range(size), repeat=ndim)


def test_every_circular_shift_is_exact_for_lps_and_one_in_64_for_max_pooling():
    """FACTS: 256 of 256 for three levels on 16^2, exactly 16 of 1024 for the twin on 32^2."""
    torch.manual_seed(0)
    lps = CircularUNet("lps").double().eval()
    assert exact_shifts(lps, torch.randn(1, 1, 16, 16).double(), every(16)) == 256
    twin = CircularUNet("max").double().eval()
    assert exact_shifts(twin, torch.randn(1, 1, 32, 32).double(), every(32)) == 16


def test_single_precision_keeps_every_shift_too():
    """To its rounding, and without ties: the bound of rounding is not so wide that it finds any."""
    torch.manual_seed(0)
    net = CircularUNet("lps", channels=8).eval()
    assert exact_shifts(net, torch.randn(1, 1, 16, 16), every(16), tolerance=1e-6) == 256


@pytest.mark.parametrize("options", [{"low_pass": 3}, {"low_pass": 2}, {"max_pool": 2}])
def test_filters_and_maxima_keep_it_equivariant(options):
    torch.manual_seed(0)
    net = CircularUNet("lps", levels=2, channels=8, **options).double().eval()
    x = 20 * torch.randn(1, 1, 16, 16).double()  # so large that ReLU has kinks to see
    assert exact_shifts(net, x, [(n, 3 * n % 16) for n in range(16)]) == 16


def test_shifts_along_one_axis_move_the_right_axis():
    torch.manual_seed(2)
    net = CircularUNet("lps", levels=2).double().eval()
    x = torch.randn(1, 1, 8, 16).double()
    shifts = [(n, 0) for n in range(8)] + [(0, n) for n in range(16)]
    assert exact_shifts(net, x, shifts) == 24


def test_three_dimensions():
    torch.manual_seed(3)
    net = CircularUNet("lps", ndim=3, levels=1, low_pass=3).double().eval()
    x = torch.randn(1, 1, 4, 6, 8).double()
    assert exact_shifts(net, x, itertools.product(range(4), range(6), range(8))) == 192


@pytest.mark.parametrize("shift", [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
def test_claim_4_the_phase_moves_and_placement_undoes_it(shift, padding):
    """LPU o LPD alone; scores of zero padding see the border, and a blob far from it does not."""
    torch.manual_seed(4)
    x = torch.zeros(1, 2, 24, 24).double()
    x[..., 8:16, 8:16] = torch.randn(1, 2, 8, 8)
    down, up = LPD(2, 2, score_padding=padding).double().eval(), LPU()
    y, before = down(x)
    z, after = down(rolled(x, shift))
    dy, dx = divmod(int(before.phases), 2)
    assert divmod(int(after.phases), 2) == ((dy + shift[0]) % 2, (dx + shift[1]) % 2)
    assert torch.equal(up(z, after), rolled(up(y, before), shift))


# numbers and types


@pytest.mark.parametrize("ndim", [2, 3])
@pytest.mark.parametrize("mode", ["softmax", "gumbel", "argmax"])
def test_gradients_are_right(ndim, mode):
    torch.manual_seed(0)
    down = LPD(ndim, 6, in_training=mode, low_pass=3, max_pool=2).double()
    up = LPU(low_pass=3)
    x = (5 * torch.randn(2, 6, *(8, 6, 6)[:ndim])).double().requires_grad_()

    def run(x, *parameters):
        torch.manual_seed(1)  # the same sample each time
        return up(*down(x))

    fast = {"fast_mode": True}
    assert torch.autograd.gradcheck(
        run, (x, *(down.parameters() if mode != "argmax" else ())), **fast
    )


@pytest.mark.parametrize("padding", ["circular", "zeros", "valid"])
def test_a_batch_may_be_empty(padding):
    down = LPD(2, 2, score_padding=padding, low_pass=3)
    for train in (False, True):
        y, selection = down.train(train)(torch.zeros(0, 2, 10, 12))
        assert LPU(low_pass=3)(y, selection).shape == (0, 2, 10, 12)


@pytest.mark.parametrize("train", [False, True])
def test_bfloat16_and_autocast(train):
    torch.manual_seed(0)
    down, up = LPD(2, 4, low_pass=3).train(train), LPU(low_pass=3)
    x = torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y, selection = down(x.bfloat16())
        z = up(y, selection)
    assert y.dtype == z.dtype == torch.bfloat16
    assert y.isfinite().all()
    assert z.isfinite().all()
    if not train:
        plain = down(x.bfloat16().float())[1]
        assert torch.equal(plain.phases, selection.phases)
        half = LPD(2, 4).bfloat16().eval()
        assert half(x.bfloat16())[0].dtype == torch.bfloat16


def test_the_decision_is_made_in_float32_under_autocast():
    torch.manual_seed(0)
    net = LogitsNetwork(2, 4)
    phases = torch.randn(1, 4, 4, 6, 6)
    plain = net(phases)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(net(phases), plain)


def test_two_passes_give_the_same_bits():
    torch.manual_seed(0)
    net = CircularUNet("lps", levels=2, low_pass=3).eval()
    x = torch.randn(2, 1, 16, 16)
    with torch.inference_mode():
        assert torch.equal(net(x), net(x))


@pytest.mark.parametrize("ndim", [2, 3])
def test_it_runs_as_onnx(ndim, tmp_path):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    net = CircularUNet("lps", ndim=ndim, levels=1, low_pass=3, max_pool=2).eval()
    images = [torch.randn(1, 1, *(8,) * ndim) for _ in range(4)]
    run = onnx_session(net, images[0], tmp_path / "net.onnx")
    for x in images:
        with torch.inference_mode():
            assert torch.allclose(run(x), net(x), rtol=0, atol=1e-5)


def onnx_session(net: nn.Module, x: Tensor, path):
    import onnxruntime

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(net, (x,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: LPD(4, 1), "2 or 3"),
        (lambda: LPD(2, 0), "at least one channel"),
        (lambda: LPD(2, 1, score_padding="reflect"), "score|padding 'reflect'"),
        (lambda: LPD(2, 1, ties="ignore"), "ties 'ignore'"),
        (lambda: LPD(2, 1, in_evaluation="gumbel"), "in_evaluation 'gumbel'"),
        (lambda: LPD(2, 1)(torch.zeros(1, 2, 8, 8)), "channels=2"),
        (lambda: LPD(2, 1)(torch.zeros(1, 1, 8, 8, 8)), "ndim=3"),
        (lambda: LPD(2, 1)(torch.zeros(8, 8)), "2 axes"),
        (lambda: LPD(2, 1, score_padding="valid")(torch.zeros(1, 1, 8, 8)), "at least 10"),
        (lambda: LPD(3, 1)(torch.zeros(1, 1, 8, 8, 8), pinned(0, ndim=2)[0]), "does not fit"),
        (lambda: LPU()(torch.zeros(1, 1, 4, 4, 4), pinned(0, ndim=2)[0]), "does not fit"),
        (lambda: LPU()(torch.zeros(3, 1, 4, 4), pinned([[0, 1]], ndim=2)[0]), "does not fit"),
    ],
)
def test_bad_arguments_are_refused_with_a_remedy(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
