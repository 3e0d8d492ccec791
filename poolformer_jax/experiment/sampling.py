"""Fills a folder with clips of a run's model; several hosts may fill it together."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import os
import pathlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from poolformer_jax import interruption
from poolformer_jax.audio.codec import decode, encode
from poolformer_jax.buckets import is_bucket
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.disk_full import disk_full_errors
from poolformer_jax.experiment.conditions import check_amount, choose_label, read_prompt
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.hosts import Distributed, agree, errors_of_all, run_facts
from poolformer_jax.experiment.pages import offer_sample_page
from poolformer_jax.experiment.paths import local_path, with_data_dir, workdir_path
from poolformer_jax.experiment.workdir import read_experiment
from poolformer_jax.lock import release_at_end, take_lock
from poolformer_jax.ops.draw import Draw
from poolformer_jax.sampling.folder import check_folder

if TYPE_CHECKING:
    from poolformer_jax.sampling.folder import SampleFolder

_LOG = logging.getLogger(__name__)


@release_at_end()
@interruption.keeps("no clip was drawn; those that were there are kept")
def sample(
    workdir: str | os.PathLike[str],
    out: str | os.PathLike[str] | None = None,
    *,
    num_clips: int = 16,
    length: int | None = None,
    draw: Draw | None = None,
    label: int | str | None = None,
    prompt: str | os.PathLike[str] | None = None,
    prompt_length: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    step: int | str = "best",
    weights: Literal["ema", "raw"] = "ema",
    num_real: int = 0,
    data_dir: str | None = None,
    overwrite: bool = False,
    distributed: Distributed | bool = False,
    devices: Sequence[Any] | None = None,
) -> pathlib.Path:
    """Draws the clips that a folder lacks, and writes their table and a page.

    Args:
      workdir: Of the run.
      out: Folder of the clips, see `SampleFolder`; `<workdir>/samples` if None.
      num_clips: Clips that are there in the end.
      length: Samples of a clip, prompt included; data.seq_len if None.
      draw: Temperature, restriction, guidance.
      label: Class of the clips, in a model with classes; "cycle" takes each in turn.
      prompt: WAV file whose beginning every clip continues.
      prompt_length: How much of it, in samples; all if None.
      batch_size: Clips drawn side by side, over all devices; about 16 if None.
      seed: Of the draw; with a clip's number it decides the clip's randomness.
      step: Of the checkpoint, see `restore_params`.
      weights: The averaged parameters, or those that were trained.
      num_real: Validation clips to write beside, as the model hears them; with `label`, in turn of
        the classes that are drawn.
      data_dir: Folder of data sets, if it is another than the run's.
      overwrite: Whether to replace the clips of another draw; files of others are kept.
      distributed: Whether, or how, to connect several processes first; they all do the same.
      devices: What to draw on; all devices if None.

    Returns:
      The folder.

    Raises:
      UserError: Before anything is compiled, if something is missing or does not fit, or the folder
        holds clips of another draw, or files of others where clips will be; later if a clip cannot
        be written, or another process of the pod failed.
      FloatingPointError: If logits are not finite; the batches before are in the folder.
    """
    draw = draw or Draw()
    with errors_of_all(distributed):
        workdir = workdir_path(workdir)
        if out is None and is_bucket(workdir):
            raise ValueError("clips are not written into a bucket; name a folder as --out")
        out = workdir / "samples" if out is None else local_path("out", out)
        experiment: Experiment = read_experiment(workdir)
        data = with_data_dir(experiment.data, data_dir)
        length = data.seq_len if length is None else length
        check_amount(num_clips, length, batch_size=batch_size, out=out)
        label_of = choose_label(experiment, label, draw)
        codes = read_prompt(prompt, prompt_length, data=data, length=length)
        check_folder(out, num_clips=num_clips, num_real=num_real)
        prompt_sha256 = None if codes is None else hashlib.sha256(codes.tobytes()).hexdigest()
    agree(
        distributed,
        lambda: {
            **run_facts(workdir, experiment),
            **dataclasses.asdict(draw),
            "num_samples": num_clips,
            "length": length,
            "label": label,
            "prompt_sha256": prompt_sha256,
            "batch_size": batch_size,
            "seed": seed,
            "step": step,
            "weights": weights,
            "overwrite": overwrite,
        },
    )

    # Only now the imports of JAX and checkpoints, which take seconds.
    import jax
    from jax.experimental import multihost_utils

    from poolformer_jax import sharding
    from poolformer_jax.experiment.clips import drawing_model
    from poolformer_jax.experiment.progress import drawing_bar, format_speed
    from poolformer_jax.experiment.restore import make_reading_mesh, restore_params
    from poolformer_jax.sampling.clips import draw_samples, hash_params

    mesh, model = make_reading_mesh(experiment, devices), drawing_model(experiment)
    process, num_processes = jax.process_index(), jax.process_count()
    with errors_of_all(distributed):
        batch_size = _choose_batch_size(batch_size, num_clips, mesh)
        real = _read_real(data, num_real, label_of) if process == 0 else []
    agree(distributed, dict, after_work=True)
    with user_errors():
        params, number = restore_params(workdir, experiment, mesh, step=step, weights=weights)
        # From here on every process is on its own, with its devices and its share of the clips.
        mesh = sharding.make_mesh(devices=mesh.local_devices)
        params = sharding.copy_to(mesh, params)
        settings = {
            "step": number,
            "weights": weights,
            "parameters_sha256": hash_params(params),
            "seed": seed,
            "length": length,
            "sample_rate": SAMPLE_RATE,
            "codec": data.codec,
            "label": None if label is None else str(label),
            **dataclasses.asdict(draw),
            "prompt_length": 0 if codes is None else len(codes),
            "prompt_sha256": prompt_sha256,
        }
    with errors_of_all(distributed):
        if process == 0:
            take_lock(out, "out")
    agree(distributed, dict, workdir=out, flag="out")
    with user_errors(), disk_full_errors(out, "the clips that are there are kept"):
        folder, missing = _open_folder(out, settings, real, num_clips, overwrite=overwrite)

    mine = missing[process::num_processes].tolist()
    drawn = length - settings["prompt_length"]
    start = time.monotonic()
    fault: FloatingPointError | OSError | KeyboardInterrupt | None = None
    total = len(mine) * drawn
    with drawing_bar(total, num_processes=num_processes, enabled=process == 0) as show:

        def on_progress(samples: int) -> None:
            interruption.check_others()
            show(samples)

        try:
            # TPUs would multiply float32 numbers in bfloat16 otherwise.
            with jax.default_matmul_precision("float32"):
                draw_samples(
                    folder,
                    mine,
                    model=model,
                    params=params,
                    seed=seed,
                    batch_size=batch_size // num_processes,
                    length=length,
                    codec=data.codec,
                    draw=draw,
                    prompt=codes,
                    label_of=label_of,
                    mesh=mesh,
                    on_progress=on_progress,
                )
        except (FloatingPointError, OSError) as error:
            fault = error
        except KeyboardInterrupt as error:
            interruption.tell_others()
            error.add_note(f"{len(folder.rows):,} of {num_clips:,} clips are in {out}")
            fault = error
    # Also from a process that failed: the others must not wait for it for ever.
    faults = multihost_utils.process_allgather(np.array(fault is not None))
    if np.any(faults):
        kept = f"{len(folder.rows):,} of {num_clips:,} clips are kept"
        with user_errors(), disk_full_errors(out, kept):
            raise fault or OSError("another process failed; the clips so far are kept")
    if process == 0:
        rows = folder.finish(num_clips)
        if len(missing) < num_clips:
            _LOG.info("%s clips were in %s already", f"{num_clips - len(missing):,}", out)
        if len(missing):
            seconds = time.monotonic() - start
            _LOG.info(
                "%s clips of %.2f s in %.1f s with compilation: %s",
                f"{len(missing):,}",
                length / SAMPLE_RATE,
                seconds,
                format_speed(len(missing) * drawn / seconds),
            )
        _LOG.info(
            "%s clips in %s, drawn with the weights of step %d", f"{len(rows):,}", out, number
        )
        offer_sample_page(out, rows, settings)
    return out


def _choose_batch_size(batch_size: int | None, num_clips: int, mesh: Any) -> int:
    from poolformer_jax import sharding

    if batch_size is None:
        batch_size = -(-16 // mesh.size) * mesh.size
    sharding.check_batch_size("batch_size", batch_size, mesh)
    return min(batch_size, -(-num_clips // mesh.size) * mesh.size)


def _open_folder(
    out: pathlib.Path,
    settings: Mapping[str, Any],
    real: Sequence[np.ndarray],
    num_clips: int,
    *,
    overwrite: bool,
) -> tuple[SampleFolder, np.ndarray]:
    """Opens the folder on all processes, and finds out which clips it lacks."""
    import jax
    from jax.experimental import multihost_utils

    from poolformer_jax.sampling import folder as sample_folder

    process = jax.process_index()
    if overwrite and process == 0 and sample_folder.find_conflict(out, settings):
        sample_folder.clear(out)
    multihost_utils.sync_global_devices("the folder is as it was left")
    folder = sample_folder.SampleFolder(
        out,
        settings,
        length=settings["length"],
        sample_rate=SAMPLE_RATE,
        process_index=process,
    )
    known = np.isin(np.arange(num_clips), list(folder.rows))
    # The first process decides: a shared file system may show the others an older state.
    known = np.asarray(multihost_utils.broadcast_one_to_all(known), bool)
    if process == 0:
        folder.start(real, num_processes=jax.process_count())
    multihost_utils.sync_global_devices("the folder is ready")
    return folder, np.flatnonzero(~known)


def _read_real(
    data: DataConfig, num_real: int, label_of: Callable[[int], int | None]
) -> list[np.ndarray]:
    """Validation clips as the model hears them: spread over the split, or of the classes drawn."""
    if not num_real:
        return []
    from poolformer_jax.data.source import open_splits

    clips = open_splits(data)["validation"]
    count = min(num_real, len(clips))
    chosen = [index * len(clips) // count for index in range(count)]
    if label_of(0) is not None:
        wanted = [label_of(number) for number in range(count)]
        labels = np.array([clip["label"] for clip in clips])
        left = {label: iter(np.flatnonzero(labels == label).tolist()) for label in {*wanted}}
        chosen = [index for label in wanted if (index := next(left[label], None)) is not None]
    if len(chosen) < num_real:
        _LOG.warning("num_real: %d validation clips, there are no more of them", len(chosen))
    pcm = [clips[index]["audio"] for index in chosen]
    codec, normalize = data.codec, data.normalize
    return [decode(encode(clip, codec=codec, normalize=normalize), codec=codec) for clip in pcm]
