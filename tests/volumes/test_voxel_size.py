from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stitchsafe.errors import VolumeError, VoxelSizeError
from stitchsafe.volumes import VoxelSize, open_volume, require_voxel_size

lengths = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=3).map(tuple)
units = st.sampled_from(["angstrom", "nanometer", "micrometer", "millimeter", "meter"])


@pytest.mark.parametrize(
    ("name", "full"),
    [("nm", "nanometer"), ("µm", "micrometer"), ("μm", "micrometer"), ("Microns", "micrometer"),
     ("micrometre", "micrometer"), ("Å", "angstrom"), ("\\u00B5m", "micrometer")],
)  # fmt: skip
def test_unit_names(name, full):
    assert VoxelSize((1, 1), name).unit == full


@given(lengths, units, units)
def test_units_convert_there_and_back(values, first, second):
    size = VoxelSize(values, first)
    back = size.to(second).to(first)
    np.testing.assert_allclose(back.values, values, rtol=1e-14)
    assert size.agrees(size.to(second), 1e-12)


def test_conversion_is_exact_where_numbers_are():
    assert VoxelSize((0.01, 0.004), "um").to("nm") == VoxelSize((10, 4), "nm")
    assert VoxelSize((10, 4), "nm").ratio(VoxelSize((0.005, 0.004), "um")) == (2, 1)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0.3,0.1,0.1", VoxelSize((0.3, 0.1, 0.1), "um")),
        ("10,10,10nm", VoxelSize((10, 10, 10), "nm")),
        (" 1e-3, 2 mm ", VoxelSize((0.001, 2), "mm")),
    ],
)
def test_parse(text, size):
    assert VoxelSize.parse(text) == size
    assert VoxelSize.parse(size.option()) == size
    assert VoxelSize.from_json(size.to_json()) == size


@pytest.mark.parametrize("text", ["", "a,b", "1,,2", "1,2,3 parsec", "0,1,1", "-1,1", "1,nan"])
def test_nonsense_is_refused(text):
    with pytest.raises(VoxelSizeError):
        VoxelSize.parse(text)


def test_tolerance_is_relative_and_symmetric():
    a, b = VoxelSize((100, 100), "nm"), VoxelSize((0.104, 0.1), "um")
    assert a.agrees(b)
    assert b.agrees(a)
    assert not a.agrees(VoxelSize((106, 100), "nm"))
    assert not a.agrees(VoxelSize((100, 100, 100), "nm"))


CUBE = np.zeros((4, 4, 4), np.uint8)


def test_contract_names_the_level_that_fits(shared_data):
    path = shared_data / "fractal_cardiomyocyte_mip.zarr"
    volume = open_volume(path, level=0)
    require_voxel_size(volume, None)
    require_voxel_size(volume, VoxelSize((1000, 325, 325), "nm"))
    with pytest.raises(VoxelSizeError, match=r"use --level 2") as caught:
        require_voxel_size(volume, VoxelSize((1, 1.3, 1.3), "um"))
    assert "1 x 0.325 x 0.325 micrometer" in str(caught.value)
    with pytest.raises(VoxelSizeError, match=r"no level fits.*--voxel-size 10,10,10nm"):
        require_voxel_size(volume, VoxelSize((10, 10, 10), "nm"))


def test_contract_without_a_pyramid_or_a_size():
    expected = VoxelSize((10, 10, 10), "nm")
    with pytest.raises(VoxelSizeError, match=r"unknown.*--voxel-size 10,10,10nm"):
        require_voxel_size(open_volume(CUBE), expected)
    with pytest.raises(VoxelSizeError, match="resample the volume") as caught:
        require_voxel_size(open_volume(CUBE, voxel_size="20,10,10nm"), expected)
    assert "--level" not in str(caught.value)
    require_voxel_size(open_volume(CUBE, voxel_size="10.2,10,10nm"), expected)


def test_a_corrected_size_moves_the_other_levels_along(shared_data):
    path = shared_data / "fractal_cardiomyocyte_mip.zarr"
    volume = open_volume(path, level=1, voxel_size=(2, 1, 1))
    assert volume.voxel_size == VoxelSize((2, 1, 1), "um")
    assert volume.levels[2].voxel_size == VoxelSize((2, 2, 2), "um")
    assert volume.levels[0].voxel_size == VoxelSize((2, 0.5, 0.5), "um")


def test_text_of_a_wrong_length_is_refused():
    with pytest.raises(VolumeError, match="give 3 numbers"):
        open_volume(CUBE, voxel_size="1,1nm")
