"""Train networks that can be stitched: data, losses, the loop, and export."""

from stitchsafe.training._augmentation import Intensity, Symmetry, draw_symmetry
from stitchsafe.training._checkpoint import Checkpoint
from stitchsafe.training._config import TrainingConfig, load_training
from stitchsafe.training._deformation import Elastic
from stitchsafe.training._disks import draw_disks
from stitchsafe.training._elsewhere import (
    NetworkExport,
    NetworkForm,
    export_network,
    is_network,
)
from stitchsafe.training._examples import Example, Examples, open_examples
from stitchsafe.training._export import export_model, model_config
from stitchsafe.training._fit import Hooks, fit
from stitchsafe.training._labelled import Labelled, normalise
from stitchsafe.training._losses import (
    DiscriminativeTerms,
    affinity_loss,
    discriminative_loss,
    foreground_loss,
    touching_pairs,
)
from stitchsafe.training._sections import Sections
from stitchsafe.training._shown import Part, Show, Shown, compare
from stitchsafe.training._sources import image_files
from stitchsafe.training._step import Batch, Objective
from stitchsafe.training._targets import Targets, inner_voxels, make_targets, split_parts
from stitchsafe.training._train import TrainingResult, train
from stitchsafe.training._validation import Judge
from stitchsafe.training._window import TrainingWindow, WindowRules, fit_window

__all__ = [
    "Batch",
    "Checkpoint",
    "DiscriminativeTerms",
    "Elastic",
    "Example",
    "Examples",
    "Hooks",
    "Intensity",
    "Judge",
    "Labelled",
    "Objective",
    "NetworkExport",
    "NetworkForm",
    "Part",
    "Sections",
    "Show",
    "Shown",
    "Symmetry",
    "Targets",
    "TrainingConfig",
    "TrainingResult",
    "TrainingWindow",
    "WindowRules",
    "affinity_loss",
    "compare",
    "discriminative_loss",
    "draw_disks",
    "draw_symmetry",
    "export_model",
    "export_network",
    "fit",
    "fit_window",
    "foreground_loss",
    "image_files",
    "inner_voxels",
    "is_network",
    "load_training",
    "make_targets",
    "model_config",
    "normalise",
    "open_examples",
    "split_parts",
    "touching_pairs",
    "train",
]
