"""The training loop, on Lightning Fabric.

Fabric gives what a loop of one's own would have to get right once more: processes for several
GPUs, averaged gradients, mixed precision with scaled gradients. The loop itself stays plain, and so
does what it saves, since a resumed training must end with the very bits of one that never stopped.
For that, all that is random in a step depends on (seed, step, place in the batch) alone.

At the end of a step, in this order: validation if it is due; the model folder, if it is the best so
far (or there is no validation); the checkpoint. So whatever a crash leaves undone is done again by
the run that goes on from the last checkpoint.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from stitchsafe.engine import Events
from stitchsafe.errors import InterruptedRunError
from stitchsafe.interruption import untorn
from stitchsafe.networks import own_threads
from stitchsafe.nn import anneal, parameter_groups
from stitchsafe.training._ahead import Ahead
from stitchsafe.training._averages import averages_of
from stitchsafe.training._checkpoint import BEST, LAST, Checkpoint, Stateful, resume, save
from stitchsafe.training._config import TrainingConfig
from stitchsafe.training._devices import places_of
from stitchsafe.training._examples import Examples
from stitchsafe.training._logs import Logs
from stitchsafe.training._own_code import own_backward
from stitchsafe.training._schedule import learning_rate, temperature
from stitchsafe.training._step import Batch, Objective, layout_weights, stack
from stitchsafe.training._validation import is_better

if TYPE_CHECKING:
    from lightning_fabric import Fabric

__all__ = ["Hooks", "fit"]

REPORT_EVERY = 50


@dataclass(frozen=True)
class Hooks:
    """What the loop asks its caller to do, on the leader's process alone.

    Attributes
    ----------
    keep
        Write the model folder.
    judge
        Scores of a module by name, where there is validation.
    """

    keep: Callable[[nn.Module, Checkpoint], None]
    judge: Callable[[nn.Module], dict[str, float]] | None = None


def fit(
    module: nn.Module,
    examples: Examples,
    objective: Objective,
    config: TrainingConfig,
    *,
    run: Path,
    events: Events,
    fabric: Fabric,
    hooks: Hooks,
) -> Checkpoint:
    """Train `module` in place, from the run's last checkpoint where there is one.

    Parameters
    ----------
    module
        Returns one tensor per head, in the order of the heads.
    run
        Folder of checkpoints and logs.

    Raises
    ------
    InterruptedRunError
        If the loss, its gradients or the weights are no longer finite; the last checkpoint stays.
    """
    with own_threads(), torch.random.fork_rng(devices=_gpus(fabric)):
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        return _Loop(module, examples, objective, config, run, events, fabric, hooks).run_all()


class _Loop:
    def __init__(
        self,
        module: nn.Module,
        examples: Examples,
        objective: Objective,
        config: TrainingConfig,
        run: Path,
        events: Events,
        fabric: Fabric,
        hooks: Hooks,
    ) -> None:
        self.config, self.settings = config, config.optimiser
        self.examples, self.objective = examples, objective
        self.run, self.events, self.fabric, self.hooks = run, events, fabric, hooks
        self.module = fabric.to_device(module)
        layout_weights(self.module, len(config.window))
        groups = parameter_groups(self.module, weight_decay=self.settings.weight_decay)
        self.optimiser = torch.optim.AdamW(
            [group for group in groups if group["params"]], lr=self.settings.learning_rate
        )
        decay = self.settings.ema
        self.averages = None if decay is None else averages_of(self.module, decay)
        self.state = resume(run / LAST, self._parts())
        self._go_on_with_more_patience()
        self.forward, self.stepper = fabric.setup(self.module, self.optimiser)
        self.module.train()
        self.terms: tuple[str, ...] = ()

    def run_all(self) -> Checkpoint:
        state, total = self.state, self.settings.steps
        self.events.stage("training", total, "steps")
        self.events.advance(min(state.step, total))
        begin, before = time.monotonic(), state.seconds
        logs = self.config.logs
        if not self.fabric.is_global_zero:
            return self._steps(None, begin, before)
        with Logs(self.run, state.step, table=logs.csv, tensorboard=logs.tensorboard) as opened:
            return self._steps(opened, begin, before)

    def _go_on_with_more_patience(self) -> None:
        """Take up a training that stopped early, if more patience is asked for than it had."""
        state, wish = self.state, self.config.validation
        if not state.stopped or wish is None:
            return
        state.stopped = wish.patience is not None and state.waited >= wish.patience
        if state.stopped and state.step < self.settings.steps:
            self.events.say(
                f"this training stopped early at step {state.step} of {self.settings.steps}, as "
                f"validation got no better after step {state.best_step}; to go on, raise "
                f"validation.patience above {state.waited}, or leave it out"
            )

    def _steps(self, logs: Logs | None, begin: float, before: float) -> Checkpoint:
        state = self.state
        recent: list[dict[str, float]] = []
        end = state.step if state.stopped else self.settings.steps
        with Ahead(self._draw_all, state.step, end) as ahead:
            while state.step < self.settings.steps and not state.stopped:
                recent.append(self._step(state.step, ahead.take()))
                state.step += 1
                state.seconds = before + time.monotonic() - begin
                self.events.advance()
                due = self._due()
                if due or state.step % REPORT_EVERY == 0:
                    self._report(recent, logs)
                    recent = []
                if due:
                    self._end_step(logs)
        return state

    def _due(self) -> bool:
        """Whether a checkpoint is to be written."""
        step = self.state.step
        return (
            step == self.settings.steps or step % self.config.checkpoint_every == 0 or self._judges
        )

    @property
    def _judges(self) -> bool:
        step, wish = self.state.step, self.config.validation
        return wish is not None and (step == self.settings.steps or step % wish.every == 0)

    def _step(self, step: int, drawn: list[Batch]) -> dict[str, float]:
        """One step of the optimiser; the means of the loss and its terms over all examples."""
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.settings, step)
        self._anneal(step)
        turns = range(self.settings.accumulate)
        batches = [batch.to(self.fabric.device) for batch in drawn]
        shares = self._shares(batches)
        self.optimiser.zero_grad(set_to_none=True)
        totals: list[Tensor] = []
        for turn, batch, share in zip(turns, batches, shares, strict=True):
            torch.manual_seed(_seed(self.config.seed, step, turn, self.fabric.global_rank))
            last = turn == turns[-1]
            with self.fabric.no_backward_sync(self.forward, enabled=not last):
                terms = self.objective(self.forward, batch, share)
                with own_backward(self.config.network.name, self.config.loss):
                    self.fabric.backward(terms["loss"] / len(turns))
            self._refuse_other_terms(terms)
            totals.append(torch.stack([terms[name].detach() for name in self.terms]))
        means = self.fabric.all_reduce(torch.stack(totals).mean(0), reduce_op="mean")
        assert isinstance(means, Tensor)
        values = dict(zip(self.terms, means.tolist(), strict=True))
        if not math.isfinite(values["loss"]):
            raise self._diverged(f"the loss is {values['loss']} at step {step}")
        self._clip(step)
        self.stepper.step()
        if self.averages is not None:
            self.averages.update_parameters(self.module)
        return values

    def _draw_all(self, step: int) -> list[Batch]:
        """The examples of a step, one batch for each pass; in a thread beside the others."""
        return [self._draw(step, turn) for turn in range(self.settings.accumulate)]

    def _draw(self, step: int, turn: int) -> Batch:
        places = places_of(self.fabric, self.settings.batch, turn)
        drawn = [
            self.examples.draw(np.random.default_rng((self.config.seed, step, place)))
            for place in places
        ]
        return stack(drawn, self.objective.window)

    def _shares(self, batches: list[Batch]) -> list[float]:
        """Each batch's foreground weight, relative to the mean over all batches of the step."""
        if len(batches) == self.fabric.world_size == 1:
            return [1.0]
        sums = torch.stack([batch.weight.sum().clamp_min(1.0).double() for batch in batches])
        mean = self.fabric.all_reduce(sums.mean(), reduce_op="mean")
        assert isinstance(mean, Tensor)
        return [float(share) for share in sums / mean]

    def _anneal(self, step: int) -> None:
        if self.config.temperature is None:
            return
        course, epoch = temperature(self.config.temperature, step, self.settings.steps)
        for each in filter(None, (self.module, self.averages)):
            anneal(each, course, epoch)

    def _refuse_other_terms(self, terms: Mapping[str, Tensor]) -> None:
        """Refuse a loss whose terms are not those of the first pass: no mean could be told."""
        self.terms = self.terms or tuple(terms)
        if set(terms) != set(self.terms):
            now, before = (", ".join(each) for each in (terms, self.terms))
            raise InterruptedRunError(
                f"the loss {self.config.loss} has the terms {now} now, and had {before} before; "
                "return the same ones each time, 0 where there is nothing, and run the same "
                "command again"
            )

    def _clip(self, step: int) -> None:
        """Clip the gradients as asked, and refuse those that would ruin the weights.

        Scaled ones may overflow: the scaler leaves out that step and takes a smaller factor.
        """
        if self.settings.clip is not None:
            norm = self.fabric.clip_gradients(
                self.forward,
                self.stepper,
                max_norm=self.settings.clip,
                error_if_nonfinite=False,
            )
        else:
            found = (each.grad for each in self.module.parameters())
            norm = nn.utils.get_total_norm([each for each in found if each is not None])
        assert norm is not None
        if self.config.precision != "float16" and not math.isfinite(norm):
            raise self._diverged(f"the norm of the gradients is {float(norm)} at step {step}")

    def _refuse_ruined(self) -> None:
        """Refuse weights that nothing can be computed with, before they are written anywhere."""
        for module in filter(None, (self.module, self._shown)):
            ruined = next(_ruined(module), None)
            if ruined is not None:
                raise self._diverged(f"{ruined} is no longer finite after step {self.state.step}")

    def _diverged(self, what: str) -> InterruptedRunError:
        kept = "there is no checkpoint yet"
        if (self.run / LAST).is_file():
            kept = f"the last checkpoint is kept in {self.run}"
        return InterruptedRunError(
            f"{what}, so training stopped; {kept}: lower optimiser.learning_rate"
            f"{', or correct the loss,' if self.config.loss else ''} and start anew"
        )

    def _report(self, recent: list[dict[str, float]], logs: Logs | None) -> None:
        state = self.state
        state.losses = {
            name: sum(values[name] for values in recent) / len(recent) for name in recent[0]
        }
        self.events.note(", ".join(f"{name} {v:.4g}" for name, v in state.losses.items()))
        if logs is not None:
            rate = learning_rate(self.settings, state.step - 1)
            logs.note(state.step, state.seconds, state.losses | {"learning_rate": rate})

    def _end_step(self, logs: Logs | None) -> None:
        """Judge, keep and save."""
        state, judged = self.state, self._judges
        self._refuse_ruined()
        if logs is not None:
            with untorn():
                better = self._judge(logs) if judged else self.config.validation is None
                if better:
                    self.hooks.keep(self._shown, state)
                if better and judged:
                    save(self.run / BEST, self._parts(), state)
                save(self.run / LAST, self._parts(), state)
            self._tell(judged)
        state.stopped = bool(self.fabric.broadcast(state.stopped))

    def _judge(self, logs: Logs) -> bool:
        """Judge the weights; whether they are the best so far."""
        state, wish = self.state, self.config.validation
        assert wish is not None
        assert self.hooks.judge is not None
        try:
            scores = self.hooks.judge(self._shown)
        finally:
            self.module.train()
        logs.note(state.step, state.seconds, scores)
        self.events.say(
            f"step {state.step}: " + ", ".join(f"{name} {v:.4g}" for name, v in scores.items())
        )
        better = not state.best or is_better(scores, state.best, wish)
        if better:
            state.best, state.best_step, state.waited = scores, state.step, 0
        else:
            state.waited += 1
            over = wish.patience is not None and state.waited >= wish.patience
            state.stopped = over and state.step < self.settings.steps
        return better

    def _tell(self, judged: bool) -> None:
        state = self.state
        if not judged:
            losses = ", ".join(f"{name} {value:.4g}" for name, value in state.losses.items())
            self.events.say(f"step {state.step} of {self.settings.steps}: {losses}")
        if state.stopped:
            self.events.say(
                f"no better validation since step {state.best_step}, so training stops at "
                f"{state.step} of {self.settings.steps}"
            )

    @property
    def _shown(self) -> nn.Module:
        """The module with the weights that are judged and exported."""
        shown = self.module if self.averages is None else self.averages.module
        assert isinstance(shown, nn.Module)
        return shown

    def _parts(self) -> dict[str, Stateful]:
        parts: dict[str, Any] = {"module": self.module, "optimiser": self.optimiser}
        if self.averages is not None:
            parts["averages"] = self.averages
        if self.config.precision == "float16":
            parts["scaler"] = self.fabric.strategy.precision
        return parts


def _ruined(module: nn.Module) -> Iterator[str]:
    """What is learnt and not finite, and statistics that are no numbers, by name.

    Infinity may be meant where nothing learns it, such as in the exponent of a P-pooling.
    """
    for name, weight in module.named_parameters():
        if weight.requires_grad and not weight.isfinite().all():
            yield f"the weight {name}"
    for name, buffer in module.named_buffers():
        if buffer.isnan().any():
            yield f"the statistic {name}"


def _seed(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _gpus(fabric: Fabric) -> list[torch.device]:
    return [fabric.device] if fabric.device.type == "cuda" else []
