"""What a training shows in the end: a labelled part, what the network makes of it, and a count.

A loss says little to a person, and a picture with its labels beside the truth says much. The part
is as large as a clustering window, so that it costs a moment. Predicting lives beside this room, so
whoever starts a training hands in a `Show`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from stitchsafe.coordinates import Roi
from stitchsafe.engine import Events
from stitchsafe.errors import InputError, StitchsafeError
from stitchsafe.networks import ModelConfig, TorchNetwork, load_network
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._data_config import DisksConfig
from stitchsafe.training._export import PICTURE, show_in_card
from stitchsafe.training._labelled import UNKNOWN, Labelled
from stitchsafe.training._loop_config import ValidationConfig
from stitchsafe.training._validation import drawn_disks

__all__ = ["Part", "Show", "Shown", "choose_part", "compare", "show_end"]

Ids = npt.NDArray[Any]


@dataclass(frozen=True)
class Part:
    """What is shown.

    Attributes
    ----------
    data
        Image and truth.
    size
        At most so many voxels of it along each axis.
    where, instances
        In words: what it is, and what is in it.
    """

    data: Labelled
    size: tuple[int, ...]
    where: str
    instances: str = "instances"

    def box(self) -> Roi:
        """The part with the most voxels of instances, among few and the middle before others."""
        region = self.data.region.shape
        shape = tuple(map(min, self.size, region))
        rooms = [n - s for n, s in zip(region, shape, strict=True)]
        corners = itertools.product(*((room // 2, 0, room) if room else (0,) for room in rooms))
        boxes = [Roi(corner, shape) for corner in dict.fromkeys(corners)]
        if len(boxes) == 1:
            return boxes[0]
        return max(boxes, key=lambda box: np.count_nonzero(self.data.know(box) > 0))


@dataclass(frozen=True)
class Shown:
    """What a trained network finds in the part that is shown.

    Attributes
    ----------
    picture
        Where its picture is.
    part
        What it is.
    whole
        Instances of the truth that do not touch its border.
    ids
        How many ids these have: of each, the one that most of its voxels have, if that is any.
    matched
        How many of them have an instance of their own, by an intersection of more than half of the
        union.
    """

    picture: Path
    part: str
    whole: int
    ids: int
    matched: int
    instances: str = "instances"

    def to_json(self) -> dict[str, Any]:
        return {
            "picture": str(self.picture),
            "part": self.part,
            "whole": self.whole,
            "ids": self.ids,
            "matched": self.matched,
        }

    def __str__(self) -> str:
        if not self.whole:
            return f"in {self.part}, no {self.instances} are whole"
        ids = "1 id" if self.ids == 1 else f"{self.ids} ids"
        return (
            f"{ids} for {self.whole} whole {self.instances} in {self.part}, "
            f"{self.matched} of them matched (IoU above 0.5)"
        )


class Show(Protocol):
    """Predicts a part by stitching, and draws image, field, labels and truth."""

    def __call__(self, network: TorchNetwork, part: Part, picture: Path, device: str) -> Shown: ...


def choose_part(
    config: TrainingConfig,
    kept_back: Sequence[Labelled],
    sources: Sequence[Labelled],
    model: ModelConfig,
) -> Part:
    """What a training shows: fresh disks; else what was kept back; else what was trained on.

    Parameters
    ----------
    kept_back
        What validation has.
    sources
        Of the training's windows; none where they are drawn.
    model
        Whose clustering window is the size of the part.
    """
    assert model.labels is not None
    window = model.labels.window
    if isinstance(config.data, DisksConfig):
        wish = config.validation or ValidationConfig()
        # After those that validation draws, so that it has seen none of it either.
        drawn = drawn_disks(config, config.data, wish, wish.count)
        name = "disks" if len(config.input.axes) == 2 else "balls"
        kind = name if config.data.labels == "disks" else "voxels"
        return Part(drawn, window, f"a fresh drawing of {name}", kind)
    if kept_back:
        return Part(kept_back[0], window, "what validation has kept back")
    return Part(sources[0], window, "a part that was trained on")


def show_end(
    show: Show, run: Path, part: Part, *, trust: bool, device: str, events: Events
) -> Shown | None:
    """Show what the network in a run's folder has learned, there and in its card.

    Where that cannot be done, it is said why: the network is trained all the same.
    """
    try:
        network = load_network(str(run), trust=trust)
        if not isinstance(network, TorchNetwork):
            raise InputError(f"{run} holds no network that was trained")
        shown = show(network, part, run / PICTURE, device)
    except StitchsafeError as error:
        events.say(f"there is no picture of what was learned: {error}")
        return None
    show_in_card(run, str(shown))
    return shown


def compare(found: Ids, truth: Ids) -> tuple[int, int, int]:
    """Whole instances of the truth, how many ids these have, and how many are matched.

    Parameters
    ----------
    found
        Labels, 0 where nothing was found.
    truth
        Of the same shape, as `Labelled.know` gives it.
    """
    found = np.where(truth == UNKNOWN, 0, found)
    inside = truth > 0
    instances, sizes = np.unique(truth[inside], return_counts=True)
    pairs, shared = np.unique(np.stack([truth[inside], found[inside]]), axis=1, return_counts=True)
    order = np.lexsort((shared, pairs[0]))
    most = order[np.searchsorted(pairs[0][order], instances, side="right") - 1]
    label, common = pairs[1][most], shared[most]
    labels, counts = np.unique(found, return_counts=True)
    areas = counts[np.searchsorted(labels, label)]
    whole = ~np.isin(instances, np.concatenate([face.ravel() for face in _faces(truth)]))
    has_id = whole & (label > 0)
    matched = has_id & (2 * common > sizes + areas - common)
    return int(whole.sum()), len(np.unique(label[has_id])), int(matched.sum())


def _faces(array: Ids) -> Iterator[Ids]:
    for axis in range(array.ndim):
        yield array.take(0, axis)
        yield array.take(-1, axis)
