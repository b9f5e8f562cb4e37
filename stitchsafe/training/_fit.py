"""The training loop.

One process, one device, plain torch: the bundled networks train in less than an hour on two cores,
and what such a loop needs (a seed, checkpoints, resume, a schedule) is shorter than the glue to a
framework. Several devices would be the reason to change.

Each step's examples depend on (seed, step) alone, and a checkpoint holds weights, optimiser state,
step and the time used, so that a stopped training goes on where its last checkpoint was.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stitchsafe.engine import Events
from stitchsafe.errors import InterruptedRunError, StoreError
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._examples import Example, Examples
from stitchsafe.training._losses import discriminative_loss, foreground_loss
from stitchsafe.training._window import TrainingWindow

__all__ = ["Checkpoint", "fit"]

_FLOOR = 0.02
_REPORT_EVERY = 50


@dataclass
class Checkpoint:
    """Where a training stands.

    Attributes
    ----------
    step
        Steps done.
    seconds
        Time spent on them, over all runs.
    resumed_from
        The step that this run began with.
    losses
        Means of the last steps, by name.
    """

    step: int
    seconds: float
    resumed_from: int
    losses: dict[str, float]


def fit(
    module: nn.Module,
    examples: Examples,
    window: TrainingWindow,
    config: TrainingConfig,
    *,
    run: Path,
    events: Events,
    device: str = "cpu",
    after_checkpoint: Callable[[Checkpoint], None] | None = None,
) -> Checkpoint:
    """Train `module` in place, from the run's last checkpoint where there is one.

    Parameters
    ----------
    module
        Returns one tensor per trained head, in the order of the heads.
    run
        Folder of ``checkpoint.pt`` and ``history.jsonl``.
    after_checkpoint
        Called whenever a checkpoint was written.

    Raises
    ------
    InterruptedRunError
        If the loss is no longer finite; the last checkpoint stays.
    """
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    layout = torch.channels_last if len(window.window) == 2 else torch.channels_last_3d
    module.to(device=device).train()
    for parameter in module.parameters():
        if parameter.ndim == len(window.window) + 2:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    settings = config.optimiser
    optimiser = torch.optim.AdamW(
        module.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    state = _resume(run, module, optimiser)
    events.stage("training", settings.steps, "steps")
    events.advance(state.step)
    begin, before = time.monotonic(), state.seconds
    sums: dict[str, float] = {}
    counted = 0
    while state.step < settings.steps:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * _schedule(state.step, config)
        batch = [
            examples.draw(np.random.default_rng((config.seed, state.step, place)))
            for place in range(settings.batch)
        ]
        terms = _step_losses(module, batch, window, config, device, layout)
        loss = terms["loss"]
        if not torch.isfinite(loss):
            raise InterruptedRunError(
                f"the loss is {loss.item()} at step {state.step}, so training stopped; the last "
                f"checkpoint is kept in {run}: lower optimiser.learning_rate and start anew"
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if settings.clip is not None:
            nn.utils.clip_grad_norm_(module.parameters(), settings.clip)
        optimiser.step()
        state.step += 1
        state.seconds = before + time.monotonic() - begin
        events.advance()
        counted += 1
        for name, value in terms.items():
            sums[name] = sums.get(name, 0.0) + value.item()
        if counted == _REPORT_EVERY or state.step == settings.steps:
            state.losses = {name: value / counted for name, value in sums.items()}
            sums, counted = {}, 0
            _log(run, state)
        if state.step % config.checkpoint_every == 0 or state.step == settings.steps:
            _save(run, module, optimiser, state)
            if after_checkpoint is not None:
                after_checkpoint(state)
    return state


def _schedule(step: int, config: TrainingConfig) -> float:
    settings = config.optimiser
    warm = min(1.0, (step + 1) / settings.warmup) if settings.warmup else 1.0
    if settings.decay == "none":
        return warm
    wave = 0.5 * (1 + math.cos(math.pi * step / settings.steps))
    return warm * (_FLOOR + (1 - _FLOOR) * wave)


def _step_losses(
    module: nn.Module,
    batch: list[Example],
    window: TrainingWindow,
    config: TrainingConfig,
    device: str,
    layout: torch.memory_format,
) -> dict[str, Tensor]:
    """The loss and its parts, by name."""
    images = torch.from_numpy(np.stack([example.image for example in batch])).to(device)
    images = images.contiguous(memory_format=layout)
    with torch.autocast(device, torch.bfloat16, enabled=config.precision == "bfloat16"):
        outputs = module(images)
    tensors = [outputs] if isinstance(outputs, Tensor) else list(outputs)
    heads = list(config.network.arguments.get("heads", {"embedding": 3}))
    fields = {
        name: _cut(tensor, window).float() for name, tensor in zip(heads, tensors, strict=True)
    }
    terms: dict[str, Tensor] = {}
    total = images.new_zeros(())
    if config.embedding is not None:
        wish = config.embedding
        parts = discriminative_loss(
            fields["embedding"],
            _stack([example.clusters for example in batch], device).long(),
            delta_pull=wish.delta_pull,
            delta_push=wish.delta_push,
            weights=wish.weights,
            pairs=wish.pairs,
            reach=wish.neighbours,
            neighbourhood=_stack([example.instances for example in batch], device).long(),
        )
        terms |= {"pull": parts.pull, "push": parts.push, "regular": parts.regular}
        total = total + wish.weight * parts.total
    if config.foreground is not None:
        terms["foreground"] = foreground_loss(
            fields["foreground"],
            _stack([example.foreground for example in batch], device),
            _stack([example.weight for example in batch], device),
        )
        total = total + config.foreground.weight * terms["foreground"]
    return {"loss": total} | terms


def _cut(tensor: Tensor, window: TrainingWindow) -> Tensor:
    for axis, (begin, size) in enumerate(zip(window.crop, window.window, strict=True), start=2):
        tensor = tensor.narrow(axis, begin, size)
    return tensor


def _stack(arrays: list[Any], device: str) -> Tensor:
    return torch.from_numpy(np.stack(arrays)).to(device)


def _log(run: Path, state: Checkpoint) -> None:
    entry = {"step": state.step, "seconds": round(state.seconds, 1)} | {
        name: round(value, 5) for name, value in state.losses.items()
    }
    with (run / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(entry) + "\n")


def _save(
    run: Path, module: nn.Module, optimiser: torch.optim.Optimizer, state: Checkpoint
) -> None:
    """Write the checkpoint; a crash meanwhile leaves the one before."""
    content = {
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "step": state.step,
        "seconds": state.seconds,
        "losses": state.losses,
    }
    temporary = run / "checkpoint.pt.stitchsafe-tmp"
    torch.save(content, temporary)
    temporary.replace(run / "checkpoint.pt")


def _resume(run: Path, module: nn.Module, optimiser: torch.optim.Optimizer) -> Checkpoint:
    path = run / "checkpoint.pt"
    if not path.is_file():
        return Checkpoint(0, 0.0, 0, {})
    try:
        content = torch.load(path, weights_only=True, map_location="cpu")
        module.load_state_dict(content["module"])
        optimiser.load_state_dict(content["optimiser"])
    except (RuntimeError, KeyError, ValueError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise StoreError(
            f"the checkpoint {path} does not fit this training ({reason}); "
            "choose another folder with -o, or start anew with --overwrite"
        ) from error
    step = int(content["step"])
    return Checkpoint(step, float(content["seconds"]), step, dict(content["losses"]))
