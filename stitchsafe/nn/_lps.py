"""Learnable polyphase sampling: LPD and LPU of Rojas-Gomez et al. (2022).

**What it does.** Of the 2^d phases of an image LPD keeps the one to which a small network gives the
largest score. The score does not depend on a phase's index, so a shifted image keeps the same
elements of the world, and with circular padding a network with LPD and LPU is exactly equivariant
to every integer shift; with global pooling at its end, invariant.

**The interface of sampling layers that select.** Nothing is kept in the modules::

    y, selection = down(x)              # decides
    y, selection = down(x, selection)   # takes a decision, whatever the number of channels
    x = up(y, selection)                # puts elements back to where they were taken from

So a U-Net hands each level's selection to the upsampling of that level; a residual block gives
that of its main branch to the shortcut (``shortcut, _ = down(shortcut, selection)``); and phases
may come from outside, one selection per level, by :func:`pinned`::

    for down, selection in zip(downs, pinned([3, 0, 2], ndim=2, origin=(64, 33))): ...

LPD and :class:`~stitchsafe.nn.APS` are such downsamplings and LPU is the upsampling of both. What
pools without selecting (max, average, :class:`~stitchsafe.nn.LowPassPool`,
:class:`~stitchsafe.nn.PPool2d`) takes and returns one tensor.

**Tiles.** The selection is a decision about the whole input: a tile that decided for itself would
often choose another phase. Decide on the whole, and give the phases to every tile, in global
coordinates: :func:`pinned` takes the tile's origin. A network for tiles has no circular padding,
its score networks neither (``score_padding="valid"``).

**Where the filters go.** A low-pass filter goes before the split of LPD and after the placement of
LPU. Placement fills one of 2^d elements, so what a filter of gain 1 makes of it has the DC gain
2^-d; LPU makes up for that. A filter also makes the *means* of all phases equal, exactly; then
only the kinks of the score network's ReLU tell phases apart, and features too faint to reach them
tie (which is said, see :mod:`stitchsafe.nn._selection`).

These layers are known elsewhere as ``PolyphaseInvariantDown2D`` and ``PolyphaseInvariantUp2D`` with
``LPSLogitLayers`` from ``get_logits_model``.

References
----------
Rojas-Gomez, R. A. et al. (2022). Learnable Polyphase Sampling for Shift Invariant and Equivariant
Convolutional Networks. Sec. 4 and appendix A1 (claim 4), A4.1 (tables A2 to A6).
"""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stitchsafe.nn._blur import CONVOLUTION, LowPass, Padding, StrideOneMax, check_padding, padded
from stitchsafe.nn._polyphase import place, spatial
from stitchsafe.nn._selection import Evaluation, Pick, Selection, Ties, Training, summing

__all__ = ["LPD", "LPU", "LogitsNetwork", "parameter_groups"]

ScorePadding = Literal["circular", "zeros", "valid"]

