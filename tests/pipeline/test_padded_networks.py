"""Networks that pad by themselves, through predict: the whole pass, border included."""

from __future__ import annotations

from dataclasses import dataclass

import hypothesis.strategies as st
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis.strategies import DrawFn
from strategies import analysing
from torch import nn

import stitchsafe
from stitchsafe.networks import load_network

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAXIMUM = {2: nn.MaxPool2d, 3: nn.MaxPool3d}


@dataclass(frozen=True)
class PaddedCase:
    ndim: int
    padding_mode: str
    kernel: int
    dilation: int
    down: str
    up: str
    shape: tuple[int, ...]
    seed: int

    def module(self) -> nn.Module:
        torch.manual_seed(self.seed)
        return Padded(self).double().eval()


class Padded(nn.Module):
    """Down and up once, with a skip; cropped to the input's size where it comes out larger."""

    def __init__(self, case: PaddedCase) -> None:
        super().__init__()
        conv = CONV[case.ndim]
        mode = case.padding_mode
        self.first = conv(1, 3, 3, padding=1, padding_mode=mode)
        self.down = {
            "max": lambda: MAXIMUM[case.ndim](2),
            "max, ceil": lambda: MAXIMUM[case.ndim](2, ceil_mode=True),
            "max 3, padded, ceil": lambda: MAXIMUM[case.ndim](3, 2, 1, ceil_mode=True),
            "average, ceil": lambda: AVERAGE[case.ndim](3, 2, 1, ceil_mode=True),
            "average, own only": lambda: AVERAGE[case.ndim](3, 2, 1, count_include_pad=False),
            "by 3": lambda: MAXIMUM[case.ndim](3, ceil_mode=True),
            "strided": lambda: conv(3, 3, 3, 2, 1, padding_mode=mode),
            "strided, even": lambda: conv(3, 3, 4, 2, 1, padding_mode=mode),
        }[case.down]()
        self.middle = conv(
            3, 3, case.kernel, padding=case.dilation * (case.kernel // 2), dilation=case.dilation,
            padding_mode=mode,
        )  # fmt: skip
        factor = 3 if case.down == "by 3" else 2
        self.up = {
            "nearest": lambda: nn.Upsample(scale_factor=factor),
            "plain": lambda: TRANSPOSED[case.ndim](3, 3, factor, factor),
            "overlapping": lambda: TRANSPOSED[case.ndim](3, 3, 3, 2, 1),
            "output padding": lambda: TRANSPOSED[case.ndim](3, 3, 3, 2, 1, output_padding=1),
        }[case.up]()
        self.last = conv(6, 2, 3, padding=1, padding_mode=mode)

    def forward(self, x):
        skip = self.first(x).relu()
        up = self.up(self.middle(self.down(skip)).relu())
        cut = up[(..., *(slice(size) for size in skip.shape[2:]))]
        return self.last(torch.cat([skip, cut], 1))


@st.composite
def padded_cases(draw: DrawFn) -> PaddedCase:
    ndim = draw(st.sampled_from([2, 3]))
    down = draw(
        st.sampled_from(
            ["max", "max, ceil", "max 3, padded, ceil", "average, ceil", "average, own only",
             "by 3", "strided", "strided, even"]
        )
    )  # fmt: skip
    ups = ["nearest", "plain", *([] if down == "by 3" else ["output padding"])]
    if down not in ("max", "by 3", "strided, even"):  # those leave too little for a skip
        ups.append("overlapping")
    return PaddedCase(
        ndim=ndim,
        padding_mode=draw(st.sampled_from(["zeros", "reflect", "replicate"])),
        kernel=draw(st.sampled_from([3, 5])),
        dilation=draw(st.integers(1, 2)),
        down=down,
        up=draw(st.sampled_from(ups)),
        shape=tuple(draw(st.integers(2, 45 if ndim == 2 else 19)) for _ in range(ndim)),
        seed=draw(st.integers(0, 2**16)),
    )


@settings(analysing(), max_examples=settings.default.max_examples // 2)
@given(case=padded_cases(), data=st.data(), border=st.sampled_from(["reflect", "edge"]))
def test_predict_gives_the_modules_own_pass(case: PaddedCase, data, border) -> None:
    module = case.module()
    network = load_network(module)
    assert network.geometry.verdict == "safe", network.geometry.breaks
    assert all(axis.padded and axis.output_offset == 0 for axis in network.geometry.axes)
    tile = tuple(p * data.draw(st.integers(1, 4), label="tile") for p in network.geometry.period)
    volume = np.random.default_rng(case.seed).normal(size=case.shape)
    made = stitchsafe.predict(
        volume, network, save="fields", tile_shape=tile, border=border, normalize="none",
        threads=1, max_memory=10**10,
    )  # fmt: skip
    domains = [axis.domain for axis in made.plan.grid.axes]
    assert all(begin == 0 for begin, _ in domains)
    margins = [(0, end - size) for (_, end), size in zip(domains, case.shape, strict=True)]
    extended = np.pad(volume, margins, mode=border)
    with torch.no_grad():
        whole = module(torch.from_numpy(extended)[None, None])[0]
    expected = whole[(slice(None), *map(slice, case.shape))].numpy()
    assert made.fields["output"].shape == expected.shape
    error = np.abs(made.fields["output"] - expected).max() / np.abs(expected).max()
    assert error <= 1e-12
