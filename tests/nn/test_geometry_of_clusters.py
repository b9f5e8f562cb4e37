"""What check says of soft clustering and closed-form pooling, and that tiles keep to it."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from stitching import field_maker, own_pass, relative_error, stitched_fields
from torch import Tensor, nn

import stitchsafe
from stitchsafe.errors import UnsafeNetworkError
from stitchsafe.geometry import NetworkGeometry, analyse_module, trace
from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import HCFCN, ClosedFormFit, ClusterUp, SoftClusterDown

torch.set_num_threads(1)


class Clusters(nn.Module):
    """Downsamplings and decodings with nothing between, in which a pixel sees its cell alone."""

    def __init__(self, ndim: int, levels: int, padding: str, factor: object = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down = nn.ModuleList(
            SoftClusterDown(ndim, 1 if level == 0 else 2, 2, padding=padding, factor=factor)
            for level in range(levels)
        )
        self.up = nn.ModuleList(
            ClusterUp(ndim, padding=padding, factor=factor) for _ in range(levels)
        )

    def forward(self, x: Tensor) -> Tensor:
        assignments = []
        for down in self.down:
            x, assignment = down(x)
            assignments.append(assignment)
        for up in self.up:
            x = up(x, assignments.pop())
        return x


def segmenter(ndim: int, levels: int, padding: str, **settings: object) -> HCFCN:
    torch.manual_seed(0)
    widths = (3,) * (levels + 1)
    settings = {"widths": widths, "depth": 1, "padding": padding, **settings}
    return HCFCN(ndim=ndim, out_channels=2, **settings).double().eval()


def geometry_of(module: nn.Module, ndim: int) -> NetworkGeometry:
    return analyse_module(module.eval(), ndim=ndim, channels=1)


@functools.cache
def plain(padding: str) -> TorchNetwork:
    """A segmenter of two levels, analysed once."""
    return TorchNetwork(segmenter(2, 2, padding))


@pytest.mark.parametrize(("ndim", "levels"), [(2, 1), (2, 3), (3, 1)])
def test_valid_clusters_are_periodic_with_the_halo_of_theory(ndim: int, levels: int) -> None:
    found = geometry_of(Clusters(ndim, levels, "valid"), ndim)
    assert found.verdict == "safe"
    for axis in found.axes:
        assert axis.period == 2**levels
        assert axis.output_offset == 2 ** (levels + 1) - 2
        assert axis.shrinkage == 2 * axis.output_offset
        assert not axis.padded


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_what_layers_declare_is_what_their_operators_do(
    padding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    declared = plain(padding).geometry
    monkeypatch.delattr("stitchsafe.nn._soft_clustering._Assignment.lattice_geometry")
    monkeypatch.delattr("stitchsafe.nn._soft_clustering._Decoding.lattice_geometry")
    followed = geometry_of(segmenter(2, 2, padding), 2)
    assert (declared.verdict, followed.verdict) == ("safe", "safe")
    for own, other in zip(declared.axes, followed.axes, strict=True):
        assert (own.period, own.context, own.output_offset, own.receptive_field) == (
            other.period, other.context, other.output_offset, other.receptive_field,
        )  # fmt: skip


def test_masked_clusters_are_safe_where_the_border_is_the_volume_s() -> None:
    found = geometry_of(Clusters(2, 2, "same"), 2)
    assert found.verdict == "safe"
    assert [(axis.period, axis.shrinkage, axis.padded) for axis in found.axes] == [(4, 0, True)] * 2


def test_a_wrapped_border_and_places_with_weights_of_their_own_break() -> None:
    found = geometry_of(Clusters(2, 1, "circular"), 2)
    assert found.verdict == "unsafe"
    assert [(b.layer, b.op) for b in found.breaks] == [
        ("down.0.assignment", "_Assignment"), ("up.0.decoding", "_Decoding"),
    ]  # fmt: skip
    assert all("other side" in each.reason for each in found.breaks)


def test_axes_that_are_not_downsampled_have_no_period() -> None:
    found = geometry_of(Clusters(3, 1, "valid", factor=(1, 2, 2)), 3)
    assert [axis.period for axis in found.axes] == [1, 2, 2]
    assert [axis.output_offset for axis in found.axes] == [0, 2, 2]


@pytest.mark.parametrize(
    ("network", "ndim", "tile"),
    [
        (plain("valid"), 2, (8, 12)),
        (plain("same"), 2, (8, 12)),
        (segmenter(2, 2, "same", encoder="resnet"), 2, (8, 12)),
        (segmenter(2, 2, "same", clustered=1), 2, (8, 12)),
        (segmenter(3, 1, "valid"), 3, (4, 6, 6)),
        (segmenter(3, 1, "same"), 3, (4, 6, 6)),
    ],
    ids=["valid", "same", "resnet", "bilinear", "valid 3-D", "same 3-D"],
)
def test_stitched_equals_whole(
    network: HCFCN | TorchNetwork, ndim: int, tile: tuple[int, ...]
) -> None:
    shape = (45, 50) if ndim == 2 else (10, 14, 15)
    data = np.random.default_rng(0).normal(size=(1, *shape))
    maker = field_maker(network, data, tile)
    (found,), (expected,) = stitched_fields(maker).values(), own_pass(maker)[0].values()
    assert found.shape == expected.shape
    assert relative_error(found, expected) <= 1e-12


def test_tiles_off_the_grid_differ() -> None:
    network = segmenter(2, 2, "valid")
    x = torch.randn(1, 1, 82, 82, dtype=torch.float64)
    with torch.no_grad():
        whole = network(x)
        on, off = (network(x[..., at : at + 66, :])[..., :8, :] for at in (4, 6))
    assert torch.equal(on.round(decimals=12), whole[..., 4:12, :].round(decimals=12))
    assert ((off - whole[..., 6:14, :]).abs() > 1e-9).double().mean() > 0.5


def test_what_lives_inside_a_leaf_counts() -> None:
    network = Clusters(2, 1, "same")
    graph = trace(network, (64, 64), 1)
    (assigning,) = [n for n in graph.nodes if n.op == "_Assignment" and n.workspace]
    # 64 features of each pixel and of the 9 cells around each cell, at the least
    assert assigning.workspace >= 64 * 64 * 64 * (1 + 9 / 4)
    assert assigning.flops >= 2 * 64 * 64 * 64 * (1 + 9)
    assert graph.activation_bytes(4) > 4 * assigning.workspace


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        generator = np.random.default_rng(0)
        maps, labels = generator.normal(size=(30, 2, 8, 8)), generator.integers(0, 3, 30)
        self.first = nn.Conv2d(1, 2, 3, padding=1)
        self.pool = ClosedFormFit(components=1).fit(maps, labels).module()
        self.last = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.last(self.pool(self.first(x)))
        return made


@pytest.mark.parametrize("fixed", [None, (8, 8)])
def test_closed_form_pooling_can_never_be_tiled(fixed: tuple[int, int] | None) -> None:
    found = analyse_module(Classifier(), ndim=2, channels=1, fixed=fixed)
    assert found.verdict == "unsafe"
    (only,) = found.breaks
    assert (only.layer, only.op) == ("pool", "ClosedFormPool")
    assert "differ from place to place" in only.reason
    assert "8 x 8" in only.reason
    assert "whole inputs" in only.fix
    if fixed:  # what it would be if it were mended
        assert [axis.period for axis in found.axes] == [2, 2]


def test_a_break_that_no_output_shows_counts_for_nothing() -> None:
    class Unseen(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            self.pool(x)
            made: Tensor = self.last(x)
            return made

    found = analyse_module(Unseen(), ndim=2, channels=1, fixed=(8, 8))
    assert (found.verdict, found.breaks) == ("safe", ())


def test_an_input_more_than_declared_is_said() -> None:
    class Two(nn.Module):
        def lattice_geometry(self) -> dict[str, object]:
            return {"inputs": [[{"stride": 1, "support": [[0, 0]]}] * 2]}

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.two = Two()

        def forward(self, x: Tensor) -> Tensor:
            made: Tensor = self.two(x, 2 * x)
            return made

    found = analyse_module(Network(), ndim=2, channels=1)
    assert found.verdict == "unsafe"
    assert "declares 1 inputs" in found.breaks[0].reason


def test_predict_refuses_a_network_of_it_and_stitches_clusters() -> None:
    image = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    with pytest.raises(UnsafeNetworkError, match="pool"):
        stitchsafe.predict(image, model=Classifier(), save="fields")
    network = segmenter(2, 1, "same").float()
    made = stitchsafe.predict(image, model=network, save="fields", tile_shape=(16, 16))
    with torch.no_grad():
        whole = network(torch.from_numpy(image)[None, None])[0].numpy()
    assert relative_error(made.fields["output"], whole) <= 1e-5
