"""Layers that are laid over a volume: grids, and faces in the colour of their score.

Colours are told apart by people who see few of them: blue and orange, and cividis.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stitchsafe.coordinates import Roi
from stitchsafe.napari_plugin._planes import FaceScores, grid_levels, heat_levels

__all__ = ["add_grid", "add_heat", "placed_like", "remove"]


_CIVIDIS = [
    "00224e", "002e6a", "1a386f", "32436d", "434e6c", "535a6d",
    "61656f", "6f7073", "7d7c78", "8c8878", "9b9476", "aba072",
    "bcae6c", "cdbb63", "dec958", "f0d846", "fee838",
]  # fmt: skip
"""At equal steps: importing matplotlib for it would be felt."""


def placed_like(layer: Any, ndim: int) -> dict[str, Any]:
    """Scale, place and units of the last `ndim` axes of a layer, as arguments of another."""
    placed: dict[str, Any] = {
        "scale": tuple(layer.scale[-ndim:]),
        "translate": tuple(layer.translate[-ndim:]),
    }
    for name in ("units", "axis_labels"):
        if hasattr(layer, name):
            placed[name] = tuple(getattr(layer, name))[-ndim:]
    return placed


def add_grid(
    viewer: Any,
    name: str,
    shape: Sequence[int],
    region: Roi,
    grids: Iterable[Sequence[int]],
    origin: Sequence[int] = (),
    **placed: Any,
) -> Any:
    """Show the seams of some grids, coarser first, in place of what has the name."""
    from napari.utils import Colormap

    lines = Colormap(
        [(0, 0, 0, 0), (0.34, 0.71, 0.91, 0.75), (0.90, 0.62, 0.0, 0.9)], name="stitchsafe grid"
    )
    data = grid_levels(shape, region, grids, origin)
    return _add(viewer, name, data, contrast_limits=(0, 2), colormap=lines, **placed)


def add_heat(viewer: Any, name: str, shape: Sequence[int], faces: FaceScores, **placed: Any) -> Any:
    """Show faces in the colour of their score, in place of what has the name."""
    from napari.utils import Colormap

    stops = np.array([list(bytes.fromhex(colour)) for colour in _CIVIDIS]) / 255
    steps = np.linspace(0, 1, 64)
    colours = np.ones((64, 4))
    for channel, values in enumerate(stops.T):
        colours[:, channel] = np.interp(steps, np.linspace(0, 1, len(stops)), values)
    colours[:, 3] = np.linspace(0.08, 1, 64)
    colours[0] = 0
    data = heat_levels(shape, faces)
    shown = {
        "contrast_limits": (0, 1),
        "colormap": Colormap(colours, name="stitchsafe seams"),
        "opacity": 0.7,
    }
    return _add(viewer, name, data, **shown, **placed)


def _add(viewer: Any, name: str, data: Sequence[Any], **options: Any) -> Any:
    several = len(data) > 1
    shapes = [tuple(level.shape) for level in data]
    if name in viewer.layers:
        shown = viewer.layers[name]
        if _lies_as(shown, shapes, options):
            # The same layer goes on: its look stays as the user made it, and nothing is rebuilt.
            shown.data = list(data) if several else data[0]
            viewer.layers.move(viewer.layers.index(shown), len(viewer.layers))
            return shown
        remove(viewer, name)
    return viewer.add_image(
        list(data) if several else data[0],
        name=name,
        multiscale=several,
        blending="translucent_no_depth",
        rendering="mip",
        interpolation2d="nearest",
        interpolation3d="nearest",
        **options,
    )


def _lies_as(layer: Any, shapes: Sequence[tuple[int, ...]], options: dict[str, Any]) -> bool:
    """Whether a layer has these levels, and lies where a new one would."""
    if [tuple(shape) for shape in layer.level_shapes] != list(shapes):
        return False
    ndim = len(shapes[0])
    wanted = (options.get("scale", (1.0,) * ndim), options.get("translate", (0.0,) * ndim))
    lies = (layer.scale, layer.translate)
    return all(np.array_equal(old, new) for old, new in zip(lies, wanted, strict=True))


def remove(viewer: Any, name: str) -> None:
    """Take away the layer of a name, if there is one."""
    if name in viewer.layers:
        viewer.layers.remove(name)
