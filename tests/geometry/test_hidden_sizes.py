"""Modules that let their result follow the input's size, or the past, in ways hard to see."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from stitching import field_maker, stitched_fields
from torch import Tensor, nn

from stitchsafe.geometry import analyse_module
from stitchsafe.networks import TorchNetwork


class Hidden(nn.Module):
    """A convolution, and a function of the module and its input around it."""

    def __init__(self, function: Callable[[Hidden, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(1, 1, 3, padding=1)
        self.plain = nn.Conv2d(1, 1, 3)
        self.one = nn.Parameter(torch.ones(1))
        self.function = function
        self.kept: list[Any] = []
        self.words: OrderedDict[str, float] = OrderedDict()
        self.space = SimpleNamespace()
        self.tensors = [torch.zeros(())]
        self.array = np.zeros(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def wide(x: Tensor) -> bool:
    return x.shape[-1] // 50 % 2 == 1


def marked(s: Hidden, x: Tensor) -> Tensor:
    mask = torch.zeros(1, 1, *x.shape[2:], dtype=x.dtype)
    mask[..., :8, :8] = 1
    return s.conv(x) * (1 - mask)


def rows_of_a_kernel(s: Hidden, x: Tensor) -> Tensor:
    kernel = torch.zeros(1, 1, 3, 3, dtype=x.dtype)
    start = 2 if wide(x) else 0
    kernel[:, :, start : start + 1] = 1
    return F.conv2d(x, kernel, padding=1)


def folded_kernel(s: Hidden, x: Tensor) -> Tensor:
    count = torch.ones(x.shape[-1], dtype=x.dtype).sum()
    return F.conv2d(x, torch.ones(1, 1, 3, 3, dtype=x.dtype) * count, padding=1)


def folded_product(s: Hidden, x: Tensor) -> Tensor:
    matrix = torch.ones(x.shape[-1], dtype=x.dtype).sum() * torch.ones(1, 1, dtype=x.dtype)
    return (s.conv(x).permute(0, 2, 3, 1) @ matrix).permute(0, 3, 1, 2)


def folded_index(s: Hidden, x: Tensor) -> Tensor:
    index = (torch.ones(x.shape[-1], dtype=torch.long).sum() % 2)[None]
    return torch.cat([s.conv(x), x], 1).index_select(1, index)


def normalised(s: Hidden, x: Tensor) -> Tensor:
    both = torch.cat([x, s.conv(x)], 1).permute(0, 2, 3, 1)
    return F.layer_norm(both, [2], eps=1e-5 if wide(x) else 1.0).permute(0, 3, 1, 2)


def length(s: Hidden, x: Tensor) -> Tensor:
    y = s.conv(x)
    return torch.linalg.vector_norm(y, dim=1, keepdim=True) if wide(x) else y


def data_of_another(s: Hidden, x: Tensor) -> Tensor:
    y = x * 1
    y.data = s.conv(s.conv(x))
    return y


def listed(s: Hidden, x: Tensor) -> Tensor:
    if not s.kept:
        s.kept.append(float(x.shape[-1]))
    return s.conv(x) * s.kept[0]


def ordered(s: Hidden, x: Tensor) -> Tensor:
    s.words.setdefault("width", float(x.shape[-1]))
    return s.conv(x) * s.words["width"]


def in_an_object(s: Hidden, x: Tensor) -> Tensor:
    if not hasattr(s.space, "width"):
        s.space.width = float(x.shape[-1])
    return s.conv(x) * s.space.width


def threaded(s: Hidden, x: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(x.mean()))
    thread.start()
    thread.join()
    return s.conv(x) - found[0]


def counted_in_a_list(s: Hidden, x: Tensor) -> Tensor:
    s.tensors[0].add_(1)
    return s.conv(x) * s.tensors[0]


def features_of_the_last_pass(s: Hidden, x: Tensor) -> Tensor:
    y = s.conv(x)
    before = s.kept[0].mean() if s.kept else y.new_zeros(())
    s.kept[:] = [y]
    return y + before


def rebound(s: Hidden, x: Tensor) -> Tensor:
    s.tensors[0] = s.tensors[0] + 1
    return s.conv(x) * s.tensors[0]


def counted_deep_within(s: Hidden, x: Tensor) -> Tensor:
    s.space.__dict__.setdefault("deep", {"count": [0]})["count"][0] += 1
    return s.conv(x)


def counted_in_an_array(s: Hidden, x: Tensor) -> Tensor:
    s.array += 1
    return s.conv(x) * 2


def stored_by_a_dead_branch(s: Hidden, x: Tensor) -> Tensor:
    y = s.conv(x)
    scale = float(len(s.kept))
    s.kept.append(y.mean())
    return y * scale


def weights_that_grow(s: Hidden, x: Tensor) -> Tensor:
    s.conv.weight.data.mul_(1.01)
    return s.conv(x)


def weights_that_are_set(s: Hidden, x: Tensor) -> Tensor:
    s.conv.weight.data = torch.ones(1, 1, 3, 3) * x.shape[-1]
    return s.conv(x)


def square(s: Hidden, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    most = max(h, w)
    padded = F.pad(x, (0, most - w, 0, most - h))
    return s.conv(s.conv(padded))[..., :h, :w]


def an_eighth(s: Hidden, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    k = h // 8
    return s.conv(s.conv(F.pad(x, (k, k, k, k))))[..., k : k + h, k : k + w]


NEVER_SAFE = {
    "a mask written in": marked,
    "rows of a kernel": rows_of_a_kernel,
    "a sum of what is expanded": lambda s, x: s.conv(x) * s.one.expand(x.shape[-1]).sum(),
    "a kernel folded from the size": folded_kernel,
    "a matrix folded from the size": folded_product,
    "an index folded from the size": folded_index,
    "a word": lambda s, x: F.gelu(s.conv(x), approximate="tanh" if wide(x) else "none"),
    "a way of rounding": lambda s, x: torch.div(
        s.conv(x), 0.3, rounding_mode="floor" if wide(x) else "trunc"
    ),
    "a type": lambda s, x: s.conv(x).to(torch.bfloat16 if wide(x) else torch.float64).to(x.dtype),
    "an epsilon": normalised,
    "an operator that leaves the shape": length,
    "the data of another": data_of_another,
    "kept in a list": listed,
    "kept in a mapping": ordered,
    "kept in an object": in_an_object,
    "another thread": threaded,
    "a tensor that counts": counted_in_a_list,
    "features of the last pass": features_of_the_last_pass,
    "a tensor that is bound anew": rebound,
    "a count deep within": counted_deep_within,
    "a count in an array": counted_in_an_array,
    "a list that a dead branch fills": stored_by_a_dead_branch,
    "weights that grow": weights_that_grow,
    "weights that are set": weights_that_are_set,
    "padded to a square": square,
    "padded by an eighth": an_eighth,
}


@pytest.mark.parametrize("name", NEVER_SAFE)
def test_what_follows_the_size_in_hiding_is_never_safe(name: str) -> None:
    module = Hidden(NEVER_SAFE[name])
    assert analyse_module(module, ndim=2, channels=1).verdict == "unsafe"
    assert torch.equal(module.conv.weight, Hidden(marked).conv.weight)  # left as it was


@torch.library.custom_op("hidden::clone", mutates_args=())
def clone(x: Tensor) -> Tensor:
    return x - x.mean()


@clone.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def test_an_operator_of_another_library_is_not_taken_for_one_of_the_same_name() -> None:
    module = Hidden(lambda s, x: torch.ops.hidden.clone(s.conv(x)))
    found = analyse_module(module, ndim=2, channels=1)
    assert [each.op for each in found.breaks] == ["hidden.clone.default"]


def test_a_network_that_ends_the_program_is_refused() -> None:
    def ends(s: Hidden, x: Tensor) -> Tensor:
        raise SystemExit(0)

    assert analyse_module(Hidden(ends), ndim=2, channels=1).verdict == "unsafe"


def to_a_multiple(mode: str) -> Callable[[Hidden, Tensor], Tensor]:
    def padded(s: Hidden, x: Tensor) -> Tensor:
        h, w = x.shape[2:]
        y = F.pad(x, (0, -w % 16, 0, -h % 16), mode=mode)
        return s.conv(s.conv(y))[..., :h, :w]

    return padded


def to_at_least(s: Hidden, x: Tensor) -> Tensor:
    h, w = x.shape[2:]
    y = F.pad(x, (0, max(0, 64 - w), 0, max(0, 64 - h)))
    return s.conv(s.conv(y))[..., :h, :w]


def first_more(s: Hidden, x: Tensor) -> Tensor:
    many = 3 if x.shape[-1] > 50 else 1
    return s.plain(F.pad(s.plain(F.pad(x, (many,) * 4)), (2 - many,) * 4))


PADDED = {
    "zeros to a multiple": (to_a_multiple("constant"), 16),
    "a mirror to a multiple": (to_a_multiple("reflect"), 16),
    "zeros to a least size": (to_at_least, 1),
    "before one convolution or the other": (first_more, 1),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_that_follows_the_size_restricts_sizes(name: str) -> None:
    """Safe at sizes that are padded alike; and there stitched equals the module's own pass."""
    function, step = PADDED[name]
    network = TorchNetwork(Hidden(function).double(), ndim=2, channels=1)
    geometry = network.geometry
    assert geometry.verdict == "safe", geometry.breaks
    assert [axis.input_step for axis in geometry.axes] == [step, step]
    shape = tuple(axis.input_min + 2 * max(16, step) for axis in geometry.axes)
    image = np.random.default_rng(0).standard_normal((1, *shape))
    (field,) = stitched_fields(field_maker(network, image, (16, 32), border="reflect")).values()
    with torch.no_grad():
        whole = network.module(torch.from_numpy(image)[None])[0].numpy()
    assert np.abs(field - whole).max() <= 1e-12 * np.abs(whole).max()
