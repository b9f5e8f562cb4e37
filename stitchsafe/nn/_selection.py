"""Which phase of an image a polyphase layer keeps, and what is known of that decision.

A downsampling that selects returns ``(y, selection)``; the upsampling that belongs to it takes
``(y, selection)``. Nothing is kept in the modules between the two, see :mod:`stitchsafe.nn._lps`.

**Ties.** Shifts permute the phases and their scores, so the phase of the largest score moves along
with the image, as long as there is one. A constant image has none, nor has one of an odd period in
a circular world. A selection therefore carries the gap between the two largest scores (`margin`)
and how far rounding can change it (`bound`). Where the gap is not larger the phases are tied: no
index may decide silently. The default is to average the tied phases and to warn with
:class:`TieWarning`. That is exact where the tied phases are equal, as in a constant image;
elsewhere nothing that keeps one image of half the size is equivariant.

**The bound.** A sum of n products, in whatever order, is off by at most n u times the sum of their
absolute values, u being the unit roundoff (of direct or matrix products, to first order); and by at
most 4 sqrt(n) u times that but for a vanishing probability (Higham and Mary 2019). With the scores
go a bound of these absolute values (`scale`) and n (`terms`). In single precision such bounds are
far larger than the error, so images whose gap lies within are scored again in double, where only
the error of the input is left; that is `bound`. Compiled and exported graphs do not score again.

References
----------
Higham, N. J. and Mary, T. (2019). A New Approach to Probabilistic Rounding Error Analysis.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, Protocol, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

from stitchsafe.nn._polyphase import (
    local_phases,
    next_origin,
    offsets,
    phase,
    spatial,
    split,
    weighed,
)

__all__ = ["Pick", "Score", "Selection", "TieError", "TieWarning", "pinned"]

Training = Literal["gumbel", "softmax", "argmax"]
Evaluation = Literal["argmax", "softmax"]
Ties = Literal["average", "first", "raise"]


class TieWarning(UserWarning):
    """Phases are tied, so that the output need not move along with the input."""


class TieError(ValueError):
    """Phases are tied, and the layer was told to refuse that."""


class Selection(NamedTuple):
    """How much of each phase is kept, per image.

    Parameters
    ----------
    weights
        ``(b, 2^d)``, at least 0, sum 1; 1 for a single phase after argmax. The index is
        row-major, ``2 dy + dx`` or ``4 dz + 2 dy + dx``.
    scores
        ``(b, 2^d)``, by which it was decided; None if it was given from outside.
    margin
        ``(b,)``, the gap between the two largest scores; None where nothing was decided by it.
    bound
        ``(b,)``, how far rounding can change a gap. Phases are tied where ``margin <= bound``.
    """

    weights: Tensor
    scores: Tensor | None = None
    margin: Tensor | None = None
    bound: Tensor | None = None

    @property
    def phases(self) -> Tensor:
        """``(b,)``, the index of the phase with the largest weight."""
        return self.weights.argmax(1)

    @property
    def tied(self) -> Tensor | None:
        """``(b,)``, whether phases are tied; None where nothing was decided by a margin."""
        if self.margin is None or self.bound is None:
            return None
        return self.margin <= self.bound


class Score(Protocol):
    """What gives each phase a number that does not depend on the phase's index."""

    def __call__(self, phases: Tensor) -> Tensor:
        """``(b, 2^d, c, *sizes)`` to scores ``(b, 2^d)``."""

    def scale(self, phases: Tensor) -> Tensor:
        """Bound of the absolute values that are added up for each score, ``(b, 2^d)``."""

    @property
    def terms(self) -> int:
        """How many are added up in the input's precision; sums over space are in double."""


def summing(x: Tensor) -> torch.dtype:
    """The type for sums over space: double, where the device has it."""
    return torch.float32 if x.device.type == "mps" else torch.float64


def roundoff(x: Tensor) -> float:
    """Unit roundoff of products of `x`, which some GPUs compute with fewer bits."""
    if x.dtype == torch.float64:
        return torch.finfo(torch.float64).eps / 2
    if x.is_cuda and torch.backends.cudnn.allow_tf32:
        return 2.0**-11
    return torch.finfo(torch.float32).eps / 2


