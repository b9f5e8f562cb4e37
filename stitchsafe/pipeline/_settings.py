"""What the user of predict and plan may choose; everything has a default."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, get_args

from stitchsafe.coordinates import Roi
from stitchsafe.errors import InputError
from stitchsafe.instances import Clusters, Kernel
from stitchsafe.networks import is_device
from stitchsafe.pipeline._parts import Part
from stitchsafe.precision import precision_names
from stitchsafe.tiling import BorderRule

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["LabelSource", "Options", "Saved", "Settings"]

LabelSource = Literal["embeddings", "foreground", "argmax"]
Saved = Literal["labels", "fields", "table"]
FIELD_TYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}
FIELD_TYPES |= {name: name for name in FIELD_TYPES.values()}
ImageMode = Literal["link", "copy", "none"]
Bound = int | None


class Options(TypedDict, total=False):
    """Keyword options of `predict` and `plan`; see :class:`Settings`."""

    labels_from: LabelSource | None
    parts: bool | None
    save: Sequence[Saved] | Saved
    tile_shape: Sequence[int] | None
    block_shape: Sequence[int] | None
    chunk_shape: Sequence[int] | None
    max_memory: int | None
    border: BorderRule
    normalize: Literal["none", "zscore", "percentile"] | None
    device: str
    precision: str
    max_device_memory: int | None
    bandwidth: float | Literal["auto"] | None
    bandwidth_quantile: float | None
    kernel: Kernel | None
    clusters: Clusters | None
    min_size: int | None
    foreground_threshold: float | None
    field_type: str | None
    roi: Roi | Sequence[tuple[Bound, Bound]] | None
    level: int
    channel: int | None
    time: int | None
    axes: str | None
    voxel_size: Sequence[float] | str | None
    nan: Literal["refuse", "zero", "keep"]
    mask: Any
    mask_voxels: bool
    refuse_missing_chunks: bool
    image: ImageMode
    ngff: Literal["0.5", "0.4"]
    threads: int | None
    workers: int
    dask: str | Path | Client | None
    part: Part | str | tuple[int, int] | None
    seed: int
    overwrite: bool
    repair: bool
    weights: str | Path | None
    arguments: Mapping[str, Any] | None
    input_channels: int | Sequence[int] | None
    model_axes: str | Mapping[str, str] | None
    trust_model: bool
    accept_inexact: bool
    skip_postprocessing: bool


@dataclass(frozen=True)
class Settings:
    """Options of a prediction.

    Parameters
    ----------
    labels_from
        Which field labels are made of; by default the model's card decides.
    parts
        Whether connected parts of a class, or of a cluster, are labels of their own. If not, labels
        from ``argmax`` are the classes themselves, and those from clusters of the volume are whole
        clusters. By default the card decides, or it is the parts.
    save
        What is kept: ``labels``, ``fields``, ``table``.
    tile_shape, block_shape
        Voxels of one forward pass, and of one committed portion, halo excluded.
    chunk_shape
        Chunks of the output, which make each cell a shard of them; a divisor of the cell. By
        default cells are chunks, unless they are large.
    max_memory
        Resident memory of all processes of the run in bytes; by default the job's or machine's
        allotment.
    border
        How the volume goes on beyond its border; ``crop`` keeps only what has full context.
    normalize
        Intensity rule; the model's own by default.
    device
        ``cpu``, ``cuda``, or some devices as ``cuda:0,1``, of which each has a worker of its own;
        ``auto`` takes the first CUDA device, or the processor where there is none.
    precision
        ``fp64``, ``fp32``, ``bf16`` or ``fp16`` (or their long names); ``auto`` takes the type of
        the weights, and float32 for those of a half type.
    max_device_memory
        Memory of a device that the run may take, in bytes; by default nine tenths of it.
    bandwidth, bandwidth_quantile, kernel, clusters, min_size, foreground_threshold
        Of the instances; the card's by default. See `stitchsafe.instances.LabelSettings`.
    field_type
        What fields that are kept are rounded to, ``float16`` or ``float32``; by default they are
        kept as they are computed. Labels are made of the fields before that.
    roi
        Part of the volume, as a `Roi` or as (begin, end) per axis, None for an open end.
    level, channel, time, axes, voxel_size
        What to open of the volume, and what its file fails to say.
    nan
        ``refuse`` a volume that holds NaN or infinities, read them as ``zero``, or ``keep`` them:
        then the fields are NaN wherever the network reads one, and labels 0 there.
    mask
        A volume over this one, or coarser by whole factors. Cells in which it is 0 everywhere are
        skipped: 0 in labels and fields.
    mask_voxels
        Whether the mask is the foreground too: labels are 0 at every voxel at which it is 0, and
        such voxels are neither clustered nor counted.
    refuse_missing_chunks
        Refuse a volume with absent chunks, which Zarr reads as zeros.
    image
        What the output holds of the image: a ``link``, a ``copy`` or ``none``.
    ngff
        Version of the OME-Zarr that is written.
    threads
        Threads of a forward pass; by default the usable cores, divided among the workers.
    workers
        Processes of this machine that do blocks side by side.
    dask
        A dask cluster whose workers do the blocks: the address of its scheduler, a file that
        describes it, or a `distributed.Client`.
    part
        Share ``i/n`` of the blocks, for n runs of the same command side by side, of which the last
        one finishes the result; also as ``(i, n)``.
    seed
        Of the sampled voxels that `verify` re-predicts.
    overwrite
        Replace an earlier result of stitchsafe. Nothing else is ever replaced.
    repair
        Before going on, compare all that is there with the ledger, and do again what is damaged.
    weights, arguments
        For a model given as ``package.module:factory``: a file of weights, keyword arguments.
    input_channels
        For such a model or a module: channels of each of its inputs, in order. Several inputs are
        consecutive channels of the volume.
    model_axes
        For an ONNX file: layout of its inputs, such as ``bczyx``, or of inputs and outputs by name.
    trust_model
        Whether code that the model brings along may run.
    accept_inexact
        Run a network that cannot be stitched exactly too, with the widest halo that memory allows;
        the result then says that it is not exact. Changes nothing for one that can.
    skip_postprocessing
        Give the fields of a bioimage.io package as they are before the steps with statistics of the
        whole output, and before those that cannot be done here, for which it is else refused.
    """

    labels_from: LabelSource | None = None
    parts: bool | None = None
    save: tuple[Saved, ...] = ("labels",)
    tile_shape: tuple[int, ...] | None = None
    block_shape: tuple[int, ...] | None = None
    chunk_shape: tuple[int, ...] | None = None
    max_memory: int | None = None
    border: BorderRule = "reflect"
    normalize: Literal["none", "zscore", "percentile"] | None = None
    device: str = "auto"
    precision: str = "auto"
    max_device_memory: int | None = None
    bandwidth: float | Literal["auto"] | None = None
    bandwidth_quantile: float | None = None
    kernel: Kernel | None = None
    clusters: Clusters | None = None
    min_size: int | None = None
    foreground_threshold: float | None = None
    field_type: str | None = None
    roi: Roi | tuple[tuple[Bound, Bound], ...] | None = None
    level: int = 0
    channel: int | None = None
    time: int | None = None
    axes: str | None = None
    voxel_size: tuple[float, ...] | str | None = None
    nan: Literal["refuse", "zero", "keep"] = "refuse"
    mask: Any = None
    mask_voxels: bool = False
    refuse_missing_chunks: bool = False
    image: ImageMode = "link"
    ngff: Literal["0.5", "0.4"] = "0.5"
    threads: int | None = None
    workers: int = 1
    dask: str | Path | Client | None = None
    part: Part | None = None
    seed: int = 0
    overwrite: bool = False
    repair: bool = False
    weights: str | Path | None = None
    arguments: Mapping[str, Any] | None = None
    input_channels: tuple[int, ...] | None = None
    model_axes: str | Mapping[str, str] | None = None
    trust_model: bool = False
    accept_inexact: bool = False
    skip_postprocessing: bool = False

    @classmethod
    def of(cls, options: Options) -> Settings:
        """Settings from keyword options, checked.

        Raises
        ------
        InputError
            If a value is none of its option's.
        """
        given = dict(options)
        for name in given.keys() - {field.name for field in fields(cls)}:
            near = difflib.get_close_matches(name, [field.name for field in fields(cls)], n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see stitchsafe.pipeline.Settings"
            raise InputError(f"there is no option {name!r}; {hint}")
        save = given.get("save", ("labels",))
        given["save"] = (save,) if isinstance(save, str) else tuple(save)  # type: ignore[arg-type]
        for name in ("tile_shape", "block_shape", "chunk_shape", "voxel_size"):
            value = given.get(name)
            if isinstance(value, str) and name != "voxel_size":
                raise InputError(f"{name} cannot be {value!r}; give one number per axis")
            if value is not None and not isinstance(value, str):
                given[name] = tuple(value)  # type: ignore[arg-type]
        channels = given.get("input_channels")
        if isinstance(channels, Integral):
            given["input_channels"] = (int(channels),)
        elif isinstance(channels, Iterable):
            given["input_channels"] = tuple(channels)
        roi = given.get("roi")
        if roi is not None and not isinstance(roi, Roi):
            try:
                given["roi"] = tuple((begin, end) for begin, end in roi)  # type: ignore[attr-defined]
            except TypeError as error:
                raise InputError(
                    f"roi cannot be {roi!r}; give a Roi, or (begin, end) per axis"
                ) from error
        if given.get("part") is not None and not isinstance(given["part"], Part):
            given["part"] = Part.parse(given["part"])  # type: ignore[arg-type]
        settings = cls(**given)  # type: ignore[arg-type]
        settings._check()
        return settings

    def _check(self) -> None:
        choices: tuple[tuple[str, object, tuple[object, ...]], ...] = (
            ("border", self.border, get_args(BorderRule)),
            ("normalize", self.normalize, (None, "none", "zscore", "percentile")),
            ("labels_from", self.labels_from, (None, *get_args(LabelSource))),
            ("kernel", self.kernel, (None, *get_args(Kernel))),
            ("clusters", self.clusters, (None, *get_args(Clusters))),
            ("field_type", self.field_type, (None, *FIELD_TYPES)),
            ("nan", self.nan, ("refuse", "zero", "keep")),
            ("image", self.image, get_args(ImageMode)),
            ("ngff", self.ngff, ("0.5", "0.4")),
            ("precision", self.precision, ("auto", *precision_names())),
        )
        for name, value, allowed in choices:
            if value not in allowed:
                known = ", ".join(str(choice) for choice in allowed if choice is not None)
                raise InputError(f"{name} cannot be {value!r}; it is one of {known}")
        if not is_device(self.device):
            raise InputError(
                f"device cannot be {self.device!r}; it is one of auto, cpu, cuda, cuda:0,1"
            )
        if self.repair and self.part is not None:
            raise InputError(
                "--repair looks at all of a result, and --part does a share of it; repair first, "
                "without --part"
            )
        unknown = set(self.save) - set(get_args(Saved))
        if unknown or not self.save:
            raise InputError(
                f"save cannot be {','.join(self.save) or 'nothing'}; it takes any of "
                f"{', '.join(get_args(Saved))}"
            )
        for name in (
            "threads",
            "workers",
            "max_memory",
            "max_device_memory",
            "min_size",
            "level",
            "channel",
            "time",
            "seed",
        ):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or value < 0):
                raise InputError(f"{name} cannot be {value!r}; give a whole number, not negative")
        for name in ("foreground_threshold", "bandwidth_quantile"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"{name} cannot be {value}; give 0 to 1")
        for name in ("threads", "workers", "max_memory", "max_device_memory"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} cannot be {value}; give a positive number")
        width = self.bandwidth
        if isinstance(width, str) and width != "auto":
            raise InputError(f"bandwidth cannot be {width!r}; give a positive number, or auto")
        if width is not None and not isinstance(width, str) and not width > 0:
            raise InputError(f"bandwidth cannot be {width}; give a positive number, or auto")

        self._check_company()
        self._check_use()

    def _check_use(self) -> None:
        """Options that would change nothing, as there are no labels or fields for them."""
        if self.field_type is not None and "fields" not in self.save:
            raise InputError(
                f"--field-type {self.field_type} is for fields that are kept, and --save "
                f"{','.join(self.save)} keeps none; leave it out, or save fields too"
            )
        if self.mask_voxels and self.mask is None:
            raise InputError("--mask-voxels is for a mask, and there is none; give one with --mask")
        if self.makes_labels:
            return
        if self.mask_voxels:
            raise InputError(
                f"--mask-voxels is for labels, and --save {','.join(self.save)} makes none; leave "
                "it out, or save labels too"
            )
        for name in (
            "labels_from",
            "parts",
            "bandwidth",
            "bandwidth_quantile",
            "kernel",
            "clusters",
            "min_size",
            "foreground_threshold",
        ):
            value = getattr(self, name)
            if value is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} {value} is for labels, and --save "
                    f"{','.join(self.save)} makes none; leave it out, or save labels too"
                )

    def _check_company(self) -> None:
        """Ways of sharing the work that exclude each other, or need to be told more."""
        if self.dask is not None and self.workers > 1:
            raise InputError(
                f"--workers {self.workers} are processes of this machine, and --dask has workers "
                "of its own; give one of the two"
            )
        if self.part is not None and self.dask is not None:
            raise InputError(
                f"--part {self.part} is for runs that know of no scheduler, and --dask has one; "
                "give one of the two"
            )
        if self.part is not None and self.overwrite:
            raise InputError(
                f"--overwrite with --part {self.part} would remove what other parts have done; "
                "remove the earlier result first, then start the parts"
            )
        if self.dask is not None and (self.max_memory is None or self.threads is None):
            raise InputError(
                "the machines of a dask cluster are not this one; say what each of its worker "
                "processes may take, with --max-memory and --threads"
            )

    @property
    def makes_labels(self) -> bool:
        return "labels" in self.save or "table" in self.save

    def form(self) -> dict[str, Any]:
        """What the output looks like, beside what the recipe decides; as JSON."""
        chunks = None if self.chunk_shape is None else list(self.chunk_shape)
        written = {"image": self.image, "ngff": self.ngff, "chunk_shape": chunks}
        return {"save": sorted(self.save), **written}

    def opened(self) -> dict[str, Any]:
        """The options that open the same volume again, as JSON."""
        roi: object = self.roi
        if isinstance(self.roi, Roi):
            roi = list(zip(self.roi.offset, self.roi.end, strict=True))
        names = ("level", "channel", "time", "axes", "voxel_size", "nan")
        return {"roi": roi, **{name: getattr(self, name) for name in names}}

    def region(self, shape: tuple[int, ...]) -> Roi:
        """The ROI within a volume of this shape.

        Raises
        ------
        InputError
            If it has other axes, is empty, or leaves the volume.
        """
        whole = Roi.whole(shape)
        if self.roi is None:
            return whole
        if isinstance(self.roi, Roi):
            roi = self.roi
        else:
            if len(self.roi) != len(shape):
                raise InputError(
                    f"the region {_bounds(self.roi)} has {len(self.roi)} axes, and the volume "
                    f"{len(shape)}; give one begin:end per axis of {shape}"
                )
            roi = Roi.from_bounds(
                [0 if begin is None else begin for begin, _ in self.roi],
                [
                    size if end is None else end
                    for (_, end), size in zip(self.roi, shape, strict=True)
                ],
            )
        if roi.ndim != len(shape) or roi.size == 0 or not whole.contains(roi):
            raise InputError(
                f"the region {roi} is empty or leaves the volume of shape {shape}; "
                f"choose begin < end within {whole}"
            )
        return roi


def _bounds(roi: tuple[tuple[Bound, Bound], ...]) -> str:
    return ",".join(
        f"{'' if begin is None else begin}:{'' if end is None else end}" for begin, end in roi
    )
