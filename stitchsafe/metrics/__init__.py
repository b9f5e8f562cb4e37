"""Scores of instance segmentations, from a sparse contingency table that is filled block by block.

Equal to scikit-image's `adapted_rand_error` and `variation_of_information`, without holding the
volumes. Where seams may have done harm, pairs of voxels across them tell.
"""

from stitchsafe.metrics._contingency import Contingency, PairCounter
from stitchsafe.metrics._evaluate import THRESHOLDS, LabelVolume, Scores, evaluate_volumes
from stitchsafe.metrics._scores import (
    RandError,
    VariationOfInformation,
    adapted_rand_error,
    average_precision,
    variation_of_information,
)
from stitchsafe.metrics._seams import Face, PairScores, SeamScores, SeamTally
from stitchsafe.metrics._superpixels import achievable_segmentation_accuracy, boundary_recall

__all__ = [
    "THRESHOLDS",
    "Contingency",
    "Face",
    "LabelVolume",
    "PairCounter",
    "PairScores",
    "RandError",
    "Scores",
    "SeamScores",
    "SeamTally",
    "VariationOfInformation",
    "achievable_segmentation_accuracy",
    "adapted_rand_error",
    "average_precision",
    "boundary_recall",
    "evaluate_volumes",
    "variation_of_information",
]
