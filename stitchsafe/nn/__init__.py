"""Networks and layers in pure torch, usable without the rest of the package."""

from stitchsafe.nn._aps import APS
from stitchsafe.nn._blur import LowPass, LowPassPool, StrideOneMax
from stitchsafe.nn._gumbel import MultirateLinear, StepDecay, anneal, schedule
from stitchsafe.nn._lps import LPD, LPU, LogitsNetwork, parameter_groups
from stitchsafe.nn._ppool import PPool2d, PPool3d
from stitchsafe.nn._selection import Selection, TieError, TieWarning, pinned
from stitchsafe.nn._unet import UNet

__all__ = [
    "APS", "LPD", "LPU", "LogitsNetwork", "LowPass", "LowPassPool", "MultirateLinear", "PPool2d",
    "PPool3d", "Selection", "StepDecay", "StrideOneMax", "TieError", "TieWarning", "UNet", "anneal",
    "parameter_groups", "pinned", "schedule",
]  # fmt: skip
