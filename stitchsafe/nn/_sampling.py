"""Samplings by name, and the one place that says which of them make sense together.

A network names a downsampling and an upsampling, and may give either's layer further arguments::

    downsampling     layer                                  decides
    max, avg         pooling by the factor                  nothing
    strided          convolution by the factor, and ReLU    nothing
    blur             `LowPassPool`                          nothing
    ppool            `PPool2d`, `PPool3d`                   nothing
    lps, aps         `LPD`, `APS`                           the phase that is kept
    soft-cluster     `SoftClusterDown`                      which cells a pixel belongs to

    upsampling       layer                                  takes
    learnt           transposed convolution and ReLU        nothing
    nearest          each element repeated                  nothing
    lpu              `LPU`                                  the phase that was kept
    decode           `ClusterUp`                            which cells a pixel belongs to

What a downsampling decides is its *selection*: it returns ``(y, selection)``, and its upsampling
takes ``(y, selection)``. So those that decide go with those that take the same: another upsampling
would put elements to places that they were not taken from, and nothing would teach an assignment.
Phases halve: their factor is 2 along every axis, and so is that of low-pass pooling.

A network's padding is also that of its samplings, in whatever words their layers have for it. With
``"circular"`` padding a network is equivariant on a torus, and can never be tiled.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor, nn

from stitchsafe.nn._aps import APS
from stitchsafe.nn._blur import LowPassPool
from stitchsafe.nn._lps import LPD, LPU
from stitchsafe.nn._ppool import PPool2d, PPool3d
from stitchsafe.nn._soft_clustering import ClusterUp, SoftClusterDown

__all__ = [
    "Downsampling",
    "Padding",
    "Site",
    "Upsampling",
    "check_samplings",
    "downsampled",
    "make_downsampling",
    "make_upsampling",
    "taken_before",
]

Downsampling = Literal["max", "avg", "strided", "blur", "ppool", "lps", "aps", "soft-cluster"]
Upsampling = Literal["learnt", "nearest", "lpu", "decode"]
Padding = Literal["valid", "same", "circular"]

_CONVOLUTION: dict[int, type[nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, type[nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_MAX: dict[int, type[nn.Module]] = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_AVERAGE: dict[int, type[nn.Module]] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
_POLYNOMIAL: dict[int, type[nn.Module]] = {2: PPool2d, 3: PPool3d}

_FILTERED = {"valid": "valid", "same": "zeros", "circular": "circular"}
"""A network's padding as low-pass filters and score networks call it."""

_HALVING: tuple[Downsampling, ...] = ("blur", "lps", "aps")
_DECIDES: dict[str, str] = {"lps": "a phase", "aps": "a phase", "soft-cluster": "an assignment"}
_TAKES: dict[str, str] = {"lpu": "a phase", "decode": "an assignment"}


@dataclass(frozen=True)
class Site:
    """Where a sampling stands: what its layer must be made for.

    Parameters
    ----------
    ndim
        Spatial axes.
    channels, out_channels
        Before and, where the layer can choose, behind it.
    factor
        Per axis.
    padding
        The network's.
    """

    ndim: int
    channels: int
    out_channels: int
    factor: tuple[int, ...]
    padding: Padding


def check_samplings(
    down: str,
    up: str | None,
    factors: Sequence[Sequence[int]],
    padding: str,
) -> None:
    """Refuse names that are unknown, and samplings that make no sense together.

    Parameters
    ----------
    down, up
        Names; None for a network that does not go up again.
    factors
        Of each level, per axis.
    padding
        Of the network.

    Raises
    ------
    ValueError
        Which one, why, and what to take.
    """
    for what, name, known in (
        ("downsampling", down, get_args(Downsampling)),
        ("upsampling", up, (None, *get_args(Upsampling))),
        ("padding", padding, get_args(Padding)),
    ):
        if name not in known:
            names = ", ".join(each for each in known if each)
            raise ValueError(f"{what} {name!r} is unknown; it is one of {names}")
    if down in _HALVING and any(size != 2 for level in factors for size in level):
        raise ValueError(
            f"downsampling {down!r} halves every axis, and the factors are "
            f"{[list(level) for level in factors]}; give 2 throughout, or another downsampling"
        )
    if up is None:
        return
    decided, taken = _DECIDES.get(down, ""), _TAKES.get(up, "")
    if decided == taken:
        return
    if decided:
        (fitting,) = (name for name, what in _TAKES.items() if what == decided)
        raise ValueError(
            f"downsampling {down!r} decides on {decided}, which upsampling {up!r} does not take; "
            f"take upsampling {fitting!r}"
        )
    makers = " or ".join(repr(name) for name, what in _DECIDES.items() if what == taken)
    raise ValueError(
        f"upsampling {up!r} takes {taken}, and downsampling {down!r} decides on none; take "
        f"downsampling {makers}, or upsampling 'learnt' or 'nearest'"
    )


