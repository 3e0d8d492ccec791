"""The trainer: what a run carries from step to step, and what can be done with it."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from poolformer_jax import sharding
from poolformer_jax.buckets import AnyPath
from poolformer_jax.disk_full import disk_full_error, is_disk_full
from poolformer_jax.interruption import StopRequest
from poolformer_jax.lock import LockedError
from poolformer_jax.training.checkpoint import Checkpointer, Progress, complete_steps
from poolformer_jax.training.config import TrainConfig
from poolformer_jax.training.errors import TrainingDivergedError
from poolformer_jax.training.metrics import MetricWriter, progress_line
from poolformer_jax.training.objective import Objective
from poolformer_jax.training.optimizer import after_evaluation
from poolformer_jax.training.profiling import Profiler
from poolformer_jax.training.state import TrainState, init_train_state
from poolformer_jax.training.step import make_train_step

_LOG = logging.getLogger(__name__)

# Steps whose results may be outstanding: enough to keep an accelerator busy, and few enough for
# the CPU back end, whose collectives deadlock with about 48 steps in flight.
MAX_STEPS_IN_FLIGHT = 8

# Batches that wait on the devices: whenever a step ends, the next one can begin.
BATCHES_AHEAD = 2

Batches = Callable[[int], Iterator[Mapping[str, np.ndarray]]]
"""From the number of examples seen by all processes to this process's batches."""


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How training ended: at which step, and whether that is the end of the run."""

    step: int
    finished: bool


class Trainer:
    """A run, at the start or where the latest checkpoint in the workdir left it.

    Args:
      objective: What is trained.
      config: Recipe.
      mesh: All devices.
      batches: From the number of examples seen by all processes to this process's batches.
      workdir: An existing folder for checkpoints and metrics.
      on_best: Called with the state after an evaluation that is the best so far.
      check_workdir: Called before the workdir is written; raises if it is another's by now.
      rules: How parameters are sharded.
      profile_steps: The first and the last step of a trace; None writes none.
      on_log: Called with the step on the first process, after a line of progress or an evaluation
        was written down; after an error no more.
    """

    def __init__(
        self,
        objective: Objective,
        config: TrainConfig,
        *,
        mesh: Mesh,
        batches: Batches,
        workdir: AnyPath,
        on_best: Callable[[TrainState, Mapping[str, float]], None] = lambda state, metrics: None,
        check_workdir: Callable[[], None] = lambda: None,
        rules: sharding.Rules = sharding.REPLICATED,
        profile_steps: tuple[int, int] | None = None,
        on_log: Callable[[int], None] = lambda step: None,
    ):
        self.on_log = on_log if jax.process_index() == 0 else lambda step: None
        self.objective = objective
        self.config = config
        self.mesh = mesh
        self.workdir = workdir
        self.on_best = on_best
        self.check_workdir = check_workdir
        self.checkpointer = Checkpointer(workdir / "checkpoints", objective.rank)

        init = functools.partial(init_train_state, objective, config)
        abstract = sharding.abstract_state(mesh, init, rules)
        restored = self.checkpointer.restore(abstract)
        self.saved_step = None if restored is None else int(restored[0].step)
        self.saved_at = time.monotonic()
        self.writer = MetricWriter(
            workdir,
            start_step=self.saved_step,
            validated=restored is not None and restored[1].validation is not None,
            enabled=jax.process_index() == 0,
        )
        if restored is None:
            self.state: TrainState = sharding.init_sharded(mesh, init, rules)
            self.progress = Progress()
        else:
            self.state, self.progress = restored
        self.step = int(self.state.step)
        self.skipped_before = int(self.state.skipped_steps), self.step
        self.unnoted = set() if restored is None else {self.step}
        self.train_step = sharding.jit_train_step(
            make_train_step(objective, config), mesh, abstract, plain_sums=objective.plain_sums
        )
        self.batches = batches(self.progress.examples_seen)
        self.ready: deque[tuple[dict[str, jax.Array], int] | Exception] = deque()
        self.pending: deque[tuple[int, dict[str, jax.Array]]] = deque()
        self.speed = _Speed()
        self.profiler = Profiler(
            workdir / "profile",
            profile_steps,
            start_step=self.step,
            wait=self.collect,
            say=self.say,
        )
        self.consecutive_skips = 0
        self.stopping = False
        self.stop = StopRequest()

    def __enter__(self) -> Trainer:
        """Listens to signals, and says where the run stands."""
        self.stop.__enter__()
        if self.step:
            self.say(f"resuming from the checkpoint of step {self.step} in {self.workdir}")
        if self.at_end:
            self.say(
                f"nothing to do: step {self.step} of train.num_steps {self.config.num_steps} is "
                "done; raise train.num_steps to train on"
            )
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Waits for the last checkpoint, and closes the files.

        Raises:
          DiskFullError: If any of it, or the error that it ends with, comes from a full disk.
        """
        errors = [] if error is None else [error]
        if isinstance(error, LockedError):
            self.writer.disown()
        closers = (
            self.profiler.close,
            self.checkpointer.close,
            self.note_checkpoints,
            self.writer.close,
        )
        for close in closers:
            try:
                close()
            except Exception as fault:  # Each storage raises errors of its own.
                errors.append(fault)
        self.stop.__exit__()
        if full := next(filter(is_disk_full, errors), None):
            raise disk_full_error(self.workdir, self._describe_checkpoint()) from full
        if error is None and errors:
            raise errors[0]

    @property
    def at_end(self) -> bool:
        """Whether the last step is done."""
        return self.step >= self.config.num_steps

    @property
    def outcome(self) -> Outcome | None:
        """How the run has ended; None while it goes on."""
        if self.at_end or self.stopping:
            return Outcome(self.step, finished=self.at_end)
        return None

    @property
    def evaluation_is_due(self) -> bool:
        """Before the first step, every `eval_every` steps, and at the end."""
        due = self.step % self.config.eval_every == 0 or self.at_end
        return due and not self.stopping and self.progress.validation is None

    def checkpoint_is_due(self) -> bool:
        """Every `checkpoint_every` steps, after evaluations, at the end, and when asked to stop.

        Also at the first line of progress after `checkpoint_minutes`, by the clock of process 0.
        """
        if self.at_end or self.stopping or not self.step:
            return self.at_end or self.stopping
        if self.step % self.config.checkpoint_every == 0 or self.progress.validation is not None:
            return True
        minutes = self.config.checkpoint_minutes
        if minutes is None or not self.report_is_due(self.step):
            return False
        waited = np.array(time.monotonic() - self.saved_at)
        return bool(multihost_utils.broadcast_one_to_all(waited) >= 60 * minutes)

    def check_stop(self) -> None:
        """Asks all processes whether the run is to stop at this step."""
        self.check_workdir()
        self._set_stopping(self.stop.at_step(self.step))

    def evaluate(self) -> None:
        """Evaluates the averaged parameters, unless a signal comes meanwhile."""
        self.collect()
        start = time.monotonic()
        result = self.objective.evaluate(
            self.state.ema_params, self.state.statistics, self.stop.together
        )
        self.check_workdir()
        if result is not None:
            self._judge(result, time.monotonic() - start)
            self._tell()
            self.speed.leave_out(self.step)
        self._set_stopping(self.stop.agreed)

    def save(self) -> None:
        """Starts saving, unless this step is saved or the last steps were skipped."""
        if self.saved_step == self.step:
            return
        self.check_workdir()
        # Every step that the checkpoint contains is on disk before it.
        self.collect()
        self.writer.upload()
        if self.consecutive_skips and self.outcome is None:
            return  # The parameters may be the fault: keep the checkpoints from before.
        self.checkpointer.save(self.state, self.progress)
        self.saved_step, self.saved_at = self.step, time.monotonic()
        self.unnoted.add(self.step)
        self.speed.leave_out(self.step)

    def take_step(self) -> None:
        """Trains on the next batch."""
        with self.profiler.step(self.step + 1):
            self._take_step()
        if self.step + 1 == self.profiler.steps.stop:  # It took time to write the trace.
            self.speed.leave_out(self.step)

    def _take_step(self) -> None:
        if not self.ready:
            self.load_batch()
        ready = self.ready.popleft()
        if isinstance(ready, Exception):
            raise ready
        batch, self.samples_per_clip = ready
        self.state, metrics = self.train_step(self.state, batch)
        self.step += 1
        self.progress = dataclasses.replace(
            self.progress,
            examples_seen=self.progress.examples_seen + self.config.batch_size,
            validation=None,
        )
        self.pending.append((self.step, metrics))
        # Now, while the devices are at work, and before anything waits for them.
        while len(self.ready) < min(BATCHES_AHEAD, self.config.num_steps - self.step):
            self.load_batch()
        if not self.speed.started:  # The first step contains the compilation.
            self.collect()
            self.speed.start(self.step)
        elif self.report_is_due(self.step):
            self.collect()
            self._tell()
            self.speed.leave_out(self.step)
        elif len(self.pending) > MAX_STEPS_IN_FLIGHT:
            self.write_oldest()

    def load_batch(self) -> None:
        """Reads a batch and begins to copy it; an error is for the step that needs the batch."""
        try:
            local_batch = next(self.batches)
            samples_per_clip = max(x.shape[1] for x in local_batch.values() if x.ndim == 2)
            self.ready.append((sharding.put_batch(self.mesh, local_batch), samples_per_clip))
        except Exception as error:  # Raised by `take_step`.
            self.ready.append(error)

    def report_is_due(self, step: int) -> bool:
        """Whether a step gets a line of progress."""
        return step % self.config.log_every == 0 or step == self.config.num_steps

    def collect(self) -> None:
        """Waits for all steps, and writes them down."""
        while self.pending:
            self.write_oldest()
        self.note_checkpoints()
        self.writer.flush()

    def note_checkpoints(self) -> None:
        """Writes down which checkpoints are on disk: the log shows if they are lost."""
        saved = self.checkpointer.saved_steps if self.unnoted else []
        for step in sorted(self.unnoted.intersection(saved)):
            self.writer.write("checkpoint", step, {}, plot=False)
        # What is older was deleted meanwhile.
        self.unnoted = {step for step in self.unnoted if step > max(saved, default=-1)}

    def conclude(self) -> Outcome:
        """Says at the end what may have gone wrong in the run.

        Raises:
          TrainingDivergedError: If every step was skipped.
        """
        outcome = self.outcome
        assert outcome is not None
        if not outcome.finished:
            return outcome
        skipped_before, start = self.skipped_before
        skipped, steps = int(self.state.skipped_steps) - skipped_before, self.step - start
        hint = f"a lower --config.train.learning_rate (now {self.config.learning_rate:g}) may help"
        if steps and skipped == steps:
            raise TrainingDivergedError(
                f"all {steps} steps since step {start} were skipped, nothing was learnt; {hint}"
            )
        if 2 * skipped > steps:
            self.warn(f"{skipped} of {steps} steps were skipped; {hint}")
        first, last = self.progress.first, self.progress.validation
        if first and last and not self.objective.rank(last) <= self.objective.rank(first):
            before, after = map(self.objective.describe, (first, last))
            if self.config.sampled_inputs:
                hint = "train.sampled_inputs gives up bits for what is drawn, so listen to it"
            self.warn(f"the last validation ({after}) is worse than the first ({before}); {hint}")
        return outcome

    def write_oldest(self) -> None:
        """Waits for the oldest step that is not written down."""
        step, metrics = self.pending.popleft()
        values: dict[str, Any] = {name: np.asarray(x).item() for name, x in metrics.items()}
        self.consecutive_skips = values.pop("consecutive_skips")
        report = self.report_is_due(step)
        if report and (seconds := self.speed.seconds_per_step(step)) is not None:
            clips_per_second = self.config.batch_size / seconds
            values |= {
                "seconds_per_step": seconds,
                "clips_per_second": clips_per_second,
                "samples_per_second": clips_per_second * self.samples_per_clip,
            }
            description = self.objective.describe(values)
            self.say(progress_line(step, self.config.num_steps, description, values))
        self.writer.write("train", step, values, plot=report)
        if self.consecutive_skips >= self.config.max_consecutive_skips:
            self.writer.flush()
            raise TrainingDivergedError(self._describe_divergence(step, values))

    def say(self, text: str) -> None:
        """Logs, on one process."""
        if jax.process_index() == 0:
            _LOG.info(text)

    def warn(self, text: str) -> None:
        """Logs a warning, on one process."""
        if jax.process_index() == 0:
            _LOG.warning(text)

    def _tell(self) -> None:
        """Calls `on_log`; a fault in it, such as of a plot, is no reason to end a run."""
        try:
            self.on_log(self.step)
        except Exception as error:
            self.warn(f"on_log failed and is not called again: {type(error).__name__}: {error}")
            self.on_log = lambda step: None

    def _judge(self, result: Mapping[str, float], seconds: float) -> None:
        """Writes an evaluation down, and what follows from it."""
        objective, best = self.objective, self.progress.best
        rank = objective.rank(result)
        is_finite = all(map(math.isfinite, rank))
        is_best = is_finite and (best is None or rank < objective.rank(best))
        opt_state = after_evaluation(self.config, self.state.opt_state, result[objective.loss_name])
        self.state = dataclasses.replace(self.state, opt_state=opt_state)
        self.progress = dataclasses.replace(
            self.progress,
            validation=result,
            first=self.progress.first or (result if is_finite else None),
            best=result if is_best else best,
        )
        if is_best:
            self.on_best(self.state, result)
        self.writer.write("validation", self.step, result)
        self.writer.flush()
        if self.saved_step == self.step:  # Stopped before it was evaluated, and resumed.
            self.writer.upload()
            self.checkpointer.add_validation(self.state, self.progress)
        self.say(
            f"step {self.step} | validation {objective.describe(result)}"
            f"{' (best)' if is_best and best else ''} ({seconds:.1f} s)"
        )

    def _set_stopping(self, stopping: bool) -> None:
        if stopping and not self.stopping:
            self.say(f"asked to stop: saving a checkpoint of step {self.step}")
        self.stopping = stopping

    def _describe_checkpoint(self) -> str:
        """Says which is the last that is complete, whatever Orbax thinks after an error."""
        folder = self.workdir / "checkpoints"
        steps = complete_steps(folder)
        if not steps:
            return "there is no checkpoint yet"
        return f"the last checkpoint, of step {steps[-1]} in {folder}, is intact"

    def _describe_divergence(self, step: int, values: Mapping[str, float]) -> str:
        config, name = self.config, self.objective.loss_name
        checkpoint = "There is no checkpoint yet"
        if self.saved_step is not None:
            checkpoint = (
                f"The last good checkpoint is of step {self.saved_step} in "
                f"{self.workdir / 'checkpoints'}"
            )
        limit = ""
        if config.skip_norm is not None:
            limit = f", or the norm is at least train.skip_norm {config.skip_norm:g}"
        return (
            f"the last {self.consecutive_skips} steps up to step {step} were skipped: the loss "
            f"({name} {values[name]:.4g}) or the gradient norm ({values['grad_norm']:.4g}) is not "
            f"finite{limit}. {checkpoint}; start again with a lower --config.train.learning_rate "
            f"(now {config.learning_rate:g})"
        )


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
