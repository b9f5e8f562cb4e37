"""Which devices a training runs on, by Lightning Fabric.

One process has one device. Where several are asked for, Fabric starts the same command once more
for each of the others (or finds that ``torchrun`` has done so), and gradients are averaged over
all. The first process, the leader, alone says, judges and writes.
"""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Literal

from stitchsafe.errors import InputError, PlanError
from stitchsafe.networks import cuda_devices, find_devices

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Precision", "open_fabric", "places_of"]

Precision = Literal["float32", "bfloat16", "float16"]
_PRECISIONS = {"float32": "32-true", "bfloat16": "bf16-mixed", "float16": "16-mixed"}


def open_fabric(device: str, precision: Precision, batch: int) -> Fabric:
    """The processes of a training; `Fabric.launch` starts those that are not there yet.

    Parameters
    ----------
    device
        ``auto``, ``cpu``, ``cuda`` or some GPUs as ``cuda:0,1``.
    precision
        Of the passes; weights, losses and the optimiser's sums are float32 in any case.
    batch
        Examples of one pass over all devices.

    Raises
    ------
    InputError
        If a device is not there, or cannot compute with that precision.
    PlanError
        If the batch cannot be shared evenly.
    """
    found = find_devices(device, cuda_devices())
    if precision == "float16" and found.kind == "cpu":
        raise InputError(
            "precision float16 needs a GPU, whose gradients are scaled, and the training runs on "
            "the processor; take bfloat16 or float32, or give --device cuda"
        )
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # as torchrun says
    nodes = int(os.environ.get("WORLD_SIZE", here)) // here if here > 1 else 1
    count = here if here > 1 else len(found.places)
    if batch % (count * nodes):
        ranks = count * nodes
        least = -(-batch // ranks) * ranks
        near = f"{least - ranks} or {least}" if least > ranks else str(least)
        raise PlanError(
            f"optimiser.batch {batch} cannot be shared evenly by {ranks} devices; take {near}"
        )
    return _fabric(found.kind, found.places, count, nodes, precision)


def _fabric(
    kind: str, places: tuple[str, ...], count: int, nodes: int, precision: Precision
) -> Fabric:
    from lightning_fabric import Fabric

    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    indices = [int(place.partition(":")[2]) for place in places] if kind == "cuda" else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of cluster environments that are not used
        return Fabric(
            accelerator=kind,
            devices=indices if len(indices) == count and indices else count,
            num_nodes=nodes,
            strategy="ddp" if count * nodes > 1 else "auto",
            precision=_PRECISIONS[precision],  # type: ignore[arg-type]
        )


def places_of(fabric: Fabric, batch: int, turn: int) -> range:
    """Places in a step's examples that this process draws for its pass number `turn`.

    All processes together draw what one alone would, whatever their number.
    """
    return range(turn * batch + fabric.global_rank, (turn + 1) * batch, fabric.world_size)
