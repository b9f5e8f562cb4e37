"""Scores of instance segmentations, from a sparse contingency table that is filled block by block.

Equal to scikit-image's `adapted_rand_error` and `variation_of_information`, without holding the
volumes.
"""

from stitchsafe.metrics._contingency import Contingency
from stitchsafe.metrics._evaluate import THRESHOLDS, LabelVolume, Scores, evaluate_volumes
from stitchsafe.metrics._scores import (
    RandError,
    VariationOfInformation,
    adapted_rand_error,
    average_precision,
    variation_of_information,
)

__all__ = [
    "THRESHOLDS",
    "Contingency",
    "LabelVolume",
    "RandError",
    "Scores",
    "VariationOfInformation",
    "adapted_rand_error",
    "average_precision",
    "evaluate_volumes",
    "variation_of_information",
]
