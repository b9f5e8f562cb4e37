"""Outputs finer or coarser than the input, several at once: each equals its own whole pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis.strategies import DrawFn
from stitching import field_maker, own_pass, relative_error, stitched_fields
from strategies import analysing
from torch import nn

from stitchsafe.coordinates import Roi
from stitchsafe.networks import TorchNetwork

CONV = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
AVERAGE = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MAXIMUM = {2: nn.MaxPool2d, 3: nn.MaxPool3d}

SCALES = {
    "full": Fraction(1), "strided": Fraction(1, 2), "pooled": Fraction(1, 2),
    "quarter": Fraction(1, 4), "double": Fraction(2), "nearest": Fraction(2),
    "three halves": Fraction(3, 2),
}  # fmt: skip


def head(kind: str, ndim: int, padding: int) -> nn.Module:
    """A head of two channels over a trunk of three."""
    conv = CONV[ndim]
    return {
        "full": lambda: conv(3, 2, 3, padding=padding),
        "strided": lambda: conv(3, 2, 4, stride=2, padding=padding),
        "pooled": lambda: nn.Sequential(MAXIMUM[ndim](2), conv(3, 2, 3, padding=padding)),
        "quarter": lambda: nn.Sequential(
            AVERAGE[ndim](2), conv(3, 2, 1), MAXIMUM[ndim](2), conv(2, 2, 3, padding=padding)
        ),
        "double": lambda: nn.Sequential(
            TRANSPOSED[ndim](3, 2, 4, stride=2, padding=1), conv(2, 2, 3, padding=padding)
        ),
        "nearest": lambda: nn.Sequential(
            nn.Upsample(scale_factor=2), conv(3, 2, 5, padding=2 * padding)
        ),
        "three halves": lambda: nn.Sequential(
            nn.Upsample(scale_factor=3), AVERAGE[ndim](2), conv(3, 2, 3, padding=padding)
        ),
    }[kind]()


class Heads(nn.Module):
    """One trunk, and an output of its own scale and offset per head."""

    def __init__(self, ndim: int, padding: int, kinds: tuple[str, ...]) -> None:
        super().__init__()
        self.trunk = CONV[ndim](1, 3, 3, padding=padding)
        self.heads = nn.ModuleList(head(kind, ndim, padding) for kind in kinds)

    def forward(self, x):
        shared = self.trunk(x).relu()
        return tuple(each(shared) for each in self.heads)


@dataclass(frozen=True)
class ScaleCase:
    ndim: int
    padding: int
    kinds: tuple[str, ...]
    shape: tuple[int, ...]
    seed: int

    def module(self) -> Heads:
        torch.manual_seed(self.seed)
        return Heads(self.ndim, self.padding, self.kinds).double().eval()

    def volume(self) -> np.ndarray:
        return np.random.default_rng(self.seed).normal(size=(1, *self.shape))


@st.composite
def scale_cases(draw: DrawFn) -> ScaleCase:
    ndim = draw(st.sampled_from([2, 3]))
    kinds = draw(st.lists(st.sampled_from(sorted(SCALES)), min_size=1, max_size=3, unique=True))
    largest = 41 if ndim == 2 else 15
    return ScaleCase(
        ndim,
        draw(st.integers(0, 1)),
        tuple(kinds),
        tuple(draw(st.integers(1, largest)) for _ in range(ndim)),
        draw(st.integers(0, 2**16)),
    )


@analysing()
@given(case=scale_cases(), data=st.data())
def test_every_output_equals_its_whole_pass_over_any_region(case: ScaleCase, data) -> None:
    network = TorchNetwork(case.module())
    geometry = network.geometry
    assert geometry.verdict == "safe", geometry.breaks
    assert [o.scale[0] for o in geometry.outputs] == [SCALES[kind] for kind in case.kinds]
    tile = tuple(p * data.draw(st.integers(1, 4), label="tile") for p in geometry.period)
    bounds = [sorted((data.draw(st.integers(0, n - 1)), data.draw(st.integers(1, n))))
              for n in case.shape]  # fmt: skip
    roi = Roi.from_bounds([a for a, _ in bounds], [max(b, a + 1) for a, b in bounds])
    maker = field_maker(network, case.volume(), tile, roi=roi)
    (whole, _), found = own_pass(maker), stitched_fields(maker)
    for field in maker.recipe.fields:
        assert whole[field.name].shape == (2, *field.shape(case.shape))
        inside = (slice(None), *field.elements(roi).slices)
        assert relative_error(found[field.name][inside], whole[field.name][inside]) <= 1e-12
        found[field.name][inside] = np.nan
        assert np.isnan(found[field.name]).all()


@pytest.mark.parametrize("size", [(20, 20), (27, 33), (5, 3)])
def test_the_whole_is_the_modules_own_pass(size) -> None:
    """Element 0 lies at voxel 0: what a padded network gives, as it gives it."""
    case = ScaleCase(2, 1, ("full", "pooled", "double", "quarter"), size, 0)
    module = case.module()
    maker = field_maker(module, case.volume(), (8, 4))
    extended = [end for _, end in (axis.domain for axis in maker.grid.axes)]
    margins = [(0, e - s) for e, s in zip(extended, size, strict=True)]
    volume = np.pad(case.volume(), [(0, 0), *margins], mode="reflect")
    with torch.no_grad():
        expected = module(torch.from_numpy(volume)[None])
    found = stitched_fields(maker)
    for field, own in zip(maker.recipe.fields, expected, strict=True):
        rows, columns = field.shape(size)
        assert (rows, columns) == tuple(int(np.ceil(s * field.scale[0])) for s in size)
        np.testing.assert_allclose(
            found[field.name], own[0, :, :rows, :columns].numpy(), rtol=0, atol=1e-13
        )


def test_a_crop_that_is_an_element_off_is_found_out() -> None:
    """The comparison would see a wrong crop: shift one output's by one element."""
    maker = field_maker(
        ScaleCase(2, 0, ("full", "double"), (21, 22), 3).module(),
        np.random.default_rng(3).normal(size=(1, 21, 22)), (4, 4),
    )  # fmt: skip
    whole = maker.whole()
    axes = maker.grid.outputs[1]
    wrong = (replace(axes[0], start=axes[0].start + 1), axes[1])
    maker.grid = replace(maker.grid, outputs=(maker.grid.outputs[0], wrong))
    found = stitched_fields(maker)
    assert relative_error(found["output0"], whole["output0"]) <= 1e-12
    assert relative_error(found["output1"], whole["output1"]) > 1e-2
