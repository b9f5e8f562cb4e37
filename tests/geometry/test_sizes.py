"""Sizes that a network takes: fewer than its lattice would let it, one along an axis, or none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitchsafe.geometry import Graph, analyse, analyse_module, trace
from stitchsafe.nn import UNet


class Asking(nn.Module):
    """Convolutions that refuse sizes for which `takes` is false."""

    def __init__(self, takes: Callable[[int, int], bool], inner: nn.Module | None = None) -> None:
        super().__init__()
        self.takes, self.conv = takes, nn.Conv2d(1, 1, 3, padding=1)
        self.inner = inner or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        if not self.takes(*x.shape[2:]):
            raise ValueError(f"refuses {tuple(x.shape)}")
        return self.inner(self.conv(x))


HALVED = nn.Sequential(nn.MaxPool2d(2), nn.ConvTranspose2d(1, 1, 2, 2))
ASKED: dict[str, tuple[nn.Module, tuple[int, ...], tuple[int, ...], tuple[int, ...]]] = {
    "eights": (Asking(lambda h, w: h % 8 == w % 8 == 0), (1, 1), (8, 8), (8, 8)),
    "eights along one axis": (Asking(lambda h, w: w % 8 == 0), (1, 1), (1, 8), (1, 8)),
    "unlike": (Asking(lambda h, w: h % 12 == 0 == w % 32), (1, 1), (12, 32), (12, 32)),
    "even": (Asking(lambda h, w: h % 2 == w % 2 == 0), (1, 1), (2, 2), (2, 2)),
    "odd": (Asking(lambda h, w: h % 2 == w % 2 == 1), (1, 1), (1, 1), (2, 2)),
    "large": (Asking(lambda h, w: h >= 40 and w % 16 == 8), (1, 1), (40, 8), (1, 16)),
    "more than the period": (
        Asking(lambda h, w: h % 8 == w % 8 == 0, HALVED), (2, 2), (8, 8), (8, 8),
    ),
    "just the period": (Asking(lambda h, w: True, HALVED), (2, 2), (2, 2), (2, 2)),
    "sixes, of which three": (
        Asking(lambda h, w: True, nn.Sequential(nn.MaxPool2d(6), nn.ConvTranspose2d(1, 1, 6, 6))),
        (6, 6), (6, 6), (6, 6),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ASKED)
def test_the_step_between_sizes_is_what_the_network_asks_for(name: str) -> None:
    network, period, least, step = ASKED[name]
    found = analyse_module(network, ndim=2, channels=1)
    assert found.verdict == "safe", found.breaks
    assert found.period == period
    assert (found.input_min, found.input_step) == (least, step)


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: x * (1 + x.shape[3] % 8),
        lambda x: x if x.shape[3] % 8 == 0 else x + 1,
        lambda x: x * (x.shape[3] // 8) if x.shape[3] % 8 == 0 else F.conv2d(x, x[0:0]),
    ],
)
def test_what_runs_in_another_way_in_between_is_not_taken_for_a_step(
    forward: Callable[[Tensor], Tensor],
) -> None:
    class Chosen(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return forward(F.max_pool2d(x, 3, 1, 1))

    assert analyse_module(Chosen(), ndim=2, channels=1).verdict == "unsafe"


def test_a_network_that_is_fixed_along_one_axis_is_analysed_along_the_other() -> None:
    network = Asking(lambda h, w: h == 40, HALVED)
    found = analyse_module(network, ndim=2, channels=1, fixed=(40, None))
    assert found.verdict == "safe", found.breaks
    assert (found.input_min, found.input_step) == ((40, 2), (0, 2))
    assert found.period == (2, 2)
    free = analyse_module(Asking(lambda h, w: True, HALVED), ndim=2, channels=1)
    assert found.context == free.context


class Drifting(nn.Module):
    """A transposed convolution that is one short, resized to where it should be."""

    def __init__(self, mode: str = "nearest") -> None:
        super().__init__()
        self.up, self.mode = nn.ConvTranspose2d(1, 1, 3, stride=2, padding=1), mode

    def forward(self, x: Tensor) -> Tensor:
        y = self.up(F.max_pool2d(x, 2))
        return x + F.interpolate(y, size=x.shape[2:], mode=self.mode)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_a_resize_that_drifts_is_named_after_a_few_traces(mode: str) -> None:
    shapes = []

    def run(shape: tuple[int, ...]) -> Graph:
        shapes.append(shape)
        return trace(network, shape, 1)

    network = nn.Sequential(nn.Conv2d(1, 1, 3, padding=1), Drifting(mode))
    found = analyse(run, ndim=2)
    assert found.verdict == "unsafe"
    (only,) = found.breaks
    assert only.layer == "1"
    assert "upsample" in only.op
    assert "not whole" in only.reason
    assert "output_padding" in only.fix
    assert len(shapes) <= 20


def test_a_resize_by_three_halves_is_named_as_such() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(x, size=[n * 3 // 2 for n in x.shape[2:]])

    found = analyse_module(Half(), ndim=2, channels=1)
    assert "3/2, which is no whole factor" in found.breaks[0].reason


def traced(module: nn.Module, ndim: int) -> tuple[tuple[int, ...], int]:
    """The steps of a safe network, and the number of traces that it took to find them."""
    shapes = []

    def run(shape: tuple[int, ...]) -> Graph:
        shapes.append(shape)
        return trace(module, shape, 1)

    found = analyse(run, ndim=ndim)
    assert found.verdict == "safe"
    return found.input_step, len(shapes)


def test_few_traces_are_made() -> None:
    """A strict network of period 32 in three axes, and one that takes any size."""

    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up = nn.ConvTranspose3d(1, 1, 32, 32)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.up(F.max_pool3d(x, 32))

    strict, any_size = traced(Skipping(), 3), traced(nn.Conv3d(1, 1, 3, padding=1), 3)
    assert (strict[0], any_size[0]) == ((32, 32, 32), (1, 1, 1))
    assert max(strict[1], any_size[1]) <= 16


def test_few_traces_are_made_of_a_network_that_takes_one_residue_of_many() -> None:
    """Without padding each level asks for a size of its own, and the least size is far from 1."""
    network = UNet(ndim=2, levels=4, base_channels=1, growth=1, convs_per_level=1)
    steps, traces = traced(network, 2)
    assert steps == (16, 16)
    assert traces <= 18


class Attentive(nn.Module):
    """Attention of torch's own layer, over what `tokens` makes a sequence of."""

    def __init__(self, kind: str, *, weights: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.mixer: nn.Module = (
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            if kind == "encoder"
            else nn.MultiheadAttention(8, 2, batch_first=True)
        )
        self.kind, self.weights = kind, weights

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        n, c, h, w = x.shape
        if self.kind == "windows":
            t = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
            t = self.mixer(t, t, t, need_weights=self.weights)[0]
            t = t.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4)
            return t.reshape(n, c, h, w)
        t = x.flatten(2).transpose(1, 2)
        made = (
            self.mixer(t)
            if self.kind == "encoder"
            else self.mixer(t, t, t, need_weights=self.weights)[0]
        )
        return made.transpose(1, 2).reshape(n, c, h, w)


