"""The verb train: from a configuration to a model folder."""

from __future__ import annotations

import difflib
import shlex
import shutil
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from stitchsafe.engine import Events, Lease, Silent
from stitchsafe.errors import InputError, StoreError
from stitchsafe.geometry import NetworkGeometry, analyse_module
from stitchsafe.networks import ModelConfig, load_config, models_root, write_whole
from stitchsafe.training._checkpoint import BEST, LAST, Checkpoint
from stitchsafe.training._config import TrainingConfig, load_training
from stitchsafe.training._data_record import DataRecord
from stitchsafe.training._devices import open_fabric
from stitchsafe.training._examples import open_examples
from stitchsafe.training._export import PICTURE, export_model, model_config, retell
from stitchsafe.training._fit import Hooks, fit
from stitchsafe.training._logs import CSV, HISTORY, TENSORBOARD, require_tensorboard
from stitchsafe.training._network import (
    build_network,
    find_loss,
    head_channels,
    refuse_unfit_labels,
)
from stitchsafe.training._resuming import RECORD, refuse_another
from stitchsafe.training._schedule import refuse_unfit_temperature
from stitchsafe.training._shown import Show, Shown, choose_part, show_end
from stitchsafe.training._stamps import stamps_of
from stitchsafe.training._step import Objective
from stitchsafe.training._validation import (
    Judge,
    mean_scores,
    open_kept_back,
    refuse_trained_on,
)
from stitchsafe.training._window import TrainingWindow, WindowRules, fit_window, refuse_far_offsets

__all__ = ["TrainingResult", "train"]