def choice(name: str, value: str, literal: Any) -> str:
    """A value that must be one of a few names."""
    if value not in get_args(literal):
        known = ", ".join(get_args(literal))
        raise ValueError(f"{name} {value!r} is not known; choose one of {known}")
    return value


class Pick(nn.Module):
    """The phases of an image decided and kept; the part that LPD and APS share.

    Parameters
    ----------
    score
        A module that is a :class:`Score`.
    ndim
        Spatial axes.
    learnable
        Whether gradients and a temperature teach it.
    in_training, in_evaluation
        How scores become weights: ``"gumbel"`` (samples of Gumbel-softmax), ``"softmax"``,
        ``"argmax"``.
    ties
        ``"average"``, ``"first"`` (the first of the largest scores, with the same warning) or
        ``"raise"``.
    input_error
        Of the input, relative to its absolute mean; one rounding by default.
    reason
        What is to be decided once for a whole volume.
    """

    tau: Tensor
    softened: Tensor

    def __init__(
        self,
        score: nn.Module,
        *,
        ndim: int,
        learnable: bool,
        in_training: Training,
        in_evaluation: Evaluation,
        ties: Ties,
        input_error: float | None,
        reason: str,
    ) -> None:
        super().__init__()
        self.score = score
        self.ndim, self.learnable, self.reason = ndim, learnable, reason
        self.input_error = input_error
        self.in_training = choice("in_training", in_training, Training)
        self.in_evaluation = choice("in_evaluation", in_evaluation, Evaluation)
        self.ties = choice("ties", ties, Ties)
        self.register_buffer("tau", torch.tensor(1.0))
        self.soft = False
        if learnable:
            self.register_buffer("softened", torch.tensor(False))

    def soften(self, soft: bool) -> None:
        """Whether softmax takes the place of the rules for training and evaluation.

        It is kept in the state, as the temperature is.
        """
        self.soft = soft
        self.softened.fill_(soft)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        if self.learnable:  # states of before it was kept were hard
            kept = state_dict.setdefault(f"{prefix}softened", torch.tensor(False))
            self.soft = self.soft if kept.is_meta else bool(kept)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        rules = f"in_training={self.in_training}, in_evaluation={self.in_evaluation}"
        return rules + ", softened" * self.soft

    def lattice_geometry(self) -> dict[str, object]:
        """One element per two of the input, either of which may be the one that is kept."""
        axis = {"stride": 2, "support": [[0, 1]]}
        return {"axes": [axis] * self.ndim, "consensus": self.reason}

    def forward(self, x: Tensor, selection: Selection | None = None) -> tuple[Tensor, Selection]:
        """Keep one phase, or a mixture; decide which if no selection is given."""
        if spatial(x) != self.ndim:
            raise ValueError(
                f"this layer is for {self.ndim} spatial axes, and the input has {spatial(x)}; "
                f"build it with ndim={spatial(x)}"
            )
        if selection is None:
            selection = self._decide(split(x))
        weights = selection.weights.to(x)
        count = 2**self.ndim
        if weights.dim() != 2 or weights.shape[1] != count or weights.shape[0] not in (1, len(x)):
            raise ValueError(
                f"a selection of shape {tuple(weights.shape)} does not fit {len(x)} images with "
                f"{count} phases; give weights of shape ({len(x)}, {count}) or (1, {count})"
            )
        weights = weights.reshape(*weights.shape, *(1,) * (x.dim() - 1))
        kept = weighed(phase(x, 0), weights[:, 0])
        for index in range(1, count):
            kept = kept + weighed(phase(x, index), weights[:, index])
        return kept, selection

    def _decide(self, phases: Tensor) -> Selection:
        scores = self.score(phases)
        rule: str = self.in_training if self.training else self.in_evaluation
        rule = "softmax" if self.soft else rule
        if rule == "argmax":
            return self._hard(scores.detach(), phases)
        tau = self.tau.to(scores.dtype)
        if rule == "gumbel":
            wait = torch.empty_like(scores).exponential_()
            noise = -wait.clamp_min(torch.finfo(scores.dtype).tiny).log()
            return Selection(torch.softmax((scores + noise) / tau, 1), scores)
        return Selection(torch.softmax(scores / tau, 1), scores)

    @torch.no_grad()
    def _hard(self, scores: Tensor, phases: Tensor) -> Selection:
        score: Score = self.score  # type: ignore[assignment]
        double = torch.finfo(summing(phases)).eps / 2
        given = double if phases.dtype == torch.float64 else torch.finfo(torch.float32).eps / 2
        given = given if self.input_error is None else self.input_error
        # Of a score that is not finite nothing is known; by the others it is told from them.
        scale = 2 * score.scale(phases).nan_to_num(0.0, 0.0, 0.0).amax(1)
        bound = scale * (given + double * (score.terms + sum(phases.shape[2:]) + 4))
        # While a graph is exported or traced there are no values that could be tied.
        seen = not (torch.compiler.is_compiling() or isinstance(scores, FakeTensor))
        if seen and score.terms:
            single = min(score.terms, 4 * math.sqrt(score.terms)) * roundoff(phases)
            unsure = _margin(scores) <= bound + scale * single
            if phases.dtype != summing(phases) and bool(unsure.any()):
                scores = scores.clone()
                scores[unsure] = score(phases[unsure].to(summing(phases))).detach()
        margin = _margin(scores)
        if self.ties == "average":
            largest = scores.gather(1, scores.argmax(1, keepdim=True))  # NaN counts as such
            within = (largest - scores <= bound[:, None]) | _alike(scores, largest)
            within = within.to(scores.dtype)
            weights = within / within.sum(1, keepdim=True)
        else:
            weights = F.one_hot(scores.argmax(1), scores.shape[1]).to(scores.dtype)
        selection = Selection(weights, scores, margin, bound)
        if seen:
            self._speak_of_ties(selection)
        return selection

    def _speak_of_ties(self, selection: Selection) -> None:
        assert selection.tied is not None
        tied = int(selection.tied.sum())
        if not tied:
            return
        said = (
            f"{tied} of {len(selection.tied)} images have tied phases (score gap within the "
            "rounding bound), as constant images or those of odd period have"
        )
        if self.ties == "raise":
            raise TieError(f"{said}; pass the phases from outside, or choose ties='average'")
        done = "they are averaged" if self.ties == "average" else "the first is taken"
        warnings.warn(
            f"{said}: {done}, and the output need not move along with shifts; pass the phases from "
            "outside to decide them",
            TieWarning,
            stacklevel=2,
        )


