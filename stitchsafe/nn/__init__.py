"""Networks in pure torch, usable without the rest of the package."""

from stitchsafe.nn._unet import UNet

__all__ = ["UNet"]
