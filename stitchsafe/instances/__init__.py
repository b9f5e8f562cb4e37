"""Instances from a network's fields: clustering windows, merging, ids.

::

    fields of a window --segment_window--> WindowSegments --WindowRecord.of_segments--> WindowRecord
    records of all     --Merging-->        the id of every segment, pairs that touch, InstanceTable
    labels of a window --final_labels-->   final labels      --LabelMeasures--> InstanceTable

or, without instances::

    fields of a cell   --class_map-->      final labels

Each step is a pure function; results depend on the voxels and on the settings, never on the order
in which windows were computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stitchsafe.instances._bandwidth import PointSample, estimate_bandwidth
from stitchsafe.instances._classes import ClassSink, class_map, class_type
from stitchsafe.instances._contacts import Contacts, touching
from stitchsafe.instances._districts import MERGING_BYTES, Districts, choose_districts
from stitchsafe.instances._growth import grow_segments
from stitchsafe.instances._leavings import Made
from stitchsafe.instances._meanshift import (
    Kernel,
    Modes,
    exact_mean_shift,
    find_modes,
    mean_shift,
    nearest_mode,
)
from stitchsafe.instances._measure import LabelMeasures
from stitchsafe.instances._merging import Decision, Merging
from stitchsafe.instances._numbering import Numbering, Order
from stitchsafe.instances._records import Segments, WindowRecord, WindowSegments
from stitchsafe.instances._relabel import relabel
from stitchsafe.instances._settings import Background, Clusters, LabelSettings, Source
from stitchsafe.instances._sketch import Sketch, SketchUnion, most_cells, to_units
from stitchsafe.instances._stages import SegmentSink, final_labels, load_evidence
from stitchsafe.instances._table import InstanceTable
from stitchsafe.instances._windows import (
    clustered_points,
    connected_parts,
    modes_of,
    segment_window,
    voxel_bytes,
)

if TYPE_CHECKING:
    from stitchsafe.instances._estimator import MeanShift

__all__ = [
    "MERGING_BYTES",
    "Background",
    "ClassSink",
    "Clusters",
    "Contacts",
    "Decision",
    "Districts",
    "InstanceTable",
    "Kernel",
    "LabelMeasures",
    "LabelSettings",
    "Made",
    "MeanShift",
    "Merging",
    "Modes",
    "Numbering",
    "Order",
    "PointSample",
    "SegmentSink",
    "Segments",
    "Sketch",
    "SketchUnion",
    "Source",
    "WindowRecord",
    "WindowSegments",
    "choose_districts",
    "class_map",
    "class_type",
    "clustered_points",
    "connected_parts",
    "estimate_bandwidth",
    "exact_mean_shift",
    "final_labels",
    "find_modes",
    "grow_segments",
    "load_evidence",
    "mean_shift",
    "modes_of",
    "most_cells",
    "nearest_mode",
    "relabel",
    "segment_window",
    "to_units",
    "touching",
    "voxel_bytes",
]


def __getattr__(name: str) -> Any:
    if name == "MeanShift":  # imports scikit-learn, which nothing else here needs
        from stitchsafe.instances._estimator import MeanShift

        return MeanShift
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
