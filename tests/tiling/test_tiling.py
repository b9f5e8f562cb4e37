from __future__ import annotations

import dataclasses
import math

import hypothesis.strategies as st
import pytest
from hypothesis import given
from strategies import analysing, known_unet_cases, unet_cases

from stitchsafe.coordinates import Roi
from stitchsafe.errors import PlanError
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import UNet
from stitchsafe.tiling import (
    AxisTiling,
    Normalization,
    Recipe,
    Schedule,
    Shapes,
    Storage,
    TileGrid,
    choose_shapes,
    estimate_memory,
    format_bytes,
    make_plan,
)


@pytest.fixture(scope="module")
def valid() -> TorchNetwork:
    return TorchNetwork(UNet(ndim=2, levels=3, base_channels=2))


@pytest.fixture(scope="module")
def same() -> TorchNetwork:
    return TorchNetwork(UNet(ndim=2, levels=2, base_channels=2, padding="same"))


def test_a_valid_networks_tile_reads_its_context_and_what_rounds_to_a_valid_size(valid):
    axis = AxisTiling.least(valid.geometry.axes[0], extent=100, tile=16)
    assert axis.halo == (44, 48)  # natural outputs are 4, 12, 20: 20 is the least that holds 16
    span = axis.span(32)
    assert (span.begin, span.end, span.crop) == (-12, 96, 0)
    assert axis.domain == (-44, 144)  # 100 is 4 modulo 8, so a natural output
    assert AxisTiling.least(valid.geometry.axes[0], extent=101, tile=16).domain == (-44, 152)


def test_a_padded_networks_tiles_are_clipped_at_the_volume(same):
    axis = AxisTiling.least(same.geometry.axes[0], extent=64, tile=8)
    before, after = axis.halo
    assert before % 4 == 0
    assert axis.domain == (0, 64)
    first, middle, last = axis.span(0), axis.span(32), axis.span(56)
    assert (first.begin, first.crop) == (0, 0)
    assert (middle.begin, middle.end, middle.crop) == (32 - before, 40 + after, before)
    assert last.end == 64


@pytest.mark.parametrize(
    "cases", [known_unet_cases(), pytest.param(unet_cases(), marks=pytest.mark.slow)], ids=str
)
@analysing()
@given(st.data())
def test_every_tile_takes_a_valid_input_on_the_lattice(cases, data):
    case = data.draw(cases, label="case")
    geometry = case.analysed().geometry
    for axis, extent in zip(geometry.axes, case.shape, strict=True):
        tile = axis.period * data.draw(st.integers(1, 5))
        tiling = AxisTiling.least(axis, extent, tile)
        first, last = tiling.domain
        for start in tiling.starts:
            span = tiling.span(start)
            size = span.end - span.begin
            assert size >= axis.input_min
            assert (size - axis.input_min) % axis.input_step == 0
            assert (span.begin - first) % axis.period == 0
            assert span.crop == start - span.begin - axis.output_offset >= 0
            end = min(start + tile, extent)
            assert start - span.begin >= axis.context[0] or (axis.padded and span.begin == first)
            assert span.end - end >= axis.context[1] or (axis.padded and span.end == last)
            assert span.crop + end - start <= axis.output_size(size)


@pytest.mark.parametrize(
    ("tile", "halo", "message"),
    [
        (
            12,
            (44, 48),
            "a tile of 12 voxels is not a multiple of the network's period 8; take 8 or 16",
        ),
        (16, (43, 48), "shorter than the network's context of 44"),
        (16, (44, 47), "shorter than the network's context of 44 and 48"),
        (
            16,
            (45, 51),
            "off the network's lattice, however large: it must be 4 modulo the period 8",
        ),
        (16, (60, 49), "none that the network takes"),
    ],
)
def test_what_is_misaligned_off_the_lattice_or_short_cannot_be_constructed(
    valid, tile, halo, message
):
    with pytest.raises(PlanError, match=message.replace("(", r"\(")):
        AxisTiling(extent=100, tile=tile, halo=halo, geometry=valid.geometry.axes[0])
    assert AxisTiling(100, 16, (60, 48), valid.geometry.axes[0]).span(16).crop == 16


def test_tiles_of_a_region_and_their_shapes_are_counted_without_listing(same):
    grid = TileGrid.of(same.geometry, (50, 33), (8, 12))
    region = Roi((9, 0), (30, 33))
    tiles = list(grid.tiles(region))
    assert [t.output.offset for t in tiles] == sorted(t.output.offset for t in tiles)
    shapes = grid.input_shapes(region)
    for shape, count in shapes.items():
        assert count == sum(tile.input.shape == shape for tile in tiles)
    assert sum(shapes.values()) == len(tiles)


def recipe(**changes) -> Recipe:
    values = {
        "network": "n", "weights": "w", "extent": (64, 64), "roi": Roi.whole((64, 64)),
        "tile_shape": (8, 16), "halo": ((4, 4), (4, 4)), "cell_shape": (16, 32),
        "outputs": (("embedding", 3),), "save_fields": False, "labels": {"bandwidth": 1.5},
        "border": "reflect", "normalization": Normalization(), "nan": "refuse", "device": "cpu",
        "precision": "float32", "layout": "channels_last", "threads": 2, "build": "2",
        "processor": "p", "seed": 0,
    }  # fmt: skip
    return Recipe(**{**values, **changes})


