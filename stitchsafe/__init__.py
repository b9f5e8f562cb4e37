"""stitchsafe: networks run over volumes larger than memory, equal to one pass over the whole.

The verbs take paths as well as arrays and modules::

    import stitchsafe

    labels = stitchsafe.predict(array, model=module).labels

Nothing below is imported before it is used, so that importing the package costs no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stitchsafe.coordinates import Roi
    from stitchsafe.errors import StitchsafeError
    from stitchsafe.exports import export
    from stitchsafe.geometry import NetworkGeometry
    from stitchsafe.instances import MeanShift
    from stitchsafe.learning import train
    from stitchsafe.napari_plugin import view
    from stitchsafe.nn import UNet
    from stitchsafe.pipeline import check, demo, evaluate, plan, predict, seams, verify
    from stitchsafe.volumes import open_volume

    __version__: str

__all__ = [
    "MeanShift",
    "NetworkGeometry",
    "Roi",
    "StitchsafeError",
    "UNet",
    "__version__",
    "check",
    "demo",
    "evaluate",
    "export",
    "open_volume",
    "plan",
    "predict",
    "seams",
    "train",
    "verify",
    "view",
]

_HOMES = {
    "MeanShift": "stitchsafe.instances",
    "NetworkGeometry": "stitchsafe.geometry",
    "Roi": "stitchsafe.coordinates",
    "StitchsafeError": "stitchsafe.errors",
    "UNet": "stitchsafe.nn",
    "check": "stitchsafe.pipeline",
    "demo": "stitchsafe.pipeline",
    "evaluate": "stitchsafe.pipeline",
    "export": "stitchsafe.exports",
    "open_volume": "stitchsafe.volumes",
    "plan": "stitchsafe.pipeline",
    "predict": "stitchsafe.pipeline",
    "seams": "stitchsafe.pipeline",
    "train": "stitchsafe.learning",
    "verify": "stitchsafe.pipeline",
    "view": "stitchsafe.napari_plugin",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib import metadata

        return metadata.version("stitchsafe")
    if name not in _HOMES:
        raise AttributeError(f"module 'stitchsafe' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