@pytest.mark.parametrize("weights", [False, True])
@pytest.mark.parametrize("kind", ["attention", "encoder"])
def test_attention_over_space_is_named_so(kind: str, weights: bool) -> None:
    found = analyse_module(Attentive(kind, weights=weights).eval(), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    first = found.breaks[0]
    assert first.layer == ("mixer.self_attn" if kind == "encoder" else "mixer")
    assert "attention over space mixes the whole input" in first.reason
    assert "windows" in first.fix
    assert torch.backends.mha.get_fastpath_enabled()


def test_attention_within_windows_is_followed_where_heads_keep_a_dimension() -> None:
    network = Attentive("windows").eval()
    found = analyse_module(network, ndim=2, channels=1)
    assert (found.verdict, found.period) == ("safe", (4, 4)), found.breaks
    assert found.context == ((1, 1), (1, 1))
    assert found.input_step == (4, 4)
    x = torch.rand(1, 1, 24, 24)
    with torch.no_grad():
        whole, part = network(x), network(x[..., 8:, 8:])
    assert torch.allclose(part[..., 4:, 4:], whole[..., 12:, 12:], rtol=1e-5, atol=1e-6)
    (other,) = analyse_module(Attentive("windows", weights=True), ndim=2, channels=1).breaks
    assert other.layer == "mixer"
    assert "heads share a dimension" in other.reason
    assert "need_weights=False" in other.fix