def downsampled(layer: nn.Module, x: Tensor, selection: Any = None) -> tuple[Tensor, Any]:
    """What any downsampling makes of ``x``, and what it has decided, or None.

    Parameters
    ----------
    layer
        From `make_downsampling`.
    x
        ``(batch, channels, *spatial)``.
    selection
        To be taken in place of a decision, by layers that decide on a phase.
    """
    made = layer(x) if selection is None else layer(x, selection)
    return made if isinstance(made, tuple) else (made, None)


def taken_before(layer: nn.Module) -> int:
    """Elements per axis that filters of a layer that keeps phases take before it halves."""
    if not isinstance(layer, LPD | APS):
        return 0
    return sum(int(step.taken) for step in layer.before)  # type: ignore[arg-type, misc]


def make_downsampling(
    name: Downsampling, site: Site, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """The layer of a name; `options` are its further arguments.

    Of `ppool`, ``per_channel=True`` gives each channel an exponent of its own.

    Raises
    ------
    ValueError
        If it has no such argument, or refuses its value.
    """
    ndim, factor, given = site.ndim, site.factor, dict(options or {})
    filtered = _FILTERED[site.padding]
    if name == "blur":
        decided: dict[str, Any] = {"stride": 2, "padding": filtered}
        return LowPassPool(**decided, **_checked(name, given, LowPassPool, decided))
    if name == "ppool":
        layer = _POLYNOMIAL[ndim]
        own = site.channels if given.pop("per_channel", False) else None
        decided = {"kernel_size": factor, "stride": factor, "channels": own}
        return layer(**decided, **_checked(name, given, layer, decided))
    if name == "aps":
        decided = {"ndim": ndim, "padding": filtered}
        return APS(**decided, **_checked(name, given, APS, decided))
    if name == "lps":
        decided = {"ndim": ndim, "channels": site.channels, "padding": filtered,
                   "score_padding": filtered}  # fmt: skip
        return LPD(**decided, **_checked(name, given, LPD, decided))
    if name == "soft-cluster":
        decided = {"ndim": ndim, "channels": site.channels, "out_channels": site.out_channels,
                   "factor": factor, "padding": site.padding}  # fmt: skip
        return SoftClusterDown(**decided, **_checked(name, given, SoftClusterDown, decided))
    _checked(name, given)
    if name == "strided":
        convolution = _CONVOLUTION[ndim](site.channels, site.out_channels, factor, stride=factor)
        return nn.Sequential(convolution, nn.ReLU())
    return {"max": _MAX, "avg": _AVERAGE}[name][ndim](factor)


def make_upsampling(
    name: Upsampling, site: Site, options: Mapping[str, Any] | None = None
) -> nn.Module:
    """The layer of a name; as `make_downsampling`. Only ``learnt`` changes the channels."""
    ndim, factor, given = site.ndim, site.factor, dict(options or {})
    if name == "lpu":
        decided: dict[str, Any] = {"padding": _FILTERED[site.padding]}
        return LPU(**decided, **_checked(name, given, LPU, decided))
    if name == "decode":
        decided = {"ndim": ndim, "factor": factor, "padding": site.padding}
        return ClusterUp(**decided, **_checked(name, given, ClusterUp, decided))
    _checked(name, given)
    if name == "nearest":
        return nn.Upsample(scale_factor=tuple(map(float, factor)), mode="nearest")
    up = _TRANSPOSED[ndim](site.channels, site.out_channels, factor, stride=factor)
    return nn.Sequential(up, nn.ReLU())


def _checked(
    name: str,
    options: Mapping[str, Any],
    layer: Callable[..., nn.Module] | None = None,
    decided: Mapping[str, Any] | None = None,
) -> Mapping[str, Any]:
    """The options, all of which the layer knows and none of which its site decides."""
    known = [] if layer is None else list(inspect.signature(layer).parameters)
    known = [each for each in known if each not in (decided or {})]
    for option in options:
        if option not in known:
            near = difflib.get_close_matches(option, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
            raise ValueError(f"the sampling {name!r} has no option {option!r}; {hint}")
    return options
