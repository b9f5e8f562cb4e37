"""Pictures of results that a person can judge."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stitchsafe.discontinuity import colours_of_field
from stitchsafe.tiling import Recipe

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw_part", "draw_result"]


def draw_result(
    path: Path,
    raw: NDArray[Any],
    labels: NDArray[Any],
    truth: NDArray[Any],
    recipe: Recipe,
    difference: float,
) -> None:
    """Write a PNG: image, instances with the tiles' grid, and truth, in a plane across each axis.

    Parameters
    ----------
    path
        Where.
    raw, labels, truth
        Of one shape, (z, y, x).
    recipe
        Whose tiles are drawn.
    difference
        Largest difference from the whole pass, for the caption.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cuts = [(0, raw.shape[0] // 2), (1, raw.shape[1] // 2)]
    heights = [raw.shape[1], raw.shape[0]]
    figure, axes = pyplot.subplots(
        2, 3, figsize=(15, 5 * sum(heights) / raw.shape[2] + 1.2), height_ratios=heights,
        squeeze=False, layout="constrained",
    )  # fmt: skip
    truth = _like(truth, labels)
    colours = _colours(int(max(labels.max(), truth.max())))
    for row, (axis, position) in enumerate(cuts):
        image, found, expected = (np.take(a, position, axis) for a in (raw, labels, truth))
        titles = ("image", f"{labels.max()} instances, tiles dashed", "truth, drawn by people")
        for column, overlay in enumerate((None, found, expected)):
            panel = axes[row, column]
            panel.imshow(image, cmap="gray", interpolation="nearest")
            if overlay is not None:
                panel.imshow(_overlay(overlay, colours), interpolation="nearest")
            if column == 1:
                _draw_grid(panel, axis, recipe)
            if row == 0:
                panel.set_title(titles[column])
            panel.set_xticks([])
            panel.set_yticks([])
        axes[row, 0].set_ylabel(("slice across z", "slice across y")[row])
    equal = "bit for bit" if difference == 0 else f"within {difference:.0e}"
    figure.suptitle(
        f"{recipe.network}: stitched from tiles, equal to one pass over the whole volume {equal}"
    )
    figure.savefig(path, dpi=90)
    pyplot.close(figure)


def draw_part(
    path: Path,
    image: NDArray[Any],
    field: tuple[str, NDArray[np.floating]],
    labels: NDArray[Any],
    truth: NDArray[Any],
    title: str,
) -> None:
    """Write a PNG: image, a field in colours, labels and truth; of a stack, its middle slice.

    Parameters
    ----------
    path
        Where.
    image, labels, truth
        Of one shape, (y, x) or (z, y, x).
    field
        Its name, and its values, (channels, *shape).
    title
        Above all of it.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    truth = _like(truth, labels)
    name, values = field
    painted = colours_of_field(values.reshape(len(values), -1).T).reshape(*values.shape[1:], 3)
    if image.ndim == 3:
        middle = image.shape[0] // 2
        image, painted, labels, truth = (a[middle] for a in (image, painted, labels, truth))
    colours = _colours(int(max(labels.max(), truth.max())))
    height, width = image.shape
    figure, axes = pyplot.subplots(
        1, 4, figsize=(16, 4 * height / width + 0.7), layout="constrained"
    )
    titles = ("image", f"{name} in colours", "labels", "truth")
    for panel, heading, overlay in zip(axes, titles, (None, None, labels, truth), strict=True):
        if heading == titles[1]:
            panel.imshow(painted, interpolation="nearest")
        else:
            panel.imshow(image, cmap="gray", interpolation="nearest")
        if overlay is not None:
            panel.imshow(_overlay(overlay, colours), interpolation="nearest")
        panel.set_title(heading)
        panel.set_axis_off()
    figure.suptitle(title)
    figure.savefig(path, dpi=72)
    pyplot.close(figure)


def _like(truth: NDArray[Any], labels: NDArray[Any]) -> NDArray[np.int64]:
    """The truth with the ids of the instances that cover most of each object, for like colours.

    An instance lends its id once, to the object that it covers most of; others get new ids.
    """
    objects, index = np.unique(truth, return_inverse=True)
    width = int(labels.max()) + 1
    pairs = index.reshape(-1).astype(np.int64) * width + labels.reshape(-1)
    found, overlap = np.unique(pairs, return_counts=True)
    ids = np.arange(len(objects), dtype=np.int64) + width
    ids[objects == 0] = 0
    taken = {0}
    named = {int(place) for place in np.flatnonzero(objects == 0)}
    for at in np.argsort(-overlap, kind="stable"):
        place, label = divmod(int(found[at]), width)
        if place not in named and label not in taken:
            ids[place] = label
            named.add(place)
            taken.add(label)
    return ids[index].reshape(truth.shape)


def _overlay(labels: NDArray[Any], colours: NDArray[np.floating]) -> NDArray[np.floating]:
    """Colours over the labelled voxels, and each instance's outline."""
    painted = np.zeros((*labels.shape, 4))
    painted[..., :3] = colours[labels.astype(np.int64)]
    painted[..., 3] = np.where(labels > 0, 0.45, 0.0)
    edge = np.zeros(labels.shape, bool)
    edge[:-1] |= labels[:-1] != labels[1:]
    edge[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    painted[edge, 3] = 0.95
    return painted


def _draw_grid(panel: Axes, axis: int, recipe: Recipe) -> None:
    rows, columns = (a for a in range(3) if a != axis)
    for draw, along in ((panel.axhline, rows), (panel.axvline, columns)):
        tile, begin = recipe.tile_shape[along], recipe.roi.offset[along]
        for position in range(tile, recipe.roi.end[along], tile):
            if position > begin:
                draw(position - begin - 0.5, color="white", linewidth=0.8, linestyle=(0, (4, 4)))


def _colours(count: int) -> NDArray[np.floating]:
    """Colours that differ for neighbouring ids."""
    from matplotlib.colors import hsv_to_rgb

    index = np.arange(count + 1)
    hue = (index * 0.61803398875) % 1
    value = np.where(index % 2, 1.0, 0.8)
    rgb: NDArray[np.floating] = hsv_to_rgb(np.stack([hue, np.full_like(hue, 0.85), value], -1))
    return rgb
