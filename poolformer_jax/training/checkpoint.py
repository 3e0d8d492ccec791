"""Checkpoints: everything a run needs to go on, and parameters alone for evaluation.

A checkpoint of step N is the folder N, written in the background and renamed when complete, so a
run that is killed while saving goes on from the one before. The latest two are kept, and the best
by its evaluation.

Each carries checksums of what was in memory, and what is restored is compared with them. Where a
checkpoint turns out to be damaged, the one before takes its place; nothing damaged is deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils

from poolformer_jax.buckets import AnyPath, is_bucket, is_of_a_bucket, move
from poolformer_jax.files import free_path
from poolformer_jax.training.checksum import checksum_arrays, describe_arrays
from poolformer_jax.training.errors import DamagedCheckpointError, TrainingError
from poolformer_jax.training.state import TrainState

_LOG = logging.getLogger(__name__)

Weights = Literal["ema", "raw"]

Metrics = Mapping[str, float]
Rank = Callable[[Metrics], tuple[float, ...]]

# What errors begin with that say nothing about the files, but that they cannot be read now.
_NO_DAMAGE = re.compile(
    "(PERMISSION_DENIED|UNAUTHENTICATED|UNAVAILABLE|DEADLINE|RESOURCE_EXHAUSTED|ABORTED)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """Where a run stands, beside its arrays.

    Attributes:
      examples_seen: Clips consumed by all processes together: the position in the data, whatever
        the number of processes.
      validation: Evaluation of the validation split at this very step, None if there was none.
      first: The first evaluation of the run with a finite result, None if there was none.
      best: The best evaluation so far, None if there was none.
    """

    examples_seen: int = 0
    validation: Metrics | None = None
    first: Metrics | None = None
    best: Metrics | None = None


@dataclasses.dataclass(frozen=True)
class _Record:
    """What is known of a checkpoint before its arrays are read; its checksums by item.

    Checkpoints of earlier versions have no checksums.
    """

    progress: Progress
    checksums: Mapping[str, Mapping[str, str]] | None


def complete_steps(folder: AnyPath) -> list[int]:
    """Steps of the checkpoints in a folder, ascending, without those that were not finished."""
    return sorted(ocp.utils.checkpoint_steps(str(folder)))


class Checkpointer:
    """Saves and restores checkpoints in a folder.

    Args:
      directory: Made if missing; may be in a bucket.
      rank: Orders evaluations; the smallest is the best.
      read_only: For those who evaluate a run, which may be training at the same time.
    """

    def __init__(self, directory: AnyPath, rank: Rank, *, read_only: bool = False):
        self._rank = rank
        self._directory = directory if is_bucket(directory) else directory.absolute()
        standard = ocp.StandardCheckpointHandler
        self._manager = ocp.CheckpointManager(
            self._directory,
            item_handlers={
                "params": standard(),
                "ema_params": standard(),
                "optimizer": standard(),
                "progress": ocp.JsonCheckpointHandler(),
            },
            options=ocp.CheckpointManagerOptions(preservation_policy=self, read_only=read_only),
        )
        self._records: dict[int, _Record | DamagedCheckpointError] = {}
        self._layouts: dict[str, str] = {}
        self._read_records()

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """Tells the manager which checkpoints to keep: the latest two and the best."""
        del context
        keep = {*sorted(info.step for info in checkpoints)[-2:], self.best_step}
        return [info.step in keep for info in checkpoints]

    @property
    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, ascending."""
        return sorted(self._manager.all_steps())

    @property
    def latest_step(self) -> int | None:
        """Step of the newest complete checkpoint, None if there is none."""
        return max(self.steps, default=None)

    @property
    def best_step(self) -> int | None:
        """Step of the checkpoint with the best evaluation, None if none was evaluated."""
        return next(iter(self._steps_by_rank()), None)

    @property
    def saved_steps(self) -> list[int]:
        """Steps of the checkpoints that are on disk; `steps` has one as soon as saving starts."""
        saving = self.latest_step if self._manager.is_saving_in_progress() else None
        complete = complete_steps(self._directory)
        return [n for n in self.steps if n != saving and n in complete]

    def save(self, state: TrainState, progress: Progress) -> None:
        """Starts saving; returns when the arrays are copied, before they are on disk."""
        step, items = int(state.step), arrays_of(state)
        # They stay the same.
        self._layouts = self._layouts or {n: describe_arrays(tree) for n, tree in items.items()}
        checksums = {
            name: {"arrays": self._layouts[name], "values": checksum_arrays(tree)}
            for name, tree in items.items()
        }
        content = {"progress": dataclasses.asdict(progress), "checksums": checksums}
        self._records = {n: self._records[n] for n in self.steps if n in self._records}
        self._records[step] = _Record(progress, checksums)
        self._manager.save(
            step,
            args=ocp.args.Composite(
                **{name: ocp.args.StandardSave(tree) for name, tree in items.items()},
                progress=ocp.args.JsonSave(content | {"sha256": _digest(content)}),
            ),
            force=True,
        )

    def add_validation(self, state: TrainState, progress: Progress) -> None:
        """Saves the latest checkpoint again, with an evaluation that it had not.

        Does nothing if it is the only one, which must not be lost if the process dies meanwhile.
        """
        self.wait()
        if len(self.steps) > 1:
            self._manager.delete(int(state.step))
            self.save(state, progress)

    def restore(self, abstract: TrainState) -> tuple[TrainState, Progress] | None:
        """Restores the latest good checkpoint into the given shapes, types and shardings.

        Damaged ones are moved to `damaged_checkpoints`, beside the folder.

        Returns:
          None if there is no checkpoint.

        Raises:
          DamagedCheckpointError: If all are damaged; they stay where they are.
          TrainingError: If it was saved from a state of another structure.
        """
        found, damaged = self._first_good(self.steps[::-1], arrays_of(abstract))
        if found is None:
            if not damaged:
                return None
            raise DamagedCheckpointError(
                f"no good checkpoint is left in {self._directory}: {damaged} are damaged; bring "
                "one back from a copy, or start again from step 0 with --restart"
            )
        step, items = found
        broken = [n for n, record in self._records.items() if isinstance(record, Exception)]
        self._set_aside(sorted({*damaged, *broken}))
        rest = {"statistics": None, **items["optimizer"]}
        state = TrainState(params=items["params"], ema_params=items["ema_params"], **rest)
        return state, self._record(step).progress

    def restore_params(
        self, abstract_params: Any, *, step: int | Literal["best", "latest"], weights: Weights
    ) -> tuple[Any, int]:
        """Restores parameters alone; in place of a damaged best or latest one, the next.

        Args:
          abstract_params: Shapes, types and shardings.
          step: Of the checkpoint; the best is the latest if none was evaluated.
          weights: The averaged parameters, or those that were trained.

        Returns:
          (parameters, the checkpoint's step).

        Raises:
          FileNotFoundError: If there is no such checkpoint.
          DamagedCheckpointError: If none of them is good.
        """
        item = "ema_params" if weights == "ema" else "params"
        for _ in range(3):  # A training may delete those that were listed.
            steps: Sequence[int] = self.steps[::-1]
            if step == "best":
                ranked = self._steps_by_rank()
                steps = [*ranked, *(n for n in steps if n not in ranked)]
            elif step != "latest":
                steps = [step] if step in steps else []
            found, damaged = self._first_good(steps, {item: abstract_params})
            if found is not None:
                return found[1][item], found[0]
            if damaged:
                others = sorted({*self.steps} - {*damaged})
                raise DamagedCheckpointError(
                    f"{damaged} in {self._directory} are damaged; other checkpoints: {others}"
                )
            self._manager.reload()
            self._read_records()
        name = f"of step {step} " if isinstance(step, int) else ""
        raise FileNotFoundError(
            f"no checkpoint {name}in {self._directory}; complete ones: {self.steps}"
        )

    def wait(self) -> None:
        """Returns when all that was saved is on disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then frees threads."""
        self._manager.close()

    def _first_good(
        self, steps: Iterable[int], abstract: Mapping[str, Any]
    ) -> tuple[tuple[int, dict[str, Any]] | None, list[int]]:
        """Restores from the first checkpoint that is whole, and lists those that were not."""
        damaged = []
        for step in steps:
            try:
                items = self._restore(step, abstract)
            except FileNotFoundError:
                continue  # Deleted since it was listed.
            except DamagedCheckpointError as error:
                if not isinstance(self._records[step], Exception):  # It was not told of yet.
                    _warn("%s", error)
                damaged.append(step)
                continue
            if damaged:
                _warn("the checkpoint of step %d takes its place", step)
            return (step, items), damaged
        return None, damaged

    def _restore(self, step: int, abstract: Mapping[str, Any]) -> dict[str, Any]:
        """Restores items by name, and compares them with their checksums."""
        checksums = self._record(step).checksums or {}
        if not checksums:
            _LOG.info("the checkpoint of step %d is of an earlier version: no checksums", step)
        for name in checksums.keys() & abstract.keys():
            if checksums[name]["arrays"] != describe_arrays(abstract[name]):
                raise self._other_arrays(step)
        args = {name: ocp.args.StandardRestore(tree) for name, tree in abstract.items()}
        items, damage = {}, ""
        try:
            items = dict(self._manager.restore(step, args=ocp.args.Composite(**args)).items())
        except Exception as error:  # Orbax and TensorStore raise all kinds.
            damage = self._describe_damage(step, error)
            if not checksums and "structure" in damage:
                raise self._other_arrays(step) from error
        # All processes come here, and all compute the checksums or none does.
        if damage := _of_any_process(damage):
            raise self._damaged(step, damage)
        for name in sorted(checksums.keys() & items.keys()):
            if checksums[name]["values"] != checksum_arrays(items[name]):
                damage = f"{name} is not what was saved"
        if damage := _of_any_process(damage):
            raise self._damaged(step, damage)
        return items

    def _record(self, step: int) -> _Record:
        record = self._records.get(step)
        if record is None:
            raise FileNotFoundError(f"{self._directory / str(step)} was deleted")
        if isinstance(record, DamagedCheckpointError):
            raise record
        return record

    def _read_records(self) -> None:
        """Reads what is known of each checkpoint, and tells of those that are damaged."""
        self._records = {}
        for step in self.steps:
            try:
                self._records[step] = self._read_record(step)
            except FileNotFoundError:
                continue  # Deleted since it was listed.
            except DamagedCheckpointError as error:
                _warn("%s", error)
                self._records[step] = error

    def _read_record(self, step: int) -> _Record:
        damage, content = "", {}
        try:
            # Not through the manager, where processes would wait for each other.
            folder = epath.Path(str(self._directory / str(step) / "progress"))
            content = dict(ocp.JsonCheckpointHandler().restore(folder))
            if content.pop("sha256", None) != _digest(content) and "examples_seen" not in content:
                damage = "progress is not what was saved"
        except Exception as error:  # As in `_restore`.
            damage = self._describe_damage(step, error)
        if damage := _of_any_process(damage):
            raise self._damaged(step, damage)
        if "examples_seen" in content:
            return _Record(Progress(**_current_progress(content)), None)
        return _Record(Progress(**content["progress"]), content["checksums"])

    def _describe_damage(self, step: int, error: Exception) -> str:
        """What an error of reading says of the files; raises it if that is nothing."""
        if not (self._directory / str(step)).is_dir():
            raise FileNotFoundError(f"{self._directory / str(step)} was deleted") from error
        is_missing = isinstance(error, (FileNotFoundError, NotADirectoryError))
        unreadable = isinstance(error, (MemoryError, OSError, jax.errors.JaxRuntimeError))
        unreachable = is_of_a_bucket(error) or _NO_DAMAGE.match(str(error))
        if (unreadable and not is_missing) or unreachable:
            raise error
        return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:150]}"

    def _damaged(self, step: int, damage: str) -> DamagedCheckpointError:
        path = self._directory / str(step)
        return DamagedCheckpointError(f"the checkpoint {path} is damaged: {damage}")

    def _other_arrays(self, step: int) -> TrainingError:
        return TrainingError(
            f"the checkpoint of step {step} in {self._directory} holds other arrays than this "
            "configuration makes; take the old values of train.optimizer, train.schedule and "
            "train.clip_norm, or another --workdir"
        )

    def _steps_by_rank(self) -> list[int]:
        """Steps of the checkpoints with a finite evaluation, the best first."""
        ranks = {}
        for step in self.steps:
            record = self._records.get(step)
            found = record.progress.validation if isinstance(record, _Record) else None
            if found and all(map(math.isfinite, self._rank(found))):
                ranks[step] = self._rank(found)
        return sorted(ranks, key=ranks.__getitem__)

    def _set_aside(self, steps: Sequence[int]) -> None:
        """Moves checkpoints out of the way of the next ones of these steps."""
        if not steps:
            return
        if jax.process_index() == 0:
            folder = self._directory.with_name(f"damaged_{self._directory.name}")
            folder.mkdir(exist_ok=True)
            for step in steps:
                target = free_path(folder / str(step))
                move(self._directory / str(step), target)
                _warn("the damaged checkpoint of step %d is kept as %s", step, target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()
        for step in steps:
            del self._records[step]


def _of_any_process(damage: str) -> str:
    """The damage that this process found, or that another did; all have to call it."""
    if jax.process_count() == 1:
        return damage
    found = multihost_utils.process_allgather(np.asarray(bool(damage))).any()
    return damage or ("another process cannot read it" if found else "")


def _warn(text: str, *values: object) -> None:
    if jax.process_index() == 0:
        _LOG.warning(text, *values)


def arrays_of(state: TrainState) -> dict[str, Any]:
    """The arrays of a state, as they are kept."""
    names = ["step", "opt_state", "skipped_steps", "consecutive_skips"]
    names += [] if state.statistics is None else ["statistics"]
    optimizer = {name: getattr(state, name) for name in names}
    return {"params": state.params, "ema_params": state.ema_params, "optimizer": optimizer}


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _current_progress(values: dict[str, Any]) -> dict[str, Any]:
    """Before evaluations were kept whole, progress had their bits alone."""
    if "validation_bits" not in values:
        return values
    bits = values["validation_bits"]
    validation = None if bits is None else {"bits_per_sample": bits}
    return {"examples_seen": values["examples_seen"], "validation": validation}
