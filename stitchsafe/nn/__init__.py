"""Networks and layers in pure torch, usable without the rest of the package."""

from stitchsafe.nn._aps import APS
from stitchsafe.nn._backbone import HCFCN, HCBackbone
from stitchsafe.nn._blur import LowPass, LowPassPool, StrideOneMax
from stitchsafe.nn._cells import decode, hard_decode, superpixels
from stitchsafe.nn._classifier import Classifier
from stitchsafe.nn._closed_form import ClosedFormFit
from stitchsafe.nn._closed_form_pool import ClosedFormPool
from stitchsafe.nn._gumbel import MultirateLinear, StepDecay, anneal, schedule
from stitchsafe.nn._lps import LPD, LPU, LogitsNetwork, parameter_groups
from stitchsafe.nn._ppool import PPool2d, PPool3d
from stitchsafe.nn._replacing import replace_pooling
from stitchsafe.nn._resnet import ResNet, resnet18
from stitchsafe.nn._selection import Selection, TieError, TieWarning, pinned
from stitchsafe.nn._soft_clustering import ClusterUp, SoftClusterDown
from stitchsafe.nn._unet import UNet

__all__ = [
    "APS", "HCFCN", "LPD", "LPU", "Classifier", "ClosedFormFit", "ClosedFormPool", "ClusterUp",
    "HCBackbone", "LogitsNetwork", "LowPass", "LowPassPool", "MultirateLinear", "PPool2d",
    "PPool3d", "ResNet", "Selection", "SoftClusterDown", "StepDecay", "StrideOneMax", "TieError",
    "TieWarning", "UNet", "anneal", "decode", "hard_decode", "parameter_groups", "pinned",
    "replace_pooling", "resnet18", "schedule", "superpixels",
]  # fmt: skip