def test_a_recipe_survives_json_and_names_what_differs():
    mine = recipe()
    again = Recipe.from_json(mine.to_json())
    assert again == mine
    assert again.fingerprint == mine.fingerprint
    other = dataclasses.replace(mine, threads=4, border="edge")
    assert mine.differences(other) == ["border: 'reflect', not 'edge'", "threads: 2, not 4"]
    one, two = (
        dataclasses.replace(mine, labels={"window": [8], "bandwidth": b}) for b in (1.0, 2.0)
    )
    assert one.differences(two) == ["labels.bandwidth: 1.0, not 2.0"]
    none = dataclasses.replace(mine, labels=None)
    assert none.differences(mine) == ["labels: None, not {'bandwidth': 1.5}"]
    assert other.fingerprint != mine.fingerprint


def test_no_field_of_a_schedule_is_one_of_the_recipe():
    names = [{f.name for f in dataclasses.fields(kind)} for kind in (Recipe, Schedule)]
    assert not names[0] & names[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cell_shape": (16, 24)}, "does not hold whole tiles"),
        ({"roi": Roi((0, 0), (0, 4))}, "is empty or leaves"),
        ({"roi": Roi((0, 60), (4, 5))}, "is empty or leaves"),
    ],
)
def test_a_recipe_that_contradicts_itself_cannot_be_constructed(changes, message):
    with pytest.raises(PlanError, match=message):
        recipe(**changes)


def test_blocks_hold_whole_cells():
    assert Schedule.of(recipe()).block_shape == (16, 32)
    assert Schedule.of(recipe(), (32, 32)).block_shape == (32, 32)
    for shape in [(16, 40), (8, 32), (16,)]:
        with pytest.raises(PlanError, match="do not hold whole cells"):
            Schedule.of(recipe(), shape)


def choose(max_memory: int, **changes) -> Shapes:
    values = {
        "period": (4, 8), "extent": (1000, 1000), "preferred_tile": (64, 64), "tile_shape": None,
        "window": None, "max_memory": max_memory, "peak": lambda s: 100 * math.prod(s.tile),
    }  # fmt: skip
    return choose_shapes(**{**values, **changes})


def test_shapes_shrink_until_they_fit_and_stay_on_the_period():
    assert choose(10**9).tile == (64, 64)
    smaller = choose(100_000).tile
    assert math.prod(smaller) * 100 <= 100_000
    assert smaller[0] % 4 == smaller[1] % 8 == 0
    within = choose(100_000, window=(64, 64))
    assert within.cell == (64, 64)
    assert all(64 % t == 0 for t in within.tile)


def test_a_budget_that_is_too_small_is_refused_with_the_least_that_would_do():
    with pytest.raises(PlanError, match=r"of 3kB is too small: the least that would do is 3\.2kB"):
        choose(3000)
    assert choose(3200).tile == (4, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tile_shape": (10, 16)},
            "not a multiple of the network's period 4,8; take --tile-shape 8,16",
        ),
        ({"tile_shape": (16,)}, "has 1 axes, and the network 2"),
        ({"tile_shape": (12, 16), "window": (64, 64)}, "do not hold whole tiles"),
        ({"window": (62, 64)}, "not multiples of the network's period"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_not_rounded(changes, message):
    with pytest.raises(PlanError, match=message):
        choose(10**9, **changes)


def test_a_volume_below_one_tile_gets_one_small_tile():
    assert choose(10**9, extent=(5, 3)).tile == (8, 8)


def test_memory_does_not_grow_with_the_volume_and_adds_up():
    fixed = {
        "parameter_bytes": 10**6, "activation_bytes": 10**8, "input_shape": (100, 100),
        "block_input_shape": (100, 100), "cell_shape": (64, 64), "in_channels": 1,
        "field_channels": 3, "storage": Storage(2, cell_bytes=16), "itemsize": 4,
        "saves_fields": False,
    }  # fmt: skip
    estimate = estimate_memory(**fixed)
    assert estimate.peak > estimate.interpreter + estimate.forward > 10**8
    assert estimate_memory(**{**fixed, "block_input_shape": (200, 100)}).peak > estimate.peak


def test_a_plan_counts_tiles_and_work(valid):
    def draft(shapes: Shapes, grid: TileGrid) -> Recipe:
        return recipe(
            extent=(70, 90), roi=Roi.whole((70, 90)), tile_shape=shapes.tile, halo=grid.halo,
            cell_shape=shapes.cell,
        )  # fmt: skip

    plan = make_plan(
        valid, extent=(70, 90), roi=Roi.whole((70, 90)), storage=Storage(1), max_memory=10**10,
        draft=draft, tile_shape=(16, 24), window=(48, 48), block_shape=(48, 96),
    )  # fmt: skip
    assert (plan.tiles, plan.blocks) == (5 * 4, 2)
    assert plan.redundancy > 1
    assert plan.redundancy == plan.flops / plan.whole_flops
    keys = {
        "recipe", "output_bytes", "scratch_bytes", "blocks", "tiles", "tile_shape", "block_shape",
        "halo", "executor", "redundancy", "peak_memory_bytes", "flops", "seconds",
    }  # fmt: skip
    assert keys <= plan.to_json().keys()
    assert "16 x 24, halo 44+" in plan.describe()


@pytest.mark.parametrize(
    ("count", "text"),
    [(999, "999B"), (1500, "1.5kB"), (450_000_000, "450MB"), (2_345_678_901, "2.35GB")],
)
def test_bytes_for_people(count, text):
    assert format_bytes(count) == text
