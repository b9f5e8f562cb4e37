"""Networks and layers in pure torch, usable without the rest of the package."""

from stitchsafe.nn._backbone import HCFCN, HCBackbone
from stitchsafe.nn._cells import decode, hard_decode, superpixels
from stitchsafe.nn._closed_form import ClosedFormFit
from stitchsafe.nn._closed_form_pool import ClosedFormPool
from stitchsafe.nn._replacing import replace_pooling
from stitchsafe.nn._soft_clustering import ClusterUp, SoftClusterDown
from stitchsafe.nn._unet import UNet

__all__ = [
    "HCFCN",
    "ClosedFormFit",
    "ClosedFormPool",
    "ClusterUp",
    "HCBackbone",
    "SoftClusterDown",
    "UNet",
    "decode",
    "hard_decode",
    "replace_pooling",
    "superpixels",
]
