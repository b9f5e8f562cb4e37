"""What no output shows counts for nothing; what one shows in a roundabout way counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stitchsafe.geometry import analyse_module


class Branched(nn.Module):
    """Two convolutions, and a function that may see what lies between them."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)
        self.norm, self.function = nn.InstanceNorm2d(4), function

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.function(self.first(x)))


def dead(function: Callable[[Tensor], object]) -> Callable[[Tensor], Tensor]:
    def run(x: Tensor) -> Tensor:
        function(x)
        return x

    return run


def resized(x: Tensor) -> Tensor:
    return F.interpolate(x, size=(100, 100))


def in_place_of_its_own(x: Tensor) -> Tensor:
    y = F.instance_norm(x) * 2
    y.relu_()
    return y.add_(1)


UNSEEN: dict[str, Callable[[Tensor], object]] = {
    "instance norm": F.instance_norm,
    "global pooling": lambda x: x.mean((2, 3), keepdim=True),
    "squeeze and excite": lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(),
    "softmax over space": lambda x: x.softmax(3) + 1,
    "not analysed": lambda x: torch.fft.fft2(x).abs() + x,
    "product over space": lambda x: x @ x.transpose(2, 3),
    "in place, of its own": in_place_of_its_own,
    "no whole factor": resized,
    "a longer period": lambda x: F.max_pool2d(x, 16),
    "two lattices": lambda x: F.max_pool2d(x, 2) + x[..., : x.shape[2] // 2, : x.shape[3] // 2],
    "by the size": lambda x: x * x.shape[3],
}


@pytest.mark.parametrize("name", UNSEEN)
def test_a_branch_that_no_output_shows_counts_for_nothing(name: str) -> None:
    plain = analyse_module(Branched(lambda x: x), ndim=2, channels=1)
    found = analyse_module(Branched(dead(UNSEEN[name])), ndim=2, channels=1)
    assert found.verdict == "safe", found.breaks
    # A pass over few voxels may fail in the branch, which runs all the same.
    assert [replace(axis, input_min=1) for axis in found.axes] == list(plain.axes)
    assert found.program == plain.program
    shown = analyse_module(Branched(lambda x: torch.cat([x, x], 1)[:, :4]), ndim=2, channels=1)
    assert shown.program != plain.program


@pytest.mark.parametrize("name", [each for each in UNSEEN if each != "a longer period"])
def test_the_same_branch_where_an_output_shows_it_counts(name: str) -> None:
    class Shown(Branched):
        def forward(self, x: Tensor) -> tuple[Tensor, object]:
            x = self.first(x)
            return self.last(x), self.function(x)

    assert analyse_module(Shown(UNSEEN[name]), ndim=2, channels=1).verdict == "unsafe"


def normed_view(x: Tensor) -> Tensor:
    part = x[:, :2]
    part.add_(part.mean((2, 3), keepdim=True))
    return x


def written_behind_a_break(x: Tensor) -> Tensor:
    wide = x @ x.transpose(2, 3) @ x
    x[:, :2].mul_(wide[:, :2])
    return x


def through_a_reshape(x: Tensor) -> Tensor:
    flat = x.view(x.shape[0], -1)
    flat.sub_(flat.mean(1, keepdim=True))
    return x


def through_a_buffer(x: Tensor) -> Tensor:
    held = torch.zeros(1, 4, 1, 1)
    held[:, :2].add_(x.mean((2, 3), keepdim=True)[:, :2])
    return x * held


def through_two_reductions(x: Tensor) -> Tensor:
    return x * (x.mean((2, 3), keepdim=True).abs() + 1).sqrt()


def its_statistics(x: Tensor) -> Tensor:
    _, mean, _ = torch.native_group_norm(x, None, None, 1, 4, x.shape[2] * x.shape[3], 1, 1e-5)
    return x + mean.view(1, 1, 1, 1)


def out_of_place(x: Tensor) -> Tensor:
    torch.add(x, F.instance_norm(x), out=x)
    return x


def many_at_once(x: Tensor) -> Tensor:
    torch._foreach_mul_([x], [F.instance_norm(x)])
    return x


def taken_out(x: Tensor) -> Tensor:
    return x * x.mean((2, 3)).max(1, keepdim=True)[0][..., None, None]


def data_decide(x: Tensor) -> Tensor:
    return x * 2 if x.mean() > 0 else x


ROUNDABOUT = (
    normed_view, written_behind_a_break, through_a_reshape, through_a_buffer,
    through_two_reductions, its_statistics, out_of_place, many_at_once, taken_out, data_decide,
)  # fmt: skip


@pytest.mark.parametrize("function", ROUNDABOUT, ids=lambda f: f.__name__)
def test_what_reaches_an_output_in_a_roundabout_way_is_never_safe(
    function: Callable[[Tensor], Tensor],
) -> None:
    found = analyse_module(Branched(function), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    assert found.breaks


def test_a_constant_output_is_refused_beside_a_branch_that_nothing_shows() -> None:
    class Constant(Branched):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = self.first(x)
            F.instance_norm(x)
            return self.last(x), torch.zeros_like(x)

    found = analyse_module(Constant(nn.Identity()), ndim=2, channels=1)
    assert [each.op for each in found.breaks] == ["output"]


def test_memory_of_a_branch_that_nothing_shows_is_still_counted() -> None:
    from stitchsafe.geometry import trace

    plain = trace(Branched(lambda x: x), (64, 64), 1)
    wide = trace(Branched(dead(lambda x: x.repeat(1, 8, 1, 1) + 1)), (64, 64), 1)
    assert wide.activation_bytes(4) > plain.activation_bytes(4)


def test_a_layer_that_no_output_shows_asks_for_no_consensus() -> None:
    class Deciding(nn.Module):
        def lattice_geometry(self) -> dict[str, object]:
            axis = {"stride": 1, "support": [[0, 0]]}
            return {"axes": [axis, axis], "consensus": "phases"}

        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    verdicts = [
        analyse_module(Branched(function), ndim=2, channels=1).verdict
        for function in (Deciding(), lambda x: x)
    ]
    assert verdicts == ["safe with consensus", "safe"]
    unseen = Branched(Deciding())
    unseen.forward = lambda x: (unseen.function(x), unseen.first(x))[1]  # type: ignore
    assert analyse_module(unseen, ndim=2, channels=1).verdict == "safe"
