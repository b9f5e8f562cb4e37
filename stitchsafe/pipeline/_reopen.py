"""A result's volume and network, opened again."""

from __future__ import annotations

from dataclasses import replace

from stitchsafe.engine import Silent
from stitchsafe.errors import ModelError, StoreError
from stitchsafe.networks import Network
from stitchsafe.pipeline._inputs import Inputs, VolumeLike, match_inputs
from stitchsafe.pipeline._settings import Settings
from stitchsafe.pipeline._store import ResultStore

__all__ = ["reopen"]


def reopen(store: ResultStore, network: Network, volume: VolumeLike | None = None) -> Inputs:
    """What a result was made of.

    Parameters
    ----------
    network
        As its origin loads it.
    volume
        Where the volume is now; by default where predict found it.

    Raises
    ------
    StoreError, ModelError
        If one is not what the result was made of.
    """
    stored, recipe = store.stored(), store.recipe()
    if volume is None and stored["source"] is None:
        raise StoreError("the result was made of an array in memory; give it as volume=")
    if network.fingerprint != recipe.weights:
        raise ModelError(
            f"the weights of {network.name} are not those of the recipe; give the model that the "
            "result was made with by --model"
        )
    settings = replace(
        Settings.of(stored["opened"]), accept_inexact=not recipe.exact, skip_postprocessing=True
    )
    source = stored["source"] if volume is None else volume
    inputs = match_inputs(source, network, settings, Silent())
    if inputs.volume.identity != stored["volume"]:
        raise StoreError(
            f"the volume {source} is not the one that the result was made of (its identity "
            "differs); give the right one by --volume"
        )
    return inputs
