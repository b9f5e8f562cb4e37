"""Each operator of torch against what autograd measures on the running network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitchsafe.geometry import analyse_module, trace


class Inside(nn.Module):
    """A function or module between two convolutions that tell channels and places apart."""

    def __init__(self, inner: Callable[[Tensor], Tensor], channels: int = 4, out: int = 4) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.inner = inner
        self.last = nn.Conv2d(out, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inner(self.first(x)))


class Block(nn.Module):
    """Channels last, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 5, padding=2, groups=4)
        self.norm, self.up, self.down = nn.LayerNorm(4), nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.down(F.gelu(self.up(y))).permute(0, 3, 1, 2)


class Windows(nn.Module):
    """Attention inside windows of 4 by 2, with a bias per place in the window."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(4, 12)
        self.bias = nn.Parameter(torch.randn(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        x = x.view(n, c, h // 4, 4, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 8, c)
        q, k, v = self.qkv(x).chunk(3, -1)
        x = F.scaled_dot_product_attention(q, k, v, self.bias)
        x = x + torch.softmax(q @ k.transpose(1, 2) + self.bias, -1) @ v
        x = x.view(n, h // 4, w // 2, 4, 2, c).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(n, c, h, w)


def attention_in_windows(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.view(n, c, h // 4, 4, w // 4, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, c)
    y = F.scaled_dot_product_attention(y, y, y)
    return y.view(n, h // 4, w // 4, 4, 4, c).permute(0, 5, 1, 3, 2, 4).reshape(n, c, h, w)


def focus(x: Tensor) -> Tensor:
    parts = [x[..., i::2, j::2] for i in range(2) for j in range(2)]
    return torch.cat(parts, 1)


def rows_only(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    rows = x.permute(0, 3, 1, 2).reshape(n * w, c, h)
    rows = F.avg_pool1d(rows, 3, 1, 1)
    return rows.reshape(n, w, c, h).permute(0, 2, 3, 1)


def repeated(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return x[:, :, :, None, :, None].expand(n, c, h, 2, w, 3).reshape(n, c, 2 * h, 3 * w)


def interleaved(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    return torch.stack([x, x * 2 + 1], -1).reshape(n, c, h, 2 * w)


def less_window_mean(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.view(n, c, h // 2, 2, w // 3, 3)
    return (y - y.mean((3, 5), keepdim=True)).view(n, c, h, w)


def space_to_depth(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // 2, 2, w // 2, 2).permute(0, 3, 5, 1, 2, 4)
    return y.reshape(n, 4 * c, h // 2, w // 2)


def depth_to_space(x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, c // 4, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // 4, 2 * h, 2 * w)


mixing = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double()
LOCAL = {
    "pixel shuffle": (nn.PixelShuffle(2), 1),
    "pixel unshuffle": (nn.PixelUnshuffle(2), 16),
    "there and back": (nn.Sequential(nn.PixelUnshuffle(2), nn.GELU(), nn.PixelShuffle(2)), 4),
    "space to depth": (space_to_depth, 16),
    "depth to space": (depth_to_space, 1),
    "focus": (focus, 16),
    "channels last": (Block(), 4),
    "windowed attention": (Windows(), 4),
    "attention in windows": (attention_in_windows, 4),
    "window mean": (less_window_mean, 4),
    "rows only": (rows_only, 4),
    "repeated": (repeated, 4),
    "interleaved": (interleaved, 4),
    "turned": (lambda x: F.avg_pool2d(x.transpose(2, 3), (1, 3), 1, (0, 1)).transpose(2, 3), 4),
    "softmax": (nn.Softmax(1), 4),
    "glu": (nn.GLU(1), 2),
    "prelu": (nn.PReLU(4), 4),
    "channel mean": (lambda x: x - x.mean(1, keepdim=True), 4),
    "einsum": (lambda x: torch.einsum("bchw,dc->bdhw", x, mixing), 4),
    "bilinear up": (nn.Upsample(scale_factor=2, mode="bilinear"), 4),
    "bilinear up by 4": (nn.Upsample(scale_factor=4, mode="bilinear"), 4),
    "bilinear down": (lambda x: F.interpolate(x, scale_factor=0.5, mode="bilinear"), 4),
    "to a size": (lambda x: F.interpolate(F.max_pool2d(x, 2), x.shape[2:], mode="bilinear"), 4),
    "nearest exact down": (lambda x: F.interpolate(x, scale_factor=1 / 4, mode="nearest-exact"), 4),
    "nearest down": (lambda x: F.interpolate(x, scale_factor=0.5), 4),
    "ceil": (lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True), 4),
    "average with less": (nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False), 4),
    "dilated pool": (nn.MaxPool2d(3, 1, 1, dilation=2), 4),
    "norm pool": (lambda x: F.lp_pool2d(x.abs() + 0.1, 2, 3), 4),
    "reflect": (nn.Conv2d(4, 4, 5, padding=2, padding_mode="reflect"), 4),
    "replicate": (nn.Conv2d(4, 4, 5, padding=2, padding_mode="replicate"), 4),
    "lopsided": (lambda x: F.avg_pool2d(F.pad(x, (3, 0, 0, 1)), 2, 1), 4),
    "cropped": (lambda x: x[..., 3:-1, 2:], 4),
    "transposed": (nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1, groups=2), 4),
    "transposed dilated": (nn.ConvTranspose2d(4, 4, 3, 3, 1, dilation=2), 4),
    "batch norm": (nn.BatchNorm2d(4), 4),
    "chunks": (lambda x: torch.cat([c * (i + 1) for i, c in enumerate(x.chunk(2, 1))], 1), 4),
    "squeezed": (lambda x: x[:, :1].squeeze(1).unsqueeze(1) * x, 4),
}  # fmt: skip


@pytest.mark.parametrize("name", LOCAL)
def test_measured_dependence_is_what_the_trace_says(name: str) -> None:
    torch.manual_seed(0)
    inner, out = LOCAL[name]
    net = Inside(inner, out=out).double().eval()
    for parameter in net.last.parameters():
        nn.init.uniform_(parameter, 0.5, 1.0)
    found = analyse_module(net, ndim=2, channels=1)
    assert found.verdict == "safe", found.breaks
    (output,) = found.outputs
    shape = tuple(a.input_min + max(1, -(-30 // a.input_step)) * a.input_step for a in found.axes)
    graph = trace(net, shape, 1)
    (maps,) = graph.facts()
    x = torch.randn(1, 1, *shape, dtype=torch.float64, requires_grad=True)
    y = net(x)
    assert tuple(y.shape[2:]) == tuple(a.size(s) for a, s in zip(output.axes, shape, strict=True))
    assert [m.support for m in maps] == [a.support for a in output.axes]
    spans = [range(m.before, m.clean) for m in maps]
    assert all(len(span) >= len(m.support) for span, m in zip(spans, maps, strict=True))
    seen: list[dict[int, tuple[int, int]]] = [{}, {}]
    middle = [span[len(span) // 2] for span in spans]
    places = [(i, middle[1]) for i in spans[0]] + [(middle[0], i) for i in spans[1]]
    for place in places:
        (grad,) = torch.autograd.grad(y[0, :, *place].sum(), x, retain_graph=True)
        touched = grad[0, 0].nonzero()
        for axis, (row, index) in enumerate(zip(maps, place, strict=True)):
            low, high = touched[:, axis].min().item(), touched[:, axis].max().item()
            reach = row.element(index)
            assert reach is not None
            assert reach[0] <= low, (axis, index)
            assert high <= reach[1], (axis, index)
            known = seen[axis].get(index, (low, high))
            seen[axis][index] = min(low, known[0]), max(high, known[1])
    if "pool" in name or name in ("ceil", "to a size"):
        return  # the largest of a window hides the others
    for row, measured in zip(maps, seen, strict=True):
        assert all(row.element(index) == reach for index, reach in measured.items())


class Excited(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc(self.pool(x)).sigmoid()


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)
        tokens = F.scaled_dot_product_attention(tokens, tokens, tokens)
        return tokens.transpose(1, 2).reshape(n, c, h, w)


class Mixed(nn.Module):
    """A linear layer along a row of fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Linear(576, 576)

    def forward(self, x: Tensor) -> Tensor:
        return self.row(x)


