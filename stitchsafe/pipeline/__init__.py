"""The verbs: what composes the rooms below into answers."""

from stitchsafe.pipeline._check import check
from stitchsafe.pipeline._demo import DemoResult, demo
from stitchsafe.pipeline._evaluate import evaluate
from stitchsafe.pipeline._export import Export, ExportOptions, ResultForm, export_result
from stitchsafe.pipeline._measuring import seams
from stitchsafe.pipeline._picture import draw_part
from stitchsafe.pipeline._planning import plan
from stitchsafe.pipeline._predict import Prediction, predict, rehearse
from stitchsafe.pipeline._result import is_result
from stitchsafe.pipeline._settings import Options, Settings
from stitchsafe.pipeline._verdict import Verdict
from stitchsafe.pipeline._verify import Verification, verify

__all__ = [
    "DemoResult",
    "Export",
    "ExportOptions",
    "Options",
    "Prediction",
    "ResultForm",
    "Settings",
    "Verdict",
    "Verification",
    "check",
    "demo",
    "draw_part",
    "evaluate",
    "export_result",
    "is_result",
    "plan",
    "predict",
    "rehearse",
    "seams",
    "verify",
]
