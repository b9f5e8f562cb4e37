"""Sample data: disks, neurites, and neurites that were tiled wrongly beside the right result."""

from __future__ import annotations

from typing import Any

import numpy as np

from stitchsafe.bundled import demo_labels, demo_volume
from stitchsafe.napari_plugin._lazy import channel_of, levels_of, scale_of
from stitchsafe.napari_plugin._reader import SOURCE, LayerData, image_layers
from stitchsafe.volumes import open_volume

__all__ = ["sample_disks", "sample_neurites", "sample_wrong_tiling"]

_SIZE = 256
_GAP = 10


def sample_disks() -> list[LayerData]:
    """Bright disks on a dark ground, as the model disks-2d was trained on."""
    generator = np.random.default_rng(8)
    image, labels = np.zeros((2, _SIZE, _SIZE))
    y, x = np.mgrid[:_SIZE, :_SIZE]
    for place in generator.uniform(0, _SIZE, (400, 2)):
        apart, radius = np.hypot(y - place[0], x - place[1]), generator.uniform(4, 8)
        if not labels[apart < radius + 2].any():
            labels[apart < radius] = labels.max() + 1
    image = (labels > 0) + generator.normal(0, 0.1, labels.shape)
    return [
        (image.astype(np.float32), {"name": "disks", "contrast_limits": (-0.3, 1.3)}, "image"),
        (labels.astype(np.uint16), {"name": "disks, truth", "visible": False}, "labels"),
    ]


def sample_neurites() -> list[LayerData]:
    """Neurites of a fly's brain in electron microscopy, which neurites-em never saw in training."""
    path = f"{demo_volume()}:labels"
    (volume,) = levels_of(path)
    truth = {
        "name": "neurites, truth",
        "visible": False,
        "metadata": {SOURCE: {"path": path}},
        **scale_of(volume.voxel_size, volume.axes),
    }
    image = image_layers(f"{demo_volume()}:raw", name="neurites")
    return [*image, (channel_of([volume])[0], truth, "labels")]


def sample_wrong_tiling() -> list[LayerData]:
    """The neurites as neurites-em labels them: by stitchsafe, and tile by tile on its own.

    To the right each tile of 32 x 64 x 64 voxels was predicted as if it were a volume of its own.
    """
    raw = open_volume(f"{demo_volume()}:raw")
    layers: list[LayerData] = []
    assert raw.voxel_size is not None  # the bundled volume states it
    for number, (kind, title) in enumerate((("right", "stitched"), ("wrong", "tiled wrongly"))):
        aside = [0.0] * (len(raw.shape) - 1)
        aside.append(number * (raw.shape[-1] + _GAP) * raw.voxel_size.values[-1])
        path = f"{demo_labels()}:{kind}"
        image = image_layers(f"{demo_volume()}:raw", name=f"neurites, {title}")[0]
        labels: dict[str, Any] = {
            "name": f"labels, {title}",
            "metadata": {SOURCE: {"path": path}},
            **scale_of(raw.voxel_size, raw.axes),
        }
        (volume,) = levels_of(path)
        layers.append((image[0], {**image[1], "translate": aside}, image[2]))
        layers.append((channel_of([volume])[0], {**labels, "translate": aside}, "labels"))
    return layers