class Held(nn.Module):
    """Parameters and buffers of many places, for a function that may choose among them."""

    def __init__(self, function: Callable[[Held, Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function
        self.table = nn.Parameter(torch.rand(2048, 4, 1, 1))
        self.bank = nn.Parameter(torch.rand(64, 4, 4, 3, 3))
        self.big = nn.Parameter(torch.rand(1, 4, 1200, 1200))
        self.rows = nn.Parameter(torch.rand(1200, 4, 4))
        self.register_buffer("count", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def of_size(x: Tensor) -> int:
    return x.shape[3] % 64


def written_through_a_view(s: Held, x: Tensor) -> Tensor:
    seen = x[:]
    seen += F.avg_pool2d(x, 21, 1, 10)
    return x


def written_through_detach(s: Held, x: Tensor) -> Tensor:
    x.detach().mul_(F.max_pool2d(x, 3, 1, 1))
    return x


def written_out(s: Held, x: Tensor) -> Tensor:
    torch.add(x, F.max_pool2d(x, 3, 1, 1), out=x.detach())
    return x


def counted(s: Held, x: Tensor) -> Tensor:
    s.count.add_(1)
    return x * s.count


def per_row(s: Held, x: Tensor) -> Tensor:
    return (x.permute(0, 2, 3, 1) @ s.rows[: x.shape[2]]).permute(0, 3, 1, 2)


def padded_channels(s: Held, x: Tensor) -> Tensor:
    front = x.shape[3] % 4
    return F.pad(x, (0, 0, 0, 0, front, 4 - front))[:, 2:6]


CHOSEN = {
    "a row of a table": lambda s, x: x * s.table[of_size(x)],
    "one of many unbound": lambda s, x: x * s.table.unbind(0)[of_size(x)],
    "a kernel of a bank": lambda s, x: F.conv2d(x, s.bank[of_size(x)], padding=1),
    "mean of what is cropped": lambda s, x: x + s.big[..., : x.shape[3]].mean((2, 3), keepdim=True),
    "mean of what is resized": lambda s, x: (
        x + F.interpolate(s.big[..., :9, :9], x.shape[2:]).mean((2, 3), keepdim=True)
    ),
    "a long constant": lambda s, x: x * torch.tensor([float(x.shape[3])] * 80).view(-1, 1, 1)[:4],
    "statistics": lambda s, x: F.batch_norm(x, s.table[of_size(x), :, 0, 0], torch.ones(4)),
    "a channel of its own": lambda s, x: x.unbind(1)[of_size(x) % 4].unsqueeze(1).expand_as(x),
    "padded channels": padded_channels,
    "a matrix per row": per_row,
    "a product per row": lambda s, x: torch.einsum("bchw,hcd->bdhw", x, s.rows[: x.shape[2]]),
    "written through a view": written_through_a_view,
    "written through detach": written_through_detach,
    "written out": written_out,
    "counted": counted,
    "by magnitude": lambda s, x: x if x.shape[3] < 1000 else x * 2,
}


@pytest.mark.parametrize("name", CHOSEN)
def test_what_follows_the_size_or_the_past_is_never_safe(name: str) -> None:
    assert analyse_module(Inside(Held(CHOSEN[name])), ndim=2, channels=1).verdict == "unsafe"


SAME_FOR_ALL = {
    "a row of a table": lambda s, x: x * s.table[3],
    "a kernel of a bank": lambda s, x: F.conv2d(x, s.bank[5], padding=1),
    "expanded": lambda s, x: x * s.table[1].expand_as(x[0]),
    "normalised weights": lambda s, x: F.conv2d(x, s.bank[0] / s.bank[0].norm(), padding=1),
    "in place": lambda s, x: F.relu(x.contiguous() * 2, inplace=True).add_(x),
    "a buffer that is made": lambda s, x: torch.cat([x, x.new_zeros(x.shape)], 1)[:, 2:6],
}


@pytest.mark.parametrize("name", SAME_FOR_ALL)
def test_constants_that_are_the_same_for_all_sizes_are_safe(name: str) -> None:
    found = analyse_module(Inside(Held(SAME_FOR_ALL[name])), ndim=2, channels=1)
    assert found.verdict == "safe", found.breaks


GLOBAL = {
    "squeeze and excite": (Excited(), "inner.pool", "global pooling"),
    "attention": (Attention(), "inner", "attention over space"),
    "linear": (Mixed(), "inner.row", "over space"),
    "instance norm": (nn.InstanceNorm2d(4), "inner", "instance normalisation"),
    "group norm": (nn.GroupNorm(2, 4), "inner", "group normalisation"),
    "layer norm": (nn.LayerNorm([576, 576]), "inner", "layer normalisation over space"),
    "softmax": (nn.Softmax(3), "inner", "softmax"),
    "mean": (lambda x: x - x.mean((2, 3), keepdim=True), "Inside", "global pooling"),
    "most": (lambda x: x / x.amax(), "Inside", "global pooling"),
    "flip": (lambda x: x.flip(2), "Inside", "flip"),
    "roll": (lambda x: x.roll(1, 3), "Inside", "roll"),
    "corners": (nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True), "inner",
                "align_corners"),
    "bicubic": (nn.Upsample(scale_factor=2, mode="bicubic"), "inner", "not analysed"),
    "thirds": (nn.Upsample(scale_factor=3, mode="bilinear"), "inner", "rounds its weights"),
    "circular": (nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), "inner", "circular"),
    "sampling": (lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1)), "Inside", "grid_sample"),
    "dropout kept on": (lambda x: F.dropout(x, 0.5, training=True), "Inside", "random"),
    "position": (lambda x: x + torch.arange(x.shape[3]), "Inside", "origin"),
    "one place": (lambda x: x * x[..., :1, :1], "Inside", "spread"),
    "one row": (lambda x: x + x[:, :, 3].unsqueeze(2), "Inside", "one position"),
    "joined": (lambda x: torch.cat([x, x], 2), "Inside", "joins tensors along space"),
    "repeated": (lambda x: x.repeat(1, 1, 2, 1), "Inside", "repeats the whole"),
    "halves": (lambda x: x.unflatten(3, (2, -1)).mean(3), "Inside", "global pooling"),
    "square only": (lambda x: x.reshape(x.shape[0], -1, x.shape[3], x.shape[2]), "Inside",
                    "no family of input sizes"),
    "bias by place": (
        lambda x: torch.baddbmm(
            torch.arange(x[0, 0].numel()) * 1.0, torch.ones(1, 4, 4), x.flatten(2)
        ).view_as(x), "Inside", "origin",
    ),
    "channel by size": (lambda x: x[:, (x.shape[2] - 1) % 4].unsqueeze(1).expand_as(x), "Inside",
                        "no family of input sizes"),
    "index by size": (lambda x: x[:, torch.arange(x.shape[2] % 3, 4)[:2]].repeat(1, 2, 1, 1),
                      "Inside", "no family of input sizes"),
    "channels by size": (lambda x: torch.cat([x, x], 1)[:, x.shape[2] % 4 :][:, :4], "Inside",
                         "no family of input sizes"),
    "cumulated": (lambda x: x.cumsum(2), "Inside", "whole of space"),
    "sorted": (lambda x: x.sort(3).values, "Inside", "whole of space"),
}  # fmt: skip


