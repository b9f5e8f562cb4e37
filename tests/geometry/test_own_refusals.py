"""Networks that refuse sizes of their own will, before any operator tells why."""

from __future__ import annotations

from stitchsafe.networks import TorchNetwork
from stitchsafe.nn import UNet


def test_axes_without_a_size_in_common_are_found_where_the_network_itself_refuses() -> None:
    network = UNet(ndim=2, levels=2, factors=[(1, 2), (3, 3)], base_channels=2)
    geometry = TorchNetwork(network).geometry
    assert geometry.verdict == "safe", geometry.breaks
    assert geometry.period == (3, 6)
