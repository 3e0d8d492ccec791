"""Metrics of a run: metrics.jsonl (every step), TensorBoard, and the progress line."""

from __future__ import annotations

import datetime
import json
import logging
import math
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.summary import scalar

from poolformer_jax.buckets import AnyPath, bucket_errors, is_bucket
from poolformer_jax.files import free_path, write_whole
from poolformer_jax.training.errors import TrainingError
from poolformer_jax.training.metrics_file import METRICS_FILE, describe_lines, read_metrics

_LOG = logging.getLogger(__name__)

_SECONDS_TO_UPLOAD = 60.0  # Between two uploads of metrics to a bucket.


class MetricWriter:
    """Writes to `<workdir>/metrics.jsonl` and `<workdir>/tensorboard`.

    A run that resumes from a checkpoint computes again what came after it; what an interrupted run
    had written of that is removed first, so every step is there once. Values that are not finite
    are null in metrics.jsonl.

    Args:
      workdir: An existing folder.
      start_step: Step of the checkpoint that the run goes on from, None if there is none.
      validated: Whether the validation of that very step is part of the checkpoint.
      enabled: False on all processes but the first, where writing does nothing.

    Raises:
      TrainingError: If there is no checkpoint, but the log tells of one.
    """

    def __init__(
        self,
        workdir: AnyPath,
        *,
        start_step: int | None,
        validated: bool,
        enabled: bool = True,
    ):
        self._file = self._tensorboard = self._scratch = None
        self._disowned = False
        path = workdir / METRICS_FILE
        records, damaged = read_metrics(path)
        _check_fits(path, records, start_step)
        if not enabled:
            return
        if damaged:
            copy = free_path(path.with_name(f"damaged_{path.name}"))
            write_whole(copy, path.read_bytes())
            _LOG.warning("%s: left out of %s; as it was: %s", describe_lines(damaged), path, copy)
        self._workdir = here = workdir
        if is_bucket(workdir):  # Nothing can be appended there.
            self._scratch = tempfile.TemporaryDirectory(prefix="poolformer_metrics_")
            here = pathlib.Path(self._scratch.name)
            self._uploaded: dict[pathlib.Path, int] = {}
            self._uploaded_at = time.monotonic()
        _write_records_until(here / METRICS_FILE, records, start_step or 0, validated)
        self._file = open(here / METRICS_FILE, "a", encoding="utf-8")  # noqa: SIM115 (see close)
        # Not `SummaryWriter`: if the disk is full its thread dies, and the next value waits for it.
        events = here / "tensorboard"
        events.mkdir(exist_ok=True)
        self._tensorboard = EventsWriter(str(events / "events"))
        if start_step:  # TensorBoard is to forget what came after the checkpoint.
            start = SessionLog(status=SessionLog.START)
            event = Event(wall_time=time.time(), step=start_step + 1, session_log=start)
            self._tensorboard.write_event(event)

    def write(self, kind: str, step: int, values: Mapping[str, Any], *, plot: bool = True) -> None:
        """Writes one record.

        Args:
          kind: "train", "validation", or "checkpoint" when one is on disk.
          step: Steps so far.
          values: Numbers.
          plot: Whether the values go to TensorBoard too.
        """
        if self._file is None or self._tensorboard is None:
            return
        finite = {name: x if math.isfinite(x) else None for name, x in values.items()}
        self._file.write(json.dumps({"kind": kind, "step": step, **finite}) + "\n")
        if plot:
            for name, value in values.items():
                summary = scalar(f"{kind}/{name}", value)
                event = Event(wall_time=time.time(), step=step, summary=summary)
                self._tensorboard.write_event(event)

    def flush(self) -> None:
        """Hands everything written to the operating system, and now and then to a bucket."""
        if self._file is not None and self._tensorboard is not None:
            self._file.flush()
            self._tensorboard.flush()
            if self._scratch and time.monotonic() - self._uploaded_at > _SECONDS_TO_UPLOAD:
                try:
                    self.upload()
                except OSError as error:
                    self._uploaded_at = time.monotonic()
                    _LOG.warning("%s; the metrics are uploaded later", error)

    def upload(self) -> None:
        """Hands what was flushed to the bucket, if the workdir is in one.

        Raises:
          OSError: If the bucket cannot be written.
        """
        if self._scratch is None or self._disowned:
            return
        here = pathlib.Path(self._scratch.name)
        with bucket_errors("write", self._workdir):
            for path in sorted(here.rglob("*")):
                size = path.stat().st_size
                if path.is_file() and self._uploaded.get(path) != size:
                    write_whole(self._workdir / path.relative_to(here), path.read_bytes())
                    self._uploaded[path] = size
        self._uploaded_at = time.monotonic()

    def disown(self) -> None:
        """From now on uploads nothing: the workdir is another process's."""
        self._disowned = True

    def close(self) -> None:
        """Flushes and closes the files."""
        if self._file is not None and self._tensorboard is not None:
            self._file.close()
            self._tensorboard.close()
        self.upload()
        if self._scratch is not None:
            self._scratch.cleanup()


def progress_line(step: int, num_steps: int, description: str, values: Mapping[str, float]) -> str:
    """One line that a person reads: loss, gradient norm, rate, skips, speed, time left."""
    seconds_left = (num_steps - step) * values["seconds_per_step"]
    left = datetime.timedelta(seconds=round(seconds_left))
    return (
        f"step {step:>{len(str(num_steps))}}/{num_steps}"
        f" | {description}"
        f" | gradient {values['grad_norm']:.3g}"
        f" | lr {values['learning_rate']:.2e}"
        f" | skipped {int(values['skipped_steps'])}"
        f" | {values['clips_per_second']:.1f} clips/s"
        f" | {values['samples_per_second']:,.0f} samples/s"
        f" | {left} left"
    )


def _check_fits(path: AnyPath, records: Sequence[dict[str, Any]], step: int | None) -> None:
    """Compares the log with the checkpoint that a run goes on from; errors as `MetricWriter`."""
    folder = path.with_name("checkpoints")
    told = [record["step"] for record in records if record["kind"] == "checkpoint"]
    if step is None and not told and not any(folder.glob("*")):
        # Earlier versions did not note them, but saved after each validation. What a killed
        # process was saving is left in the folder.
        told = [r["step"] for r in records if r["kind"] == "validation" and r["step"] > 0]
    if step is None and told:
        raise TrainingError(
            f"{path} tells of a checkpoint of step {max(told)}, but {folder} holds none; bring it "
            "back, or start again from step 0 with --restart, which keeps the old log"
        )
    if step is not None and max(told, default=0) > step:
        _LOG.warning(
            "%s tells of a checkpoint of step %d, which is not in %s any more: going on from step "
            "%d, from which on the log is written anew",
            *(path, max(told), folder, step),
        )
    if step and not records:
        _LOG.warning("%s is missing or empty: the log begins after step %d", path, step)


def _write_records_until(
    path: AnyPath, records: Sequence[dict[str, Any]], step: int, validated: bool
) -> None:
    # The record of the checkpoint that the run goes on from is written again.
    later = {"train": step + 1, "validation": step + validated, "checkpoint": step}
    kept = [record for record in records if record["step"] < later.get(record["kind"], step)]
    write_whole(path, "".join(json.dumps(record) + "\n" for record in kept))