def _margin(scores: Tensor) -> Tensor:
    """Gap between the two largest."""
    first, second = scores.topk(2, dim=1).values.unbind(1)
    return (first - second).masked_fill(_alike(first, second), 0.0)


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """Whether numbers are the same, infinity and NaN too."""
    return (one == other) | (one.isnan() & other.isnan())


def pinned(
    phases: int | Sequence[int] | Tensor,
    *,
    ndim: int,
    origin: Sequence[int] | Tensor | None = None,
) -> list[Selection]:
    """Selections for a tile by phases that were decided elsewhere, for one level after another.

    Parameters
    ----------
    phases
        The *global* phase of each level, finest first: a whole number, or a sequence or tensor
        ``(levels,)``, or ``(levels, b)`` with one per image.
    ndim
        Spatial axes.
    origin
        Global coordinate of the input's first element at the finest of these levels, ``(d,)`` or
        ``(b, d)``; 0 by default. An odd one permutes the phases of the tile and rounds its origin
        at the next level, both of which is done here; negative ones are those of an extended
        border. Convolutions without padding count as keeping the origin: their output's first
        element is at the place of the first element that they read.

    Returns
    -------
    list of Selection
        One per level, each for the downsampling and the upsampling of its level.

    Raises
    ------
    ValueError
        If a phase or the origin is out of range.
    """
    given = torch.as_tensor(phases)
    levels = given.reshape(1, 1) if given.dim() == 0 else given.reshape(len(given), -1)
    count = len(offsets(ndim))
    whole = not given.is_floating_point() and given.dim() <= 2
    if not whole or bool(((levels < 0) | (levels >= count)).any()):
        raise ValueError(
            f"phases of {ndim}-D images are whole numbers from 0 to {count - 1}, one per level "
            f"(and image), not {phases!r}; see the row-major index"
        )
    if origin is None:
        origin = (0,) * ndim
    found = []
    for level in levels:
        local = local_phases(level, origin, ndim).reshape(-1)
        found.append(Selection(F.one_hot(local, count).to(torch.float32)))
        origin = next_origin(level, origin, ndim)
    return found
