"""The training loop, top to bottom.

    for each optimizer step:
        rows of the step, records or packs <- (seed, epoch, step)
        forward and backward, micro-batch by micro-batch, divided by the trained tokens of the step
        clip; stop if the loss or the gradient is not a number; update, advance the schedule
        report, evaluate, save: each at its cadence
        leave, after a checkpoint, if a signal came or the time is over

Everything random follows from counters: order from (seed, epoch), dropout from (seed, step,
micro-batch, process). So a resumed run needs weights, optimizer and step number, and no more; a
stream adds the counters of its place.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ft.data.batches import Batch, TokenRow, record_lengths
from ft.data.feed import Feed, FeedRow, StoredFeed
from ft.evaluate.objective import Objective, held_out_figures
from ft.runtime import EventLog, Interrupted, OnEvent, Problem
from ft.train.agreement import Agreement
from ft.train.ahead import Ahead
from ft.train.best import BestBy
from ft.train.cadence import Cadence
from ft.train.checkpoint import Checkpoint, CheckpointFolder, TrainerState, seed_generators
from ft.train.health import HealthCheck
from ft.train.memory import peak_memory_bytes
from ft.train.saving import CheckpointWriter, Weights, Written
from ft.train.signals import StopRequest
from ft.train.unread import LaunchedStep, UpdateGuard, read_all
from ft.train.watch import StepWatch, Unwatched
from ft.train.work import WorkMaker


@dataclass(frozen=True)
class LoopSettings:
    """The numbers that the loop goes by."""

    num_steps: int
    seed: int
    max_grad_norm: float
    logging_steps: int
    evaluation: Cadence
    checkpoints: Cadence
    eval_batch_size: int
    early_stopping_patience: int | None
    keeps_best: bool
    """End with the weights of the best evaluation."""
    best_by: BestBy
    loss_watchdog_threshold: float | None
    loss_watchdog_patience: int | None
    reads_every_step: bool = False
    """What follows an update must know that it was one."""
    saves: bool = True
    """False leaves nothing behind: the run is a measurement."""


class TrainingLoop:
    """One run's parts, and the loop over them."""

    def __init__(  # noqa: PLR0913 - every part of a run, each by its name
        self,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        weights: Weights,
        optimizer: Optimizer,
        schedule: LRScheduler,
        objective: Objective,
        feed: Feed,
        heldout_rows: Sequence[TokenRow] | None,
        settings: LoopSettings,
        checkpoints: CheckpointFolder,
        events: EventLog,
        on_event: OnEvent,
        after_update: Callable[[int], None],
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.weights = weights
        self.optimizer = optimizer
        self.schedule = schedule
        self.feed = feed
        self.heldout_rows = heldout_rows
        self.settings = settings
        self.checkpoints = checkpoints
        self.events = events
        self.on_event = on_event
        self.watch: StepWatch = Unwatched()
        self.after_update = after_update
        self.state = TrainerState()
        self.saved_step: int | None = None
        self.agreement = Agreement(accelerator)
        self.writer = CheckpointWriter(
            checkpoints,
            accelerator=accelerator,
            weights=weights,
            optimizer=optimizer,
            schedule=schedule,
            on_written=self._tell_of_checkpoint,
        )
        self.health = HealthCheck(
            threshold=settings.loss_watchdog_threshold,
            patience=settings.loss_watchdog_patience,
            tell=self._tell,
        )
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.maker = WorkMaker(feed, objective, accelerator)
        self.ahead = Ahead(self.maker.make)
        self.guard = UpdateGuard(optimizer)
        self.unread: list[LaunchedStep] = []
        self.unread_since = 0.0
        reads_every_step = settings.logging_steps == 1 or settings.reads_every_step
        has_guard = self.guard.can_hold_back and accelerator.scaler is None
        self.defers_reading = has_guard and not reads_every_step

    def resume(self, checkpoint: Checkpoint) -> None:
        """Puts the run where the checkpoint says."""
        self.writer.restore(checkpoint)
        self.state = replace(checkpoint.state)
        if self.state.feed_position is not None:
            self.feed.go_to(self.state.feed_position)
        best_step = self.state.best_step
        if self.settings.keeps_best and best_step and not self.checkpoints.is_whole(best_step):
            self.state.best_metric = None
            self.state.best_loss = self.state.best_step = None  # it was not kept: look for another
        self.saved_step = self.state.step
        self._tell("resumed", step=self.state.step, checkpoint=checkpoint.path.name)

    def run(self, stop: StopRequest) -> TrainerState:
        """Trains to the end, or until ``stop`` asks to leave.

        Raises:
            TrainingError: the loss or the gradient is not a number, or the run diverged.
            Interrupted: a signal came or the time is over; a checkpoint was written.
            OSError: a checkpoint could not be written.
        """
        try:
            with stop.listening(), closing(self.feed), closing(self.ahead):
                self._train(stop)
                self.writer.settle()
        finally:
            self.writer.close()
        self._load_best()
        return self.state

    def rehearse(self, rows: Sequence[FeedRow]) -> None:
        """Forward and backward of one pass, as in a step; the gradients are there afterwards.

        Nothing else changes: not the state, and not what a pass draws, which begins anew each time.
        """
        self.model.train()
        batch = self.maker.batch(rows, filler=rows[0]).to(self.accelerator.device)
        seed_generators(self.settings.seed, 0, 0, self.accelerator.process_index)
        num_trained = sum(self.maker.objective.weight(record) for row in rows for record in row)
        self._forward_backward(batch, max(num_trained, 1), synchronize=False)

    def forget_gradients(self) -> None:
        """As before a step."""
        self.optimizer.zero_grad()

    def _train(self, stop: StopRequest) -> None:
        state, settings = self.state, self.settings
        self.model.train()
        if state.step == 0 and self.heldout_rows is not None:
            self._evaluate()
        while state.step < settings.num_steps and not state.is_stopped_early:
            self.watch.begin_step()
            launched = self._step()
            self.watch.mark("other")
            is_last = state.step == settings.num_steps
            evaluates = self._is_due(settings.evaluation) or is_last
            saves = self._is_due(settings.checkpoints) or is_last
            is_due = evaluates or saves or state.step % settings.logging_steps == 0
            if is_due or not self.defers_reading:
                self._read()
            if evaluates:
                self._evaluate()
            if saves or state.is_stopped_early:
                self._save()
            self._look_around(stop)
            self.watch.end_step(launched.num_tokens, round(launched.num_trained_tokens))

    # -- one optimizer step -------------------------------------------------------------------

    def _step(self) -> LaunchedStep:
        if not self.unread:
            self.unread_since = time.perf_counter()
        step = self.state.step
        self.watch.mark("data")
        work = self.ahead.take(step, then=self._step_to_prepare(step))
        loss_sum = torch.zeros((), device=self.accelerator.device)
        for number, on_host in enumerate(work.batches):
            self.watch.mark("data")
            batch = on_host.to(self.accelerator.device)
            seed_generators(self.settings.seed, step, number, self.accelerator.process_index)
            is_last = number == len(work.batches) - 1
            loss_sum += self._forward_backward(batch, work.num_trained, synchronize=is_last)
        self.watch.mark("other")
        loss_sum = self.accelerator.reduce(loss_sum, reduction="sum")
        rate = float(self.schedule.get_last_lr()[0])
        sizes = work.num_tokens, work.num_trained
        launched = LaunchedStep(step + 1, loss_sum, self._clip(), rate, *sizes, work.records)
        if self.defers_reading:
            self.guard.check(launched.loss_sum, launched.grad_norm)
        else:
            self._require_finite(launched, *read_all([launched])[0])
        launched = replace(launched, was_skipped=self._update())
        self.unread.append(launched)
        self.state.step += 1
        self.state.num_records_seen += len(work.records)
        self.state.num_tokens_seen += work.num_tokens
        return launched

    def _require_finite(self, launched: LaunchedStep, loss: float, grad_norm: float) -> None:
        """Stops at a step that is no number; its update was not made."""
        step, records = launched.step, launched.records
        self.health.require_finite("loss", loss, step=step, records=records)
        if self.accelerator.scaler is None:  # which skips a step whose gradient overflowed
            self.health.require_finite("gradient norm", grad_norm, step=step, records=records)

    def _read(self) -> None:
        """Reads the figures of the steps since it was last done: judged, counted, reported."""
        if not self.unread:
            return
        steps, self.unread = self.unread, []
        figures = read_all(steps)
        elapsed_s = time.perf_counter() - self.unread_since
        self.state.train_time_s += elapsed_s
        speed = {
            "step_time_s": round(elapsed_s / len(steps), 4),
            "tokens_per_s": round(sum(step.num_tokens for step in steps) / elapsed_s, 1),
        }
        for launched, (loss, grad_norm) in zip(steps, figures, strict=True):
            self._require_finite(launched, loss, grad_norm)
            self._report(launched, loss, grad_norm, speed)
            self.health.note_step(self.state, loss, launched.was_skipped, step=launched.step)

    def _step_to_prepare(self, step: int) -> int | None:
        """The next one, if its rows may be asked for already."""
        is_any_step_there = isinstance(self.feed, StoredFeed)
        return step + 1 if is_any_step_there and step + 1 < self.settings.num_steps else None

    def _forward_backward(
        self, batch: Batch, num_trained: float, *, synchronize: bool
    ) -> torch.Tensor:
        """Adds the batch's gradient; processes average theirs, so each scales by their number."""
        with nullcontext() if synchronize else self.accelerator.no_sync(self.model):
            self.watch.mark("forward")
            loss_sum = self.maker.objective.loss_sum(self.model, batch)
            self.watch.mark("backward")
            self.accelerator.backward(loss_sum * (self.accelerator.num_processes / num_trained))
        return loss_sum.detach()

    def _clip(self) -> torch.Tensor:
        self.watch.mark("clip")
        limit = self.settings.max_grad_norm or math.inf
        norm: torch.Tensor = self.accelerator.clip_grad_norm_(self.parameters, limit)
        return norm

    def _update(self) -> bool:
        """One optimizer step; true if the fp16 scaler skipped it because of overflow."""
        self.watch.mark("optimizer")
        self.optimizer.step()
        was_skipped = bool(self.accelerator.optimizer_step_was_skipped)
        if not was_skipped:  # while the gradients are there, and are numbers
            self.after_update(self.state.step - self.state.num_skipped_steps)
        self.optimizer.zero_grad()
        if not was_skipped:
            self.schedule.step()
        return was_skipped

    # -- at their cadence ---------------------------------------------------------------------

    def _is_due(self, cadence: Cadence) -> bool:
        return cadence.is_due(self.state.step, self.feed.steps_per_epoch)

    def _report(
        self, result: LaunchedStep, loss: float, grad_norm: float, speed: Mapping[str, float]
    ) -> None:
        step = result.step
        if step % self.settings.logging_steps and step != self.settings.num_steps:
            return
        self._tell(
            "step",
            step=step,
            num_steps=self.settings.num_steps,
            epoch=round(self.feed.epochs_after(step), 4),
            loss=loss,
            grad_norm=grad_norm,
            learning_rate=result.learning_rate,
            **speed,
            num_tokens=result.num_tokens,
            num_trained_tokens=result.num_trained_tokens,
            was_skipped=result.was_skipped,
            peak_memory_bytes=peak_memory_bytes(self.accelerator.device),
        )

    def _evaluate(self) -> None:
        if self.heldout_rows is None:
            return
        started = time.perf_counter()
        figures = held_out_figures(
            self.maker.objective,
            self.model,
            self.heldout_rows,
            batch_size=self.settings.eval_batch_size,
            device=self.accelerator.device,
        )
        self._tell(
            "evaluation",
            step=self.state.step,
            **figures,
            num_records=sum(len(record_lengths(row)) for row in self.heldout_rows),
            eval_time_s=round(time.perf_counter() - started, 3),
        )
        self._note_best(figures)

    def _note_best(self, figures: Mapping[str, Any]) -> None:
        state = self.state
        if state.step == 0:
            return  # the base's own loss: there for the record, no checkpoint stands behind it
        if self.settings.best_by.note(figures, state) and self.settings.keeps_best:
            self._save()
        patience = self.settings.early_stopping_patience
        if patience is not None and state.num_evaluations_without_gain >= patience:
            state.is_stopped_early = True
            self._tell("stopped_early", step=state.step, best_step=state.best_step)

    def _save(self) -> None:
        """Begins a checkpoint; it is told of when it is whole."""
        if self.saved_step == self.state.step or not self.settings.saves:
            return
        self.state.feed_position = self.feed.position()
        self.health.require_finite_weights(self.parameters, step=self.state.step)
        if self.accelerator.is_main_process:
            self.events.sync()
        keep_step = self.state.best_step if self.settings.keeps_best else None
        self.writer.save(self.state, keep_step=keep_step)
        self.saved_step = self.state.step

    def _tell_of_checkpoint(self, written: Written) -> None:
        self._tell(
            "checkpoint",
            step=written.step,
            stall_time_s=round(written.stall_time_s, 3),
            save_time_s=round(written.save_time_s, 3),
        )

    def _look_around(self, stop: StopRequest) -> None:
        """What happened beside the step: a checkpoint got its name, or did not; a signal came."""
        self.writer.poll()
        asked = stop.signal_number
        failed, interrupted, terminated = self.agreement.counts(
            self.writer.has_failed, asked == signal.SIGINT, asked == signal.SIGTERM
        )
        if failed:
            self.writer.settle()
        if interrupted or terminated:
            number = signal.SIGINT if interrupted else signal.SIGTERM
            self._leave(number, "its max_time" if stop.is_out_of_time else number.name)

    def _leave(self, signal_number: int, reason: str) -> None:
        self._read()
        self._save()
        self.writer.settle()
        self._tell("interrupted", step=self.state.step, signal=signal_number, reason=reason)
        raise Interrupted(
            signal_number,
            Problem(
                f"stopped by {reason} after step {self.state.step}, which is saved",
                fix="the same command goes on from there",
            ),
        )

    def _load_best(self) -> None:
        best_step = self.state.best_step
        if self.settings.keeps_best and best_step is not None and best_step != self.state.step:
            self.weights.load_weights(self.checkpoints.at_step(best_step))
            self._tell("best", step=best_step, eval_loss=self.state.best_loss)

    def _tell(self, event: str, **values: Any) -> None:
        """Once, whatever the number of processes."""
        if self.accelerator.is_main_process:
            self.on_event(self.events.append(event, **values))