_LAYER: dict[int, type[nn.Conv2d] | type[nn.Conv3d]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TAPS = 3


class LogitsNetwork(nn.Module):
    """Scores of phases: convolution, ReLU, convolution, mean over channels and space (table A3).

    The weights are the same for all phases. The mean of a convolution is a linear map of means of
    its input, so the second one is never run over space: :meth:`from_means` applies its weights to
    the means of ReLU(conv1), one for each of its taps. With circular padding those are all equal.

    It runs in float32 at least, outside of autocast, and sums in double, axis by axis: which phase
    wins must not depend on the order of a sum. :meth:`scale` and `terms` bound what is left.

    Class: whole-input.

    Parameters
    ----------
    ndim
        Spatial axes.
    channels
        Of the phases.
    hidden
        Of the convolutions; as many as `channels` by default.
    padding
        ``"circular"``, ``"zeros"`` or ``"valid"``. Scores of another padding are another network.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        *,
        hidden: int | None = None,
        padding: ScorePadding = "circular",
    ) -> None:
        super().__init__()
        hidden = channels if hidden is None else hidden
        if ndim not in _LAYER or channels < 1 or hidden < 1:
            raise ValueError(
                f"scores need 2 or 3 spatial axes and at least one channel, not ndim={ndim}, "
                f"channels={channels}, hidden={hidden}; correct these"
            )
        check_padding(padding, ("circular", "zeros", "valid"))
        self.ndim, self.channels, self.padding = ndim, channels, padding
        self.conv1 = _LAYER[ndim](channels, hidden, _TAPS)
        self.conv2 = _LAYER[ndim](hidden, hidden, _TAPS)

    def forward(self, phases: Tensor) -> Tensor:
        """``(b, 2^d, c, *sizes)`` to scores ``(b, 2^d)``."""
        hidden = self.hidden(phases.flatten(0, 1))
        return self.from_means(self.means(hidden)).reshape(phases.shape[:2])

    def hidden(self, x: Tensor) -> Tensor:
        """ReLU(conv1) of single phases, ``(n, c, *sizes)``."""
        if x.shape[1] != self.channels:
            raise ValueError(
                f"the phases have {x.shape[1]} channels where {self.channels} were announced; "
                f"build the layer with channels={x.shape[1]}, or pass a selection"
            )
        least = 5 if self.padding == "valid" else 1
        if min(x.shape[2:]) < least:
            raise ValueError(
                f"phases of {tuple(x.shape[2:])} elements are too small for scores with padding "
                f"{self.padding!r}; use an input with at least {2 * least} per axis at this level"
            )
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        device = x.device.type
        if torch.is_autocast_enabled(device):
            with torch.autocast(device, enabled=False):
                return self._first(x.to(dtype))
        return self._first(x.to(dtype))

    def _first(self, x: Tensor) -> Tensor:
        weight, bias = self._weights(self.conv1, x.dtype)
        return CONVOLUTION[self.ndim](padded(x, 1, 1, self.padding), weight, bias).relu()

    def _weights(self, layer: nn.Conv2d | nn.Conv3d, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        assert layer.bias is not None
        return layer.weight.to(dtype), layer.bias.to(dtype)

    def means(self, hidden: Tensor) -> Tensor:
        """What each tap of conv2 sees on average: ``(n, hidden, taps)``, one tap if all see alike.

        A tap sees all of `hidden` but what the other taps lie over when it is at an end.
        """
        dtype = summing(hidden)
        if self.padding == "circular":
            total = hidden
            for axis in reversed(range(2, hidden.dim())):
                total = total.sum(axis, dtype=dtype)
            return total[..., None] / math.prod(hidden.shape[2:])
        sums = padded(hidden, 1, 1, self.padding)
        count = 1
        for axis in reversed(range(2, hidden.dim())):
            size = sums.shape[axis] - _TAPS + 1
            seen = [sums.narrow(axis, t, size).sum(axis, dtype=dtype) for t in range(_TAPS)]
            sums = torch.stack(seen, axis)
            count *= size
        return sums.flatten(2) / count

    def _collapsed(self, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """conv2 as a map of means, ``(hidden, taps)``, and its bias."""
        weight, bias = self._weights(self.conv2, dtype)
        weight = weight.mean(0).flatten(1)
        return (weight.sum(1, keepdim=True) if self.padding == "circular" else weight), bias.mean()

    def from_means(self, means: Tensor) -> Tensor:
        """Scores ``(n,)`` from :meth:`means`, which may have been gathered piece by piece."""
        weight, bias = self._collapsed(means.dtype)
        return (means * weight).sum((1, 2)) + bias

    @property
    def terms(self) -> int:
        """Products that are added up in single precision for one element of conv1."""
        return self.channels * int(_TAPS**self.ndim) + 1

    def scale(self, phases: Tensor) -> Tensor:
        """Bound of the absolute values that are added up for each score, ``(b, 2^d)``.

        By means of ``|x|`` and sums of ``|weights|``; no convolution is run for it.
        """
        with torch.no_grad():
            dtype = summing(phases)
            sizes, sums = phases.shape[3:], phases.abs()
            for axis in reversed(range(3, phases.dim())):
                sums = sums.sum(axis, dtype=dtype)
            lost = 4 if self.padding == "valid" else 0
            seen = math.prod(size - lost for size in sizes)  # places that conv2 is averaged over
            weight, bias = self._weights(self.conv1, dtype)
            first = sums @ weight.abs().flatten(2).sum(2).T + bias.abs() * math.prod(sizes)
            collapsed, bias = self._collapsed(dtype)
            scale: Tensor = first / seen @ collapsed.abs().sum(1) + bias.abs()
            return scale


class LPD(nn.Module):
    """Learnable polyphase downsampling by 2: optional maximum, optional low-pass, one phase kept.

    In training the phases are mixed by samples of Gumbel-softmax with the temperature `tau` (set by
    :func:`~stitchsafe.nn.anneal`), in evaluation the one with the largest score is kept.

    Class: whole-input; safe to tile with consensus, when the phases are decided once and passed in.
    Exported graphs average ties as this layer does, but cannot warn of them.

    Parameters
    ----------
    ndim
        2 or 3.
    channels
        Of the input, for the score network.
    hidden
        Channels of the score network; as many by default.
    score_padding
        Of the score network: ``"circular"``, ``"zeros"`` or ``"valid"``.
    low_pass
        Taps of a low-pass filter before the split, 3 for Tri-3, or None.
    max_pool
        Window of a maximum at stride 1 before all else, 2 in place of max-pooling by 2, or None.
    padding
        Of filter and maximum; see :class:`LowPass`.
    in_training
        ``"gumbel"``, ``"softmax"`` (the ablation of table A1) or ``"argmax"``.
    in_evaluation
        ``"argmax"``, or ``"softmax"``: the soft variant, for shifts that are not circular.
    ties
        ``"average"``, ``"first"`` or ``"raise"``; the first two warn with :class:`TieWarning`.
    input_error
        How far the input may be off, relative to its absolute mean, when ties are told; by default
        one rounding of float32, or of float64 for such an input.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """

    def __init__(
        self,
        ndim: int,
        channels: int,
        *,
        hidden: int | None = None,
        score_padding: ScorePadding = "circular",
        low_pass: int | None = None,
        max_pool: int | None = None,
        padding: Padding = "circular",
        in_training: Training = "gumbel",
        in_evaluation: Evaluation = "argmax",
        ties: Ties = "average",
        input_error: float | None = None,
    ) -> None:
        super().__init__()
        score = LogitsNetwork(ndim, channels, hidden=hidden, padding=score_padding)
        self.before = smoothing(max_pool, low_pass, padding)
        reason = "the phases of learnable polyphase downsampling, chosen by means over its input"
        if score_padding == "circular":
            reason += "; its scores pad circularly, train with score_padding='valid' for tiles"
        self.pick = Pick(
            score,
            ndim=ndim,
            learnable=True,
            in_training=in_training,
            in_evaluation=in_evaluation,
            ties=ties,
            input_error=input_error,
            reason=reason,
        )

    @property
    def tau(self) -> Tensor:
        """Temperature of softmax and Gumbel-softmax."""
        return self.pick.tau

    def forward(self, x: Tensor, selection: Selection | None = None) -> tuple[Tensor, Selection]:
        """Halve the sizes.

        Parameters
        ----------
        x
            ``(b, c, *sizes)``, even sizes (behind filters that do not pad). With a selection given,
            any number of channels.
        selection
            To be used in place of a decision.

        Returns
        -------
        tuple
            The kept phase and the selection.

        Raises
        ------
        ValueError
            If a size is odd, which nothing makes equivariant, or the selection does not fit.
        """
        kept: tuple[Tensor, Selection] = self.pick(self.before(x), selection)
        return kept


def smoothing(max_pool: int | None, low_pass: int | None, padding: Padding) -> nn.Sequential:
    """What goes before the split."""
    steps: list[nn.Module] = []
    if max_pool is not None:
        steps.append(StrideOneMax(max_pool, padding=padding))
    if low_pass is not None:
        steps.append(LowPass(low_pass, padding=padding))
    return nn.Sequential(*steps)


class LPU(nn.Module):
    """Learnable polyphase upsampling by 2: elements put back to where LPD or APS took them from.

    The phase k of the result is ``weights[:, k]`` times the input (appendix A4.4.2), all else is 0;
    the optional low-pass filter then fills the gaps.

    Class: periodic with period 2; whole-input only by the selection that it is given.

    Parameters
    ----------
    low_pass
        Taps of a filter after placement, 3 for Tri-3, or None.
    padding
        Of the filter; see :class:`LowPass`.
    compensate
        Whether the filter is given the gain 2^d, so that a constant keeps its value. Without a
        filter there is no gain.
    """

    def __init__(
        self, *, low_pass: int | None = None, padding: Padding = "circular", compensate: bool = True
    ) -> None:
        super().__init__()
        self.after = None if low_pass is None else LowPass(low_pass, padding=padding)
        self.compensate = compensate

    def forward(self, y: Tensor, selection: Selection) -> Tensor:
        """Double the sizes.

        Parameters
        ----------
        y
            ``(b, c, *sizes)``.
        selection
            From the downsampling of the same level.

        Raises
        ------
        ValueError
            If the selection does not fit.
        """
        ndim, weights = spatial(y), selection.weights
        if weights.shape[1:] != (2**ndim,) or weights.shape[0] not in (1, len(y)):
            raise ValueError(
                f"a selection of shape {tuple(weights.shape)} does not fit {len(y)} images with "
                f"{2**ndim} phases; give the one of the same level's downsampling"
            )
        x = place(y, weights)
        if self.after is None:
            return x
        filtered: Tensor = self.after(x)
        return filtered * 2**ndim if self.compensate else filtered


def parameter_groups(network: nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser, with no weight decay on what selects phases (appendix A4.4.1).

    Decay would draw the scores of all phases together.

    Parameters
    ----------
    network
        Of any layers.
    weight_decay
        Of all other parameters; 1e-4 in the paper.

    Returns
    -------
    list of dict
        Two groups, each with ``params`` and ``weight_decay``; the second may be empty.
    """
    selecting = {
        id(parameter)
        for layer in network.modules()
        if isinstance(layer, LogitsNetwork)
        for parameter in layer.parameters()
    }
    known = [p for p in network.parameters() if p.requires_grad]
    return [
        {"params": [p for p in known if id(p) not in selecting], "weight_decay": weight_decay},
        {"params": [p for p in known if id(p) in selecting], "weight_decay": 0.0},
    ]
