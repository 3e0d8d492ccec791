"""The training loop: evaluate, save, step, until done or asked to stop."""

from __future__ import annotations

import dataclasses
import functools
import logging
import pathlib
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.training.checkpoint import Checkpointer, Progress
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.interruption import StopRequest
from poolformer_jax.training.metrics import MetricWriter, progress_line
from poolformer_jax.training.state import TrainState, init_train_state
from poolformer_jax.training.step import make_train_step

_LOG = logging.getLogger(__name__)

# Steps whose results may be outstanding: enough to keep an accelerator busy, and few enough for
# the CPU back end, whose collectives deadlock with about 48 steps in flight.
MAX_STEPS_IN_FLIGHT = 8

Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]
Evaluate = Callable[[Any, Callable[[], bool]], Mapping[str, float] | None]


class TrainingDivergedError(RuntimeError):
    """Too many steps in a row had to be skipped."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a call of `train` ended: at which step, and whether that is the end of the run."""

    step: int
    finished: bool


def train(
    *,
    model_config: PoolformerConfig,
    train_config: TrainConfig,
    mesh: Mesh,
    batches: Batches,
    evaluate: Evaluate,
    workdir: pathlib.Path,
) -> Outcome:
    """Trains from scratch, or on from the latest checkpoint in the workdir.

    Args:
      model_config: Architecture.
      train_config: Recipe.
      mesh: All devices.
      batches: From the number of examples seen by all processes to this process's batches.
      evaluate: From (averaged parameters, "shall I stop?") to `bits_per_sample` and what else is
        worth writing down; None if it was told to stop.
      workdir: An existing folder for checkpoints and metrics.

    Raises:
      TrainingDivergedError: After `max_consecutive_skips` skipped steps in a row.
    """
    run = _Run(model_config, train_config, mesh, batches, evaluate, workdir)
    try:
        return run.run()
    finally:
        run.close()


