"""The verbs: what composes the rooms below into answers."""

from stitchsafe.pipeline._check import check
from stitchsafe.pipeline._demo import DemoResult, demo
from stitchsafe.pipeline._evaluate import evaluate
from stitchsafe.pipeline._planning import plan
from stitchsafe.pipeline._predict import Prediction, predict, rehearse
from stitchsafe.pipeline._settings import Options, Settings
from stitchsafe.pipeline._verdict import Verdict
from stitchsafe.pipeline._verify import Verification, verify

__all__ = [
    "DemoResult",
    "Options",
    "Prediction",
    "Settings",
    "Verdict",
    "Verification",
    "check",
    "demo",
    "evaluate",
    "plan",
    "predict",
    "rehearse",
    "verify",
]