_BUILT_IN = {"disks": "disks-2d"}
_OURS = ".stitchsafe"
_RUN_FILES = (
    RECORD,
    LAST,
    BEST,
    HISTORY,
    CSV,
    "config.yaml",
    "weights.safetensors",
    "geometry.json",
    "card.md",
    PICTURE,
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
    window
        Shapes of the training window, its input, offset and crop, and the network's period.
    scores, best_step
        Of the best validation, and its step, whose weights the folder holds; empty and None where
        nothing was validated. Scores are empty, too, where labels have changed since.
    stopped_early
        Whether validation got no better any more.
    shown
        What the network finds in a part that it shows; None where it shows nothing.
    rank
        Of this process among those of the training; 0 is the leader, which alone writes.
    """

    out: str
    steps: int
    resumed_from: int
    seconds: float
    parameters: int
    losses: dict[str, float]
    window: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, float] = field(default_factory=dict)
    best_step: int | None = None
    stopped_early: bool = False
    shown: Shown | None = None
    rank: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "out": self.out,
            "steps": self.steps,
            "resumed_from": self.resumed_from,
            "seconds": round(self.seconds, 1),
            "parameters": self.parameters,
            "losses": self.losses,
            "window": self.window,
            "scores": self.scores,
            "best_step": self.best_step,
            "stopped_early": self.stopped_early,
            "shown": None if self.shown is None else self.shown.to_json(),
        }

    def describe(self) -> str:
        """The result for people."""
        losses = _listed(self.losses)
        scores = f"; best at step {self.best_step}: {_listed(self.scores)}" if self.scores else ""
        shown = f"{self.shown}: see {self.shown.picture}\n" if self.shown is not None else ""
        return shown + (
            f"{self.out}: {self.steps} steps in {self.seconds:.0f} s ({losses}){scores}; "
            f"use it with: stitchsafe predict VOLUME -m {self.out}"
        )


def train(
    config: str | Path | TrainingConfig,
    out: str | Path | None = None,
    *,
    data: str | Path | None = None,
    overwrite: bool = False,
    steps: int | None = None,
    init: str | Path | None = None,
    device: str = "auto",
    trust_model: bool = False,
    judge: Judge | None = None,
    show: Show | None = None,
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
    init
        Weights to start from, instead of the configuration's: a file, or a model folder.
    device
        ``auto``, ``cpu``, ``cuda`` or some GPUs as ``cuda:0,1``.
    trust_model
        Whether a network or a loss that the configuration names as ``package.module:name`` may run.
    judge
        Predicts and scores, where the configuration asks for validation.
    show
        Predicts and draws a part in the end.
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
    settings, folder = _resolve(config)
    settings = _changed(settings, steps, init)
    fabric = open_fabric(device, settings.precision, settings.optimiser.batch)
    leads = fabric.global_rank == 0
    events = events if events is not None and leads else Silent()
    run = Path(out) if out is not None else Path("runs") / settings.name
    if out is None:
        events.say(f"the run is kept in {run}")
    if settings.logs.tensorboard:
        require_tensorboard()
    begun = not overwrite and (run / LAST).is_file()
    before = load_training(run / RECORD) if begun and (run / RECORD).is_file() else settings
    if leads and not overwrite:
        _refuse_others_folder(run)
        refuse_another(run, settings)
    # What a training that has begun started from has had its part, and may be gone.
    fresh = settings.model_copy(update={"init": None}) if begun else settings
    module = build_network(fresh, folder=folder, trust=trust_model)
    own = find_loss(settings, trust=trust_model)
    refuse_unfit_temperature(settings.temperature, module)
    geometry = analyse_module(
        module, ndim=len(settings.input.axes), channels=settings.input.channels
    )
    rules = WindowRules(settings.neighbours, settings.allow_breaking_window)
    window = fit_window(geometry, settings.window, rules)
    if settings.affinities is not None:
        refuse_far_offsets(window, settings.affinities.offsets)
    stamps = stamps_of(geometry, window, settings)
    _say_shapes(window, geometry, stamps, events)
    record = DataRecord.of(run, run / _OURS, events, anew=overwrite)
    examples = open_examples(settings, window.joint, folder=folder, data=data, record=record)
    kept_back = open_kept_back(settings, folder=folder, data=data, record=record)
    record.complete()
    refuse_trained_on(kept_back, examples.sources)
    if kept_back and judge is None:
        raise InputError(
            "the configuration asks for validation, which needs what predicts; call "
            "stitchsafe.train, or give a judge"
        )
    channels = head_channels(settings, geometry)
    period = geometry.period
    command = _command(config, data=data, steps=steps, init=init)

    def describe(state: Checkpoint) -> ModelConfig:
        return model_config(
            settings, state, period, channels=channels, command=command, data=data, notes=stamps
        )

    refuse_unfit_labels(describe(Checkpoint()).labels, settings)
    lease = _claim(run, settings, record, overwrite=overwrite) if leads else nullcontext()
    fabric.launch()

    def keep(shown: nn.Module, state: Checkpoint) -> None:
        export_model(run, shown, settings, describe(state))

    def scored(shown: nn.Module) -> dict[str, float]:
        assert settings.validation is not None
        assert judge is not None
        threshold = settings.validation.threshold
        model = describe(Checkpoint())
        found = [judge(shown, model, each, (threshold,), str(fabric.device)) for each in kept_back]
        return mean_scores(found, threshold)

    with lease:
        if leads and begun and (run / "config.yaml").is_file():
            _tell_anew(run, describe(Checkpoint()), settings, before, events)
        state = fit(
            module,
            examples,
            Objective(settings, window, own),
            settings,
            run=run,
            events=events,
            fabric=fabric,
            hooks=Hooks(keep, scored if kept_back else None),
        )
        shown = None
        model = describe(state)
        scores = _scores_of(run, state) if leads else {}
        if show is not None and leads and model.labels is not None:
            part = choose_part(settings, kept_back, examples.sources, model)
            shown = show_end(
                show, run, part, trust=trust_model, device=str(fabric.device), events=events
            )
    return TrainingResult(
        out=str(run),
        steps=state.step,
        resumed_from=state.resumed_from,
        seconds=state.seconds,
        parameters=sum(p.numel() for p in module.parameters()),
        losses=state.losses,
        window=_shapes(window, geometry),
        scores=scores,
        best_step=state.best_step if state.best else None,
        stopped_early=state.stopped,
        shown=shown,
        rank=fabric.global_rank,
    )


def _changed(
    settings: TrainingConfig, steps: int | None, init: str | Path | None
) -> TrainingConfig:
    """The configuration with what is given beside it."""
    update: dict[str, Any] = {}
    if steps is not None:
        update["optimiser"] = settings.optimiser.model_copy(update={"steps": steps})
    if init is not None:
        update["init"] = str(Path(init).resolve()) if Path(init).exists() else str(init)
    return settings.model_copy(update=update)


def _scores_of(run: Path, state: Checkpoint) -> dict[str, float]:
    """Those of the best validation, unless the model has other labels by now."""
    path = run / "config.yaml"
    return state.best if path.is_file() and load_config(path).scores else {}


def _tell_anew(
    run: Path,
    told: ModelConfig,
    settings: TrainingConfig,
    before: TrainingConfig,
    events: Events,
) -> None:
    """Write what is only said of a model where the configuration says it otherwise by now."""
    scores = load_config(run / "config.yaml").scores
    now = retell(run, told, settings, before)
    if now is not None:
        gone = ", without scores, which were those of other labels" if now.scores != scores else ""
        events.say(f"config.yaml and card.md of {run} are written anew{gone}")


def _say_shapes(
    window: TrainingWindow, geometry: NetworkGeometry, stamps: tuple[str, ...], events: Events
) -> None:
    period = " x ".join(map(str, geometry.period))
    events.say(f"training {window.describe()}; the network's period is {period}")
    for stamp in stamps:
        events.say(stamp)


def _shapes(window: TrainingWindow, geometry: NetworkGeometry) -> dict[str, Any]:
    return {
        "window": list(window.window),
        "input": list(window.input),
        "offset": list(window.offset),
        "crop": list(window.crop),
        "neighbours": max(1, len(window.places)),
        "period": list(geometry.period),
    }


def _listed(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in values.items())


def _command(config: str | Path | TrainingConfig, **options: object) -> str:
    """What was said, with names of files in place of paths, which are nobody else's business."""
    named = config.name if isinstance(config, TrainingConfig) else Path(config).name
    words = ["stitchsafe", "train", named]
    for option, value in options.items():
        if value is not None:
            words += [
                f"--{option}",
                str(value) if isinstance(value, int) else Path(str(value)).name,
            ]
    return shlex.join(words)


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


def _claim(run: Path, config: TrainingConfig, record: DataRecord, *, overwrite: bool) -> Lease:
    """Make the run's folder this training's, and keep others out of it; or refuse.

    Raises
    ------
    StoreError
        If it holds something else, another process trains in it, or it cannot be written.
    """
    _refuse_others_folder(run)
    try:
        with ExitStack() as stack:
            lease = stack.enter_context(Lease.take(run / _OURS / "lease"))
            if overwrite:
                _clear(run)
            content = config.model_dump(mode="json", by_alias=True)
            text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, width=100)
            write_whole(run / RECORD, text.encode())
            record.keep()
            stack.pop_all()
            return lease
    except OSError as error:
        raise StoreError(
            f"{run} cannot be written: {error.strerror}; choose another with -o"
        ) from error


def _refuse_others_folder(run: Path) -> None:
    """Refuse a place that holds something other than a training."""
    if run.exists() and not run.is_dir():
        raise StoreError(f"{run} is a file; choose a folder for the run with -o")
    if (run / RECORD).is_file() or not run.is_dir():
        return
    if {each.name for each in run.iterdir()} - {_OURS}:
        raise StoreError(f"{run} is not empty and holds no training; choose another folder with -o")


def _clear(run: Path) -> None:
    for name in _RUN_FILES:
        (run / name).unlink(missing_ok=True)
    shutil.rmtree(run / TENSORBOARD, ignore_errors=True)
    DataRecord.clear(run / _OURS)
