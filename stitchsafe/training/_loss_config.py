"""What a training says of its losses, in ``train.yaml``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stitchsafe.training._schema import Natural, Positive, Share, Strict

__all__ = ["AffinityLossConfig", "EmbeddingLossConfig", "ForegroundLossConfig"]


Weight = Annotated[float, Field(ge=0)]


class EmbeddingLossConfig(Strict):
    """The discriminative loss on the head ``embedding``.

    ``reach`` thins instances by so many voxels before they count; ``background`` is ``ignored`` or
    an ordinary ``cluster``; ``neighbours`` is how many voxels apart instances still touch, for
    ``pairs``; ``weights`` are of pull, push and regularisation.
    """

    weight: Weight = 1.0
    delta_pull: Annotated[float, Field(ge=0)] = 0.0
    delta_push: Annotated[float, Field(gt=0)] = 3.0
    weights: tuple[Weight, Weight, Weight] = (1.0, 1.0, 1e-4)
    norm: Literal[1, 2] = 2
    pairs: Literal["all", "touching"] = "all"
    neighbours: Positive = 1
    reach: Natural = 0
    background: Literal["ignored", "cluster"] = "cluster"

    @property
    def counts(self) -> bool:
        """Whether anything is learnt from it."""
        return self.weight > 0 and any(self.weights)


class ForegroundLossConfig(Strict):
    """Binary cross-entropy on the head ``foreground``; `reach` thins the instances to learn.

    `dice` is the share of the Dice loss, for foreground that is rare; `boundary_weight` that of
    voxels between instances, relative to 1.
    """

    weight: Weight = 1.0
    dice: Share = 0.0
    reach: Natural = 0
    boundary_weight: Annotated[float, Field(gt=0)] = 1.0

    @property
    def counts(self) -> bool:
        """Whether anything is learnt from it."""
        return self.weight > 0


class AffinityLossConfig(Strict):
    """Binary cross-entropy on the head ``affinities``, which has a channel for each offset.

    An auxiliary: it teaches the network where instances end, and labels do not read it.
    """

    offsets: Annotated[tuple[tuple[int, ...], ...], Field(min_length=1)]
    weight: Weight = 1.0

    @property
    def counts(self) -> bool:
        """Whether anything is learnt from it."""
        return self.weight > 0

    def refuse_unfit(self, ndim: int, channels: int | None) -> None:
        """Refuse offsets that are none, or not as many as the head has channels.

        Raises
        ------
        ValueError
            Naming the offset, or both counts.
        """
        for offset in self.offsets:
            if len(offset) != ndim or not any(offset):
                raise ValueError(
                    f"the offset {offset} of affinities does not lead to another of the voxels "
                    f"along {ndim} axes; give {ndim} whole numbers, not all 0"
                )
        if channels is not None and channels != len(self.offsets):
            raise ValueError(
                f"the head affinities has {channels} channels for {len(self.offsets)} offsets; "
                "give one channel for each"
            )