@pytest.mark.parametrize("name", GLOBAL)
def test_what_breaks_locality_is_named_by_layer_and_reason(name: str) -> None:
    inner, layer, reason = GLOBAL[name]
    found = analyse_module(Inside(inner), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    assert found.breaks[0].layer == layer
    assert reason in found.breaks[0].reason, found.breaks[0]


@pytest.mark.parametrize("name", ["squeeze and excite", "instance norm", "mean", "group norm"])
def test_tiles_are_known_for_the_network_that_would_be_mended(name: str) -> None:
    found = analyse_module(Inside(GLOBAL[name][0]), ndim=2, channels=1)
    assert [axis.context for axis in found.axes] == [(1, 1), (1, 1)]


def test_space_to_depth_may_be_the_last_operator() -> None:
    found = analyse_module(
        nn.Sequential(nn.Conv2d(1, 2, 3), nn.PixelUnshuffle(2)), ndim=2, channels=1
    )
    assert found.verdict == "safe", found.breaks
    (output,) = found.outputs
    assert (output.channels, output.layout) == (8, "bcyx")
    assert [str(axis.scale) for axis in output.axes] == ["1/2", "1/2"]
    assert found.axes[0].period == 2


def test_the_reach_of_single_voxels_is_told_phase_by_phase() -> None:
    net = nn.Sequential(nn.MaxPool2d(4), nn.Conv2d(1, 1, 3, padding=1), nn.Upsample(scale_factor=4))
    (output,) = analyse_module(net, ndim=2, channels=1).outputs
    assert output.axes[0].context == (4, 4)
    assert output.axes[0].reach == ((4, 7), (5, 6), (6, 5), (7, 4))


def test_several_inputs_and_outputs_of_other_scale_and_layout() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(2, 4, 3)

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            both = self.left(a) + self.right(b)
            half = F.max_pool2d(both, 2)
            wide = F.interpolate(both[..., 2:-2, 2:-2], scale_factor=2)
            return {"half": half, "wide": wide.permute(0, 2, 3, 1), "flat": both[:, 0]}

    found = analyse_module(Several(), ndim=2, channels=(1, 2))
    assert found.verdict == "safe", found.breaks
    assert [(i.channels, i.layout) for i in found.inputs] == [(1, "bcyx"), (2, "bcyx")]
    assert [o.layout for o in found.outputs] == ["bcyx", "byxc", "byx"]
    assert [o.channels for o in found.outputs] == [4, 4, 1]
    assert [str(o.scale[0]) for o in found.outputs] == ["1/2", "2", "1"]
    axis = found.axes[0]
    assert (axis.period, axis.output_offset) == (2, 3)
    # Voxel 3 of the input is element 1 of the first output (of voxels 3 and 4), 0 and 2 of others.
    assert [o.axes[0].start for o in found.outputs] == [1, 0, 2]
    assert [o.axes[0].offset for o in found.outputs] == [1, 3, 1]
