"""From a trained module to a model folder that `stitchsafe predict` takes.

::

    RUN/
      train.yaml            what was asked for
      checkpoint.pt         to resume from
      best.pt               the same at the best validation, where there is any
      history.jsonl         losses, one line per 50 steps and per checkpoint
      config.yaml           ┐
      weights.safetensors   │ the model folder: RUN itself is one
      geometry.json         │
      card.md               ┘
      picture.png           what the network finds in a part, at the end
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import nn

from stitchsafe.networks import (
    LabelsConfig,
    ModelConfig,
    OutputConfig,
    TilingConfig,
    load_config,
    save_config,
    save_folder,
    write_whole,
)
from stitchsafe.training._checkpoint import Checkpoint
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._provenance import said_of_data

__all__ = ["PICTURE", "export_model", "model_config", "retell", "show_in_card"]

PICTURE = "picture.png"
_SHOWN = "\n## What it finds\n"

_CLUSTERING_WINDOW = {2: 256, 3: 64}


def model_config(
    config: TrainingConfig,
    state: Checkpoint,
    period: tuple[int, ...],
    *,
    channels: Sequence[int],
    command: str,
    data: str | Path | None = None,
    notes: tuple[str, ...] = (),
) -> ModelConfig:
    """The ``config.yaml`` of what a training made.

    Parameters
    ----------
    channels
        Of each head, in order.
    command
        What was said to train it.
    data
        A path that was taken instead of the configuration's.
    notes
        What whoever uses the model should know.
    """
    ndim = len(config.input.axes)
    outputs = tuple(
        OutputConfig(
            name=name,
            channels=count,
            activation="sigmoid" if name in ("foreground", "affinities") else "none",
        )
        for name, count in zip(config.heads, channels, strict=True)
    )
    size = _CLUSTERING_WINDOW[ndim]
    shape = tuple(-(-size // p) * p for p in period)
    labels = config.labels or _default_labels(config, shape)
    return ModelConfig(
        format="stitchsafe-model/1",
        name=config.name,
        description=config.description,
        network=config.network,
        input=config.input,
        outputs=outputs,
        labels=labels,
        tiling=config.tiling or TilingConfig(tile_shape=shape),
        training={
            "data": config.card.data or said_of_data(config, data),
            "window": list(config.window),
            "command": command,
            "steps": state.step,
            "seconds": round(state.seconds),
            "losses": {name: round(value, 4) for name, value in state.losses.items()},
        }
        | _of_weights(config, state),
        scores={name: round(value, 4) for name, value in state.best.items()},
        notes=notes,
        license=config.card.license,
        authors=config.card.authors,
    )


def _of_weights(config: TrainingConfig, state: Checkpoint) -> dict[str, Any]:
    """Which weights these are, where they are not simply the last ones."""
    found: dict[str, Any] = {}
    decay = config.optimiser.ema
    if decay is not None:
        found["weights"] = f"exponential averages, {decay:g} kept per step"
    if state.best:
        found["weights"] = (
            f"the {'weights' if decay is None else 'averages'} of step {state.step}, which scored "
            f"best{'' if decay is None else f' ({decay:g} kept per step)'}"
        )
    if config.init is not None:
        found["init"] = Path(config.init).name
    if config.allow_breaking_window:
        found["allow_breaking_window"] = True
    if config.neighbours > 1:
        found["neighbours"] = config.neighbours
    return found


def _default_labels(config: TrainingConfig, window: tuple[int, ...]) -> LabelsConfig | None:
    """What labels are made of, as far as the losses tell.

    Half the distance that the loss asks for between clusters is the natural bandwidth.
    """
    if config.embedding is None:
        if config.foreground is None:
            return None
        return LabelsConfig.model_validate({"from": "foreground", "window": window})
    background = "foreground" if config.foreground is not None else "none"
    if background == "none" and config.embedding.background == "cluster":
        background = "largest-cluster"
    values = {
        "from": "embeddings",
        "window": window,
        "bandwidth": config.embedding.delta_push,
        "background": background,
    }
    return LabelsConfig.model_validate(values)


def export_model(
    folder: Path,
    module: nn.Module,
    config: TrainingConfig,
    model: ModelConfig,
) -> None:
    """Write weights, configuration, geometry and a first card."""
    save_folder(folder, module, model)
    (folder / "card.md").write_text(_card(model, config), encoding="utf-8")


def show_in_card(folder: Path, found: str) -> None:
    """Put the picture that lies beside it into a card, and a line on it, in place of earlier."""
    path = folder / "card.md"
    card, _, _ = path.read_text(encoding="utf-8").partition(_SHOWN)
    text = f"{card}{_SHOWN}\n{found[0].upper()}{found[1:]}.\n\n![picture]({PICTURE})\n"
    write_whole(path, text.encode())


def retell(
    folder: Path, told: ModelConfig, config: TrainingConfig, before: TrainingConfig
) -> ModelConfig | None:
    """Write what a configuration says of a model beside its weights, if that has changed.

    Scores are those of the labels that were made then, and go with these.

    Parameters
    ----------
    told
        What the configuration makes of the model now.
    before
        The configuration until now.

    Returns
    -------
    ModelConfig or None
        What the model folder holds now; None where it is as it was.
    """
    held = load_config(folder / "config.yaml")
    # Data that have moved are the same, and keep the names that they were trained under.
    renamed = config.card.data != before.card.data
    data = (told if renamed else held).training["data"]
    now = held.model_copy(
        update={
            name: getattr(told, name)
            for name in ("description", "labels", "tiling", "license", "authors")
        }
        | {"training": held.training | {"data": data}}
    )
    if now.labels != held.labels:
        now = now.model_copy(update={"scores": {}})
    if now == held:
        return None
    save_config(folder, now)
    (folder / "card.md").write_text(_card(now, config), encoding="utf-8")
    return now


def _card(model: ModelConfig, config: TrainingConfig) -> str:
    voxel = "any"
    if model.input.voxel_size is not None:
        voxel = " × ".join(f"{size:g}" for size in model.input.voxel_size) + f" {model.input.unit}"
    assert model.tiling is not None
    settings = {} if model.labels is None else model.labels.model_dump(mode="json", by_alias=True)
    rows = {
        "input": f"{model.input.channels} channel(s), axes {model.input.axes}, voxel size {voxel}, "
        f"normalised by {model.input.normalize}",
        "outputs": ", ".join(f"{o.name} ({o.channels})" for o in model.outputs),
        "data": str(model.training["data"]),
        "licence": model.license or "not stated; say `card: {license: …}` in the training's file",
        "training": f"`{model.training['command']}`, {model.training['steps']} steps in "
        f"{model.training['seconds']} s, window {_times(config.window)}",
        "weights": str(model.training.get("weights", "those of the last step")),
        "tile": _times(model.tiling.tile_shape),
        "clustering window": _times(settings["window"]) if settings else "",
        "labels": ", ".join(f"{k} {v}" for k, v in settings.items() if k != "window")
        or "none: what its heads give are fields",
        "scores": ", ".join(f"{name} {value:.4g}" for name, value in model.scores.items())
        or "not measured; see `stitchsafe evaluate`",
    }
    if model.authors:
        rows["authors"] = ", ".join(model.authors)
    lines = [f"# {model.name}", "", model.description, "", "| | |", "| --- | --- |"]
    lines += [f"| {key} | {value} |" for key, value in rows.items() if value]
    lines += [f"\n**{note}**" for note in model.notes]
    return "\n".join(lines) + "\n"


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape)) + " voxels"
