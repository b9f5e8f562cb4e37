"""Adaptive polyphase sampling: the phase of the largest norm is kept, nothing is learnt.

Chaman and Dokmanic (2021); the baseline of Rojas-Gomez et al. (2022), appendix A4.2. It has the
interface of LPD, see :mod:`stitchsafe.nn._lps`.
"""

from __future__ import annotations

from torch import Tensor, nn

from stitchsafe.nn._blur import Padding
from stitchsafe.nn._lps import smoothing
from stitchsafe.nn._selection import Pick, Selection, Ties, summing

__all__ = ["APS"]


class Energy(nn.Module):
    """Scores of phases: the mean of ``|x|^p``, in double."""

    terms = 0

    def __init__(self, norm: float = 2.0) -> None:
        super().__init__()
        if not 0 < norm < float("inf"):
            raise ValueError(f"the norm is a number above 0, not {norm}; 2 is that of energy")
        self.norm = norm

    def forward(self, phases: Tensor) -> Tensor:
        """``(b, 2^d, c, *sizes)`` to scores ``(b, 2^d)``."""
        total = phases.to(summing(phases)).abs().pow(self.norm)
        for axis in reversed(range(2, phases.dim())):
            total = total.mean(axis)
        return total

    def scale(self, phases: Tensor) -> Tensor:
        """By how much a relative error of the input changes each score."""
        scale: Tensor = self(phases) * max(self.norm, 1.0)
        return scale


class APS(nn.Module):
    """Adaptive polyphase downsampling by 2: the phase of the largest norm.

    Class: whole-input; safe to tile with consensus, when the phases are decided once and passed in.

    Parameters
    ----------
    ndim
        2 or 3.
    norm
        p of the norm; 2, the energy, by default.
    low_pass, max_pool, padding, ties, input_error
        As in :class:`LPD`.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        ndim: int,
        *,
        norm: float = 2.0,
        low_pass: int | None = None,
        max_pool: int | None = None,
        padding: Padding = "circular",
        ties: Ties = "average",
        input_error: float | None = None,
    ) -> None:
        super().__init__()
        if ndim not in (2, 3):
            raise ValueError(f"APS has 2 or 3 spatial axes, not {ndim}; correct ndim")
        self.before = smoothing(max_pool, low_pass, padding)
        self.pick = Pick(
            Energy(norm),
            ndim=ndim,
            learnable=False,
            in_training="argmax",
            in_evaluation="argmax",
            ties=ties,
            input_error=input_error,
            reason="the phases of adaptive polyphase sampling, chosen by norms of its input",
        )

    def forward(self, x: Tensor, selection: Selection | None = None) -> tuple[Tensor, Selection]:
        """Halve the sizes; see :meth:`LPD.forward`."""
        kept: tuple[Tensor, Selection] = self.pick(self.before(x), selection)
        return kept
