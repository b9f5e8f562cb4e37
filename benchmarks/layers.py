"""What each sampling of `stitchsafe.nn` costs beside max-pooling by 2 of the same maps.

All samplings by name and closed-form pooling, in 2-D and 3-D; upsamplings are compared with the
max-pooling that undoes them. One thread; times are of the processor, so that other work disturbs
them little. Layer and max-pooling take turns; printed are medians of the rounds' ratios. The maps
are noise, each phase stronger than the last; where phases are tied, `lps` decides in double. Memory
is the highest sum of what torch holds during a call beyond its input and parameters, as its
profiler sees it. The first column of each is forward in evaluation without gradients, the second
forward and backward in training. A convolution stands beside them for comparison::

    python benchmarks/layers.py --rounds 7
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from stitchsafe.nn import ClosedFormPool, TieWarning
from stitchsafe.nn._polyphase import phase
from stitchsafe.nn._sampling import (
    Downsampling,
    Site,
    Upsampling,
    downsampled,
    make_downsampling,
    make_upsampling,
)

SHAPES = {2: (4, 16, 128, 128), 3: (1, 16, 32, 32, 32)}
SMALL = {2: (64, 16, 32, 32), 3: (16, 16, 12, 12, 12)}
"""For closed-form pooling, which has a weight for each pair of an output place and an input one."""
POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
AT_LEAST = 0.02
"""Seconds that one measurement lasts."""


@dataclass(frozen=True)
class Case:
    """A layer and what it is called with, at a shape for max-pooling."""

    name: str
    layer: nn.Module
    inputs: tuple[Any, ...]
    shape: tuple[int, ...]


def cases(ndim: int) -> Iterator[Case]:
    """All layers that there are for so many axes."""
    shape, channels = SHAPES[ndim], SHAPES[ndim][1]
    fine, site = torch.rand(shape), Site(ndim, channels, channels, (2,) * ndim, "same")
    for index in range(2**ndim):
        phase(fine, index).mul_(1 + index)  # clear decisions
    downs = {name: make_downsampling(name, site) for name in get_args(Downsampling)}
    for name, layer in downs.items():
        yield Case(f"`{name}`", layer, (fine,), shape)
    coarse = torch.rand(*shape[:2], *(size // 2 for size in shape[2:]))
    alike = torch.kron(coarse, torch.ones(1, 1, *(2,) * ndim))
    yield Case("`lps`, phases tied", downs["lps"], (alike,), shape)
    decided = {"lpu": "lps", "decode": "soft-cluster"}
    for name in get_args(Upsampling):
        inputs: tuple[Any, ...] = (coarse,)
        if name in decided:
            with torch.no_grad():
                inputs = coarse, downsampled(downs[decided[name]].eval(), fine)[1]  # type: ignore[index]
        yield Case(f"`{name}` (up)", make_upsampling(name, site), inputs, shape)
    shape = SMALL[ndim]
    sizes, made = shape[2:], tuple(size // 2 for size in shape[2:])
    for components in (1, 2):
        weights = torch.rand(components, math.prod(made), math.prod(sizes)) / math.prod(sizes)
        layer = ClosedFormPool(weights, sizes, made, torch.zeros(channels))
        name = f"`ClosedFormPool`, {components} eigenvector{'s' * (components > 1)}"
        yield Case(name, layer, (torch.rand(shape),), shape)
    convolution = {2: nn.Conv2d, 3: nn.Conv3d}[ndim](channels, channels, 3, padding=1)
    yield Case("convolution of 3", convolution, (fine,), SHAPES[ndim])


def calls(layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Callable[[], object], ...]:
    """Forward in evaluation, and forward and backward in training."""
    x, *rest = inputs
    with torch.no_grad():
        gradient = torch.ones_like(_map(layer(x, *rest)))
    learning = x.clone().requires_grad_()

    @torch.no_grad()
    def forward() -> object:
        return layer.eval()(x, *rest)

    def backward() -> object:
        _map(layer.train()(learning, *rest)).backward(gradient)
        layer.zero_grad()
        learning.grad = None
        return None

    return forward, backward


def _map(made: Any) -> Tensor:
    return made[0] if isinstance(made, tuple) else made


def seconds(work: Callable[[], object], times: int) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return (time.process_time() - began) / times


def peak(work: Callable[[], object]) -> int:
    """Bytes that torch held at most, beyond those before; the profiler may miss a call."""
    return max(_watched(work) for _ in range(3))


def _watched(work: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        work()
    assert watched.profiler is not None
    events = watched.profiler.kineto_results.events()
    held = highest = 0
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        highest = max(highest, held)
    return highest


def ratios(case: Case, rounds: int) -> list[float]:
    """Time forward and with backward, memory forward and with backward, by those of max-pooling."""
    ndim = len(case.shape) - 2
    found = []
    pooled = calls(POOL[ndim](2), (torch.rand(case.shape),))
    pairs = list(zip(calls(case.layer, case.inputs), pooled, strict=True))
    for work, beside in pairs:
        counts = [max(1, math.ceil(AT_LEAST / seconds(each, 2))) for each in (work, beside)]
        taken = [seconds(work, counts[0]) / seconds(beside, counts[1]) for _ in range(rounds)]
        found.append(statistics.median(taken))
    for work, beside in pairs:
        found.append(peak(work) / peak(beside))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    asked = parser.parse_args()
    if asked.rounds < 1:
        parser.error(f"--rounds {asked.rounds} measures nothing; give at least 1")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    warnings.simplefilter("ignore", TieWarning)
    print("| layer | axes | time | time, with backward | memory | memory, with backward |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for ndim in (2, 3):
        for case in cases(ndim):
            cells = (f"{ratio:.2g}" if ratio < 10 else f"{ratio:.0f}"
                     for ratio in ratios(case, asked.rounds))  # fmt: skip
            print(f"| {case.name} | {ndim} | {' | '.join(cells)} |", flush=True)
    print(f"\n{os.cpu_count()} cores, 1 thread; {asked.rounds} rounds; maps {SHAPES} and {SMALL}")


if __name__ == "__main__":
    main()