class _Run:
    """What the loop carries from step to step."""

    def __init__(
        self,
        model_config: PoolformerConfig,
        train_config: TrainConfig,
        mesh: Mesh,
        batches: Batches,
        evaluate: Evaluate,
        workdir: pathlib.Path,
    ):
        self.config = train_config
        self.mesh = mesh
        self.evaluate = evaluate
        self.workdir = workdir
        self.stop = StopRequest()
        self.checkpointer = Checkpointer(workdir / "checkpoints")

        init = functools.partial(init_train_state, model_config, train_config)
        abstract = sharding.abstract_state(mesh, init)
        self.saved_step = self.checkpointer.latest_step
        if self.saved_step is None:
            self.state: TrainState = sharding.init_sharded(mesh, init)
            self.progress = Progress(examples_seen=0, validation_bits=None)
        else:
            self.state, self.progress = self.checkpointer.restore(abstract)
        self.step = int(self.state.step)
        self.train_step = sharding.jit_train_step(
            make_train_step(model_config, train_config), mesh, abstract
        )
        self.batches = batches(self.progress.examples_seen)
        self.pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self.speed = _Speed()
        self.writer = MetricWriter(
            workdir,
            start_step=self.step,
            validated=self.progress.validation_bits is not None,
            enabled=jax.process_index() == 0,
        )
        self.consecutive_skips = 0

    def run(self) -> Outcome:
        if self.step:
            self.say(f"resuming from the checkpoint of step {self.step} in {self.workdir}")
        if self.step >= self.config.num_steps:
            self.say(
                f"nothing to do: step {self.step} of train.num_steps {self.config.num_steps} is "
                "done; raise train.num_steps to train on"
            )
        while True:
            stopping = self.stop.at_step(self.step)
            if not stopping and self.is_due(self.config.eval_every, from_start=True):
                self.validate()
                stopping = self.stop.received()
            if stopping:
                self.say(f"asked to stop: saving a checkpoint of step {self.step}")
            if stopping or self.is_due(self.config.checkpoint_every) or self.was_validated():
                self.save(last=stopping or self.step >= self.config.num_steps)
            if self.step >= self.config.num_steps:
                return Outcome(self.step, finished=True)
            if stopping:
                return Outcome(self.step, finished=False)
            self.take_step()

    def is_due(self, every: int, *, from_start: bool = False) -> bool:
        at_end = self.step >= self.config.num_steps
        return (self.step % every == 0 and (self.step > 0 or from_start)) or at_end

    def was_validated(self) -> bool:
        return self.step > 0 and self.progress.validation_bits is not None

    def validate(self) -> None:
        if self.progress.validation_bits is not None:
            return  # Restored with the checkpoint.
        self.collect()
        start = time.monotonic()
        result = self.evaluate(self.state.ema_params, self.stop.received)
        if result is None:
            return
        bits = float(result["bits_per_sample"])
        self.progress = dataclasses.replace(self.progress, validation_bits=bits)
        if self.saved_step == self.step:  # Stopped before it was evaluated, and resumed.
            self.checkpointer.add_validation(self.state, self.progress)
        self.writer.write("validation", self.step, result)
        self.writer.flush()
        self.say(
            f"step {self.step} | validation {bits:.4f} bits per sample "
            f"({time.monotonic() - start:.1f} s)"
        )
        self.speed.leave_out(self.step)

    def save(self, *, last: bool) -> None:
        if self.saved_step == self.step:
            return
        # Every step that the checkpoint contains is on disk before it.
        self.collect()
        if self.consecutive_skips and not last:
            return  # The parameters may be the fault: keep the checkpoints from before.
        self.checkpointer.save(self.state, self.progress)
        self.saved_step = self.step
        self.speed.leave_out(self.step)

    def take_step(self) -> None:
        local_batch = next(self.batches)
        self.samples_per_clip = local_batch["tokens"].shape[1]
        batch = sharding.put_batch(self.mesh, local_batch)
        self.state, metrics = self.train_step(self.state, batch)
        self.step += 1
        self.progress = Progress(
            examples_seen=self.progress.examples_seen + self.config.batch_size,
            validation_bits=None,
        )
        self.pending.append((self.step, metrics))
        if not self.speed.started:  # The first step contains the compilation.
            self.collect()
            self.speed.start(self.step)
        elif self.step % self.config.log_every == 0 or self.step == self.config.num_steps:
            self.collect()
        elif len(self.pending) > MAX_STEPS_IN_FLIGHT:
            self.write_oldest()

    def collect(self) -> None:
        """Waits for all steps, and writes them down."""
        while self.pending:
            self.write_oldest()
        self.writer.flush()

    def write_oldest(self) -> None:
        step, metrics = self.pending.popleft()
        values: dict[str, Any] = {name: np.asarray(x).item() for name, x in metrics.items()}
        self.consecutive_skips = values.pop("consecutive_skips")
        report = step % self.config.log_every == 0 or step == self.config.num_steps
        if report and (seconds := self.speed.seconds_per_step(step)) is not None:
            clips_per_second = self.config.batch_size / seconds
            values |= {
                "seconds_per_step": seconds,
                "clips_per_second": clips_per_second,
                "samples_per_second": clips_per_second * self.samples_per_clip,
            }
            self.say(progress_line(step, self.config.num_steps, values))
        self.writer.write("train", step, values, plot=report)
        if self.consecutive_skips >= self.config.max_consecutive_skips:
            self.writer.flush()
            checkpoint = "There is no checkpoint yet"
            if self.saved_step is not None:
                checkpoint = (
                    f"The last good checkpoint is of step {self.saved_step} in "
                    f"{self.workdir / 'checkpoints'}"
                )
            raise TrainingDivergedError(
                f"the last {self.consecutive_skips} steps up to step {step} were skipped: the loss "
                f"({values['bits_per_sample']:.4g} bits) or the gradient norm "
                f"({values['grad_norm']:.4g}) is not finite, or the norm is at least "
                f"train.skip_norm {self.config.skip_norm:g}. {checkpoint}; start again with a "
                f"lower --config.train.learning_rate (now {self.config.learning_rate:g})"
            )

    def say(self, text: str) -> None:
        if jax.process_index() == 0:
            _LOG.info(text)

    def close(self) -> None:
        self.checkpointer.close()
        self.writer.close()
        self.stop.restore_handlers()


class _Speed:
    """Seconds per step, without the first step's compilation, evaluations and checkpoints."""

    def __init__(self):
        self.started = False
        self._step, self._time = 0, 0.0

    def start(self, step: int) -> None:
        self.started = True
        self._step, self._time = step, time.monotonic()

    def leave_out(self, step: int) -> None:
        """Forgets what came before this step and moment."""
        if self.started:
            self.start(step)

    def seconds_per_step(self, step: int) -> float | None:
        """Mean since the last call, None if no step was timed."""
        if not self.started or step <= self._step:
            return None
        seconds = (time.monotonic() - self._time) / (step - self._step)
        self.start(step)
        return seconds
