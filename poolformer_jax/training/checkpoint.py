"""Checkpoints: everything a run needs to go on, and parameters alone for evaluation.

A checkpoint of step N is the folder N, written in the background and renamed when complete, so a
run that is killed while saving goes on from the one before. The latest two are kept, and the best
by its evaluation.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from poolformer_jax.training.state import TrainState

Weights = Literal["ema", "raw"]

Metrics = Mapping[str, float]
Rank = Callable[[Metrics], tuple[float, ...]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, beside its arrays.

    Attributes:
      examples_seen: Clips consumed by all processes together: the position in the data, whatever
        the number of processes.
      validation: Evaluation of the validation split at this very step, None if there was none.
      best: The best evaluation so far, None if there was none.
    """

    examples_seen: int = 0
    validation: Metrics | None = None
    best: Metrics | None = None


class Checkpointer:
    """Saves and restores checkpoints in a folder.

    Args:
      directory: Made if missing.
      rank: Orders evaluations; the smallest is the best.
    """

    def __init__(self, directory: pathlib.Path, rank: Rank):
        self._rank = rank
        policies = [
            checkpoint_managers.LatestN(2),
            checkpoint_managers.BestN(
                get_metric_fn=rank,
                reverse=True,  # Best is smallest.
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        standard = ocp.StandardCheckpointHandler
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            item_handlers={
                "params": standard(),
                "ema_params": standard(),
                "optimizer": standard(),
                "progress": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                # Without it metrics are not written, and a restarted run forgets which was best.
                best_fn=rank,
                best_mode="min",
            ),
        )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return self._manager.latest_step()

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the best evaluation, None if none was evaluated."""
        metrics = {step: self._manager.metrics(step) for step in self._manager.all_steps()}
        evaluated = {step: self._rank(found) for step, found in metrics.items() if found}
        return min(evaluated, key=evaluated.__getitem__) if evaluated else None

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts saving; returns when the arrays are copied, before they are on disk."""
        found = progress.validation
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                params=ocp.args.StandardSave(state.params),
                ema_params=ocp.args.StandardSave(state.ema_params),
                optimizer=ocp.args.StandardSave(_optimizer_part(state)),
                progress=ocp.args.JsonSave(dataclasses.asdict(progress)),
            ),
            metrics=found if found and all(map(math.isfinite, self._rank(found))) else None,
            force=True,
        )

    def add_validation(self, state: TrainState, progress: Progress) -> None:
        """Saves the latest checkpoint again, with an evaluation that it had not.

        Does nothing if it is the only one, which must not be lost if the process dies meanwhile.
        """
        self.wait()
        if len(self._manager.all_steps()) > 1:
            self._manager.delete(int(state.step))
            self.save(state, progress)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Progress]:
        """Restores the latest checkpoint into the given shapes, types and shardings.

        Raises:
          FileNotFoundError: If there is no checkpoint.
        """
        step = self._require(self.latest_step)
        items = self._manager.restore(
            step,
            args=ocp.args.Composite(
                params=ocp.args.StandardRestore(abstract.params),
                ema_params=ocp.args.StandardRestore(abstract.ema_params),
                optimizer=ocp.args.StandardRestore(_optimizer_part(abstract)),
                progress=ocp.args.JsonRestore(),
            ),
        )
        rest = {"statistics": None, **items.optimizer}
        return TrainState(params=items.params, ema_params=items.ema_params, **rest), Progress(
            **_current_progress(items.progress)
        )

    def restore_params(
        self, abstract_params: Any, *, step: int | None, weights: Weights = "ema"
    ) -> Any:
        """Restores parameters alone.

        Args:
          abstract_params: Shapes, types and shardings.
          step: Of the checkpoint; see `latest_step` and `best_step`.
          weights: The averaged parameters, or those that were trained.

        Raises:
          FileNotFoundError: If there is no such checkpoint.
        """
        item = "ema_params" if weights == "ema" else "params"
        args = ocp.args.Composite(**{item: ocp.args.StandardRestore(abstract_params)})
        return self._manager.restore(self._require(step), args=args)[item]

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees threads."""
        self._manager.close()

    def _require(self, step: int | None) -> int:
        if step is None or step not in self._manager.all_steps():
            raise FileNotFoundError(
                f"no checkpoint {'' if step is None else f'of step {step} '}in "
                f"{self._manager.directory}; complete ones: {list(self._manager.all_steps())}"
            )
        return step


def _current_progress(values: dict[str, Any]) -> dict[str, Any]:
    """Before evaluations were kept whole, progress had their bits alone."""
    if "validation_bits" not in values:
        return values
    bits = values["validation_bits"]
    validation = None if bits is None else {"bits_per_sample": bits}
    return {"examples_seen": values["examples_seen"], "validation": validation}


def _optimizer_part(state: TrainState) -> dict[str, Any]:
    part = {
        "step": state.step,
        "opt_state": state.opt_state,
        "skipped_steps": state.skipped_steps,
        "consecutive_skips": state.consecutive_skips,
    }
    return part if state.statistics is None else {**part, "statistics": state.statistics}
