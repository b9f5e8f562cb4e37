"""The verb train: from a configuration to a model folder."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from stitchsafe.engine import Events, Silent
from stitchsafe.errors import InputError, ModelError, StoreError
from stitchsafe.geometry import analyse_module
from stitchsafe.networks import models_root
from stitchsafe.nn import UNet
from stitchsafe.training._config import TrainingConfig, load_training
from stitchsafe.training._examples import open_examples
from stitchsafe.training._export import export_model
from stitchsafe.training._fit import Checkpoint, fit
from stitchsafe.training._window import fit_window

__all__ = ["TrainingResult", "train"]

_BUILT_IN = {"disks": "disks-2d"}
_RUN_FILES = (
    "train.yaml",
    "checkpoint.pt",
    "history.jsonl",
    "config.yaml",
    "weights.safetensors",
    "geometry.json",
    "card.md",
)


@dataclass(frozen=True)
class TrainingResult:
    """What a training came to.

    Attributes
    ----------
    out
        The run's folder, which is a model folder too.
    steps, resumed_from
        Steps done over all runs, and those that were done before this one.
    seconds
        Time used over all runs.
    parameters
        Of the network.
    losses
        Means over the last steps, by name.
    """

    out: str
    steps: int
    resumed_from: int
    seconds: float
    parameters: int
    losses: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "steps": self.steps,
            "resumed_from": self.resumed_from,
            "seconds": round(self.seconds, 1),
            "parameters": self.parameters,
            "losses": self.losses,
        }

    def describe(self) -> str:
        """The result for people."""
        losses = ", ".join(f"{name} {value:.4g}" for name, value in self.losses.items())
        return (
            f"{self.out}: {self.steps} steps in {self.seconds:.0f} s ({losses}); "
            f"use it with: stitchsafe predict VOLUME -m {self.out}"
        )


def train(
    config: str | Path | TrainingConfig,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    overwrite: bool = False,
    steps: int | None = None,
    device: str = "cpu",
    events: Events | None = None,
) -> TrainingResult:
    """Train a network, or go on with a training that was stopped.

    Parameters
    ----------
    config
        A YAML file, a configuration, or a name: ``disks`` or that of a bundled model.
    out
        The run's folder; by default ``runs/NAME`` in the current folder.
    data
        A path to take instead of the configuration's.
    overwrite
        Start anew where another run stands.
    steps
        Number of steps, instead of the configuration's.
    device
        As torch names it.
    events
        Told about progress.

    Raises
    ------
    InputError
        If the configuration, the data or the shapes do not fit (see `load_training`,
        `fit_window`, `open_examples`). Nothing has been written then.
    StoreError
        If `out` holds another run.
    InterruptedRunError
        If training diverged; the last checkpoint stays.
    """
    events = events if events is not None else Silent()
    settings, folder = _resolve(config)
    if steps is not None:
        settings = settings.model_copy(
            update={"optimiser": settings.optimiser.model_copy(update={"steps": steps})}
        )
    run = Path(out) if out is not None else Path("runs") / settings.name
    if out is None:
        events.say(f"the run is kept in {run}")
    module = _build(settings)
    geometry = analyse_module(
        module, ndim=len(settings.input.axes), channels=settings.input.channels
    )
    window = fit_window(geometry, settings.window)
    examples = open_examples(settings, window, folder=folder, data=data)
    _claim(run, settings, overwrite=overwrite)
    period = tuple(axis.period for axis in geometry.axes)

    def keep(state: Checkpoint) -> None:
        export_model(run, module, settings, state, period)
        losses = ", ".join(f"{name} {value:.4g}" for name, value in state.losses.items())
        events.say(f"step {state.step} of {settings.optimiser.steps}: {losses}")

    state = fit(
        module,
        examples,
        window,
        settings,
        run=run,
        events=events,
        device=device,
        after_checkpoint=keep,
    )
    return TrainingResult(
        out=str(run),
        steps=state.step,
        resumed_from=state.resumed_from,
        seconds=state.seconds,
        parameters=sum(p.numel() for p in module.parameters()),
        losses=state.losses,
    )


def _resolve(config: str | Path | TrainingConfig) -> tuple[TrainingConfig, Path]:
    """The configuration, and the folder that its relative paths start from."""
    if isinstance(config, TrainingConfig):
        return config, Path.cwd()
    path = Path(config)
    if not path.is_file():
        path = _bundled(str(config))
    return load_training(path), path.resolve().parent


def _bundled(name: str) -> Path:
    root = models_root()
    path = root / _BUILT_IN.get(name, name) / "train.yaml"
    if path.is_file():
        return path
    known = sorted({*_BUILT_IN, *(p.parent.name for p in root.glob("*/train.yaml"))})
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise InputError(
        f"there is no training {name!r}: {hint}give a YAML file or one of {', '.join(known)}"
    )


def _build(config: TrainingConfig) -> UNet:
    """The network with fresh weights that depend on the seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        try:
            return UNet(**config.network.arguments)
        except (TypeError, ValueError) as error:
            raise ModelError(
                f"the network of {config.name!r} cannot be built: {error}; correct its arguments"
            ) from error


def _claim(run: Path, config: TrainingConfig, *, overwrite: bool) -> None:
    """Make the run's folder this training's, or refuse.

    Raises
    ------
    StoreError
        If it holds something else.
    """
    record = run / "train.yaml"
    if run.exists() and not run.is_dir():
        raise StoreError(f"{run} is a file; choose a folder for the run with -o")
    if overwrite and record.is_file():
        for name in _RUN_FILES:
            (run / name).unlink(missing_ok=True)
    if record.is_file():
        if _comparable(load_training(record)) != _comparable(config):
            raise StoreError(
                f"{run} holds a training with another configuration; choose another folder with "
                "-o, or start anew with --overwrite"
            )
    elif run.is_dir() and any(run.iterdir()):
        raise StoreError(f"{run} is not empty and holds no training; choose another folder with -o")
    try:
        run.mkdir(parents=True, exist_ok=True)
        record.write_text(
            yaml.safe_dump(
                config.model_dump(mode="json", by_alias=True),
                sort_keys=False,
                default_flow_style=None,
                width=100,
            ),
            encoding="utf-8",
        )
    except OSError as error:
        raise StoreError(
            f"{run} cannot be written: {error.strerror}; choose another with -o"
        ) from error


def _comparable(config: TrainingConfig) -> dict[str, Any]:
    """What may not change between runs: all but the steps, the threads and texts."""
    values = config.model_dump(mode="json", by_alias=True)
    for key in ("description", "card", "labels", "tiling", "threads", "checkpoint_every"):
        values.pop(key)
    values["optimiser"].pop("steps")
    values["data"].pop("path", None)
    return values
