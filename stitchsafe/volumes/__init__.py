"""Volumes: opening images of many formats, their voxel sizes and statistics, and writing OME-Zarr.

:func:`open_volume` turns a path or an array into a :class:`Volume`; :func:`statistics` streams over
one; :class:`ArrayStore` and the ``create_...`` functions are the writing side, and
:func:`write_ome_tiff` is for other programs.
"""

from stitchsafe.volumes._accumulators import Tally
from stitchsafe.volumes._link import link_image
from stitchsafe.volumes._ome_write import (
    Ngff,
    create_field,
    create_group,
    create_image,
    create_labels,
    write_note,
)
from stitchsafe.volumes._open import open_volume
from stitchsafe.volumes._place import PARTIAL, Place, PlaceError, PlaceSyntaxError, is_url
from stitchsafe.volumes._pyramid import (
    PyramidLevel,
    downsample_labels,
    finer_region,
    pyramid_levels,
)
from stitchsafe.volumes._statistics import (
    MOST_READ_BYTES,
    IntensityStatistics,
    Pass,
    StatisticsProgress,
    answered,
    passes,
    pieces,
    portion_shape,
    statistics,
)
from stitchsafe.volumes._store import ArrayStore
from stitchsafe.volumes._tiff_write import (
    keeps_every_page,
    refuse_tiff_type,
    tiff_windows,
    write_ome_tiff,
)
from stitchsafe.volumes._volume import Volume, planar
from stitchsafe.volumes._voxel_size import Level, VoxelSize, require_voxel_size

__all__ = [
    "MOST_READ_BYTES",
    "ArrayStore",
    "IntensityStatistics",
    "Level",
    "Ngff",
    "PARTIAL",
    "Pass",
    "Place",
    "PlaceError",
    "PlaceSyntaxError",
    "PyramidLevel",
    "StatisticsProgress",
    "Tally",
    "Volume",
    "VoxelSize",
    "answered",
    "create_field",
    "create_group",
    "create_image",
    "create_labels",
    "downsample_labels",
    "finer_region",
    "is_url",
    "keeps_every_page",
    "link_image",
    "open_volume",
    "passes",
    "pieces",
    "planar",
    "portion_shape",
    "pyramid_levels",
    "refuse_tiff_type",
    "require_voxel_size",
    "statistics",
    "tiff_windows",
    "write_note",
    "write_ome_tiff",
]
