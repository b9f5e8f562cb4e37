"""How instances are made of a network's fields: the part of the recipe that this room reads."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

from stitchsafe.errors import InputError
from stitchsafe.instances._meanshift import Kernel

__all__ = ["Background", "Clusters", "LabelSettings", "Source"]

Clusters = Literal["window", "volume"]
Source = Literal["embeddings", "foreground", "argmax"]
Background = Literal["none", "foreground", "largest-cluster"]

# Classes are whole numbers: any two that differ are further apart than this.
CLASS_BANDWIDTH = 0.5


@dataclass(frozen=True, kw_only=True)
class LabelSettings:
    """How instances are made of fields. Every value may change labels, so all belong to the recipe.

    Parameters
    ----------
    window
        Shape of the clustering window, in voxels; windows lie on the grid anchored at the volume's
        origin.
    source
        ``embeddings``: mean shift in each window, connected parts of each cluster, merged across
        windows by contact and embedding. ``foreground``: connected parts of the thresholded
        foreground. ``argmax``: connected parts of each class of a class map; class 0 is background.
    parts
        Whether each connected part of a class or cluster is an instance. If not, labels from argmax
        are the classes themselves, and each cluster of the volume is one instance, wherever it
        lies.
    bandwidth
        Radius of the kernel and the distance up to which modes of neighbouring windows count
        as one, in units of the embedding. Required for embeddings. ``auto``: estimated from all
        voxels that are clustered, wherever they lie (see `PointSample`).
    bandwidth_quantile
        Share of all voxels that an estimated bandwidth reaches from a voxel, on average.
    kernel
        Of mean shift: ``flat``, or ``gaussian``, whose standard deviation is the bandwidth.
    clusters
        Where modes are found. ``window``: in each window by itself. ``volume``: once, of all
        voxels that are clustered, and every voxel belongs to the nearest; segments of two windows
        are one where they touch and belong to the same cluster. For fields in which an embedding
        means the same everywhere.
    background
        What is not an instance. ``none``: every voxel belongs to one. ``foreground``: what the
        foreground field holds below `foreground_threshold`. ``largest-cluster``: background is an
        ordinary cluster, namely that of the merged object with the most voxels in the volume,
        with every object whose embedding lies within the bandwidth of its own (Rumberger et al.
        2021 train without a foreground head; a single window may lie inside one object, so the
        rule speaks of the volume). Without meaning for the other sources.
    foreground_threshold
        Probability from which on a voxel is foreground.
    masked
        Whether voxels outside a mask, which lies beside the fields, are background too.
    growth_threshold
        Where given, segments grow within their window into voxels whose foreground is at least
        this, in order of falling foreground (a watershed). What no segment of a window reaches is
        given to one of a neighbouring window that it touches (see `adopts`).
    growth_steps
        How many voxels far they may grow, within their window; without limit where None.
    min_core
        Segments with fewer voxels before growth are not kept: their voxels are free to be grown
        into. For specks between objects; it also hits the tip of an object that barely enters a
        window, so 0, which keeps all, is the rule. Only with growth.
    min_size
        Merged instances with fewer voxels are dropped. Segments are never dropped before merging.
    min_mode
        A mode whose kernel holds fewer voxels, of its window or of the volume, is none: its voxels
        join the nearest mode that is. 1 keeps all, as scikit-learn does.
    embedding_field, foreground_field, class_field
        Names of the fields to read.

    Raises
    ------
    InputError
        For values that contradict each other or are out of range.
    """

    window: tuple[int, ...]
    source: Source = "embeddings"
    parts: bool = True
    bandwidth: float | Literal["auto"] | None = None
    bandwidth_quantile: float = 0.3
    kernel: Kernel = "flat"
    clusters: Clusters = "window"
    background: Background = "none"
    foreground_threshold: float = 0.5
    masked: bool = False
    growth_threshold: float | None = None
    growth_steps: int | None = None
    min_core: int = 0
    min_size: int = 0
    min_mode: int = 1
    embedding_field: str = "embedding"
    foreground_field: str = "foreground"
    class_field: str = "classes"

    def __post_init__(self) -> None:
        if not self.window or any(size < 1 for size in self.window):
            raise InputError(
                f"the clustering window {self.window} has no voxels; give a positive size per axis"
            )
        for name, value, allowed in (
            ("source", self.source, get_args(Source)),
            ("background", self.background, get_args(Background)),
            ("kernel", self.kernel, get_args(Kernel)),
            ("clusters", self.clusters, get_args(Clusters)),
        ):
            if value not in allowed:
                raise InputError(
                    f"{name} {value!r} of the label settings is unknown; it is one of "
                    f"{', '.join(allowed)}"
                )
        if not self.parts and not self.is_class_map and not self.clusters_of_volume:
            raise InputError(
                f"labels from {self.source} are connected parts, and parts is false; take labels "
                "from argmax, or from embeddings with clusters of the volume, or leave it out"
            )
        if self.is_class_map and self.min_size:
            raise InputError(
                f"min_size {self.min_size} is for instances, and without parts labels are classes; "
                "leave it out"
            )
        if self.source == "embeddings" and not _is_bandwidth(self.bandwidth):
            raise InputError(
                f"embeddings cannot be clustered with the bandwidth {self.bandwidth}; give a "
                "positive number, such as the margin that the network was trained with, or auto"
            )
        if not 0 <= self.bandwidth_quantile <= 1:
            raise InputError(
                f"bandwidth_quantile {self.bandwidth_quantile} is no share of the voxels; give 0 "
                "to 1"
            )
        for name, size, least in (
            ("min_size", self.min_size, 0),
            ("min_mode", self.min_mode, 1),
            ("min_core", self.min_core, 0),
            ("growth_steps", 1 if self.growth_steps is None else self.growth_steps, 1),
        ):
            if size < least:
                raise InputError(f"{name} is {size}, but counts voxels; give {least} or more")
        if not self.needs_foreground and self.growth_threshold is not None:
            raise InputError(
                f"growth_threshold {self.growth_threshold} has no foreground to grow in; set "
                "background to 'foreground' or leave it out"
            )

        if self.growth_threshold is not None and self.growth_threshold > self.foreground_threshold:
            raise InputError(
                f"growth_threshold {self.growth_threshold} lies above foreground_threshold "
                f"{self.foreground_threshold}, so there is nowhere to grow; give a lower one"
            )
        if self.min_core and self.growth_threshold is None:
            raise InputError(
                f"min_core {self.min_core} drops segments for others to grow into, but nothing "
                "grows; set growth_threshold too, or use min_size"
            )

    @property
    def is_class_map(self) -> bool:
        """Whether labels are classes, not instances."""
        return self.source == "argmax" and not self.parts

    @property
    def needs_foreground(self) -> bool:
        """Whether the foreground field is read."""
        return self.source == "foreground" or (
            self.source == "embeddings" and self.background == "foreground"
        )

    @property
    def needs_consensus(self) -> bool:
        """Whether something is decided of all fields before any window is segmented."""
        return self.clusters_of_volume or (self.source == "embeddings" and self.bandwidth == "auto")

    @property
    def clusters_of_volume(self) -> bool:
        """Whether modes are found once, for all windows."""
        return self.source == "embeddings" and self.clusters == "volume"

    @property
    def adopts(self) -> bool:
        """Whether growth goes on over the faces of windows.

        How far a segment has grown when it comes to a face is not known beyond: where steps are
        limited, growth ends there. So it does where instances are not connected parts.
        """
        return self.growth_threshold is not None and self.growth_steps is None and self.parts

    @property
    def radius(self) -> float:
        """The bandwidth as a number, which it is once it is decided."""
        if self.bandwidth is None or self.bandwidth == "auto":
            raise ValueError(f"the bandwidth is {self.bandwidth}, and not decided yet")
        return float(self.bandwidth)

    @property
    def exclusive(self) -> bool:
        """Whether two clusters of one window may never end up in one instance."""
        return self.source == "embeddings" and not self.clusters_of_volume

    @property
    def merge_distance(self) -> float:
        """Largest distance of two modes that may unite.

        Modes of the volume are the same or further apart than the bandwidth.
        """
        if self.source == "embeddings":
            return self.radius / 2 if self.clusters_of_volume else self.radius
        return CLASS_BANDWIDTH

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that are read."""
        first = {
            "embeddings": (self.embedding_field,),
            "foreground": (),
            "argmax": (self.class_field,),
        }[self.source]
        return (*first, self.foreground_field) if self.needs_foreground else first

    def to_json(self) -> dict[str, Any]:
        """All values as JSON; `from_json` restores them."""
        values = dataclasses.asdict(self)
        values["window"] = list(self.window)
        return values

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> LabelSettings:
        """From a mapping such as a card's ``labels``; ``from`` stands for ``source`` there.

        Raises
        ------
        InputError
            For a key that is unknown (with the nearest known one) or a window that is missing.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        given = {("source" if key == "from" else key): value for key, value in values.items()}
        for key in given.keys() - known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
            raise InputError(f"the label setting {key!r} is unknown; {hint}")
        if "window" not in given:
            raise InputError("the label settings name no clustering window; add window: [64, 64]")
        given["window"] = tuple(given["window"])
        return cls(**given)


def _is_bandwidth(value: object) -> bool:
    if isinstance(value, str):
        return value == "auto"
    return isinstance(value, Real) and math.isfinite(float(value)) and float(value) > 0
