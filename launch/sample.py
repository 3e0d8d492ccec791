"""Draws clips from a trained model, one sample at a time, and writes WAV files and a page.

    python -m launch.sample --workdir=runs/digits --num_samples=64 --batch_size=16 --length=1s

Writes sample_*.wav, log_likelihoods.csv and index.html to --out. The same command again completes
what an interrupted one began. Uses the averaged weights, in float32, on all devices.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import cast

import numpy as np
from absl import flags

from launch import command_line
from poolformer_jax.audio.codec import decode, encode
from poolformer_jax.audio.wav import read_wav, write_wav
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.experiment.experiment import Experiment, read_experiment
from poolformer_jax.experiment.sections import check_mounted
from poolformer_jax.typing import Platform

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_OUT = flags.DEFINE_string("out", None, "Folder of the clips; <workdir>/samples if not given.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Replace the clips of another draw in --out.")
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 16, "Number of clips.", lower_bound=1)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", None, "Clips drawn side by side, over all devices; about 16 if not given."
)
_LENGTH = flags.DEFINE_string("length", None, "Of a clip: 1s, 500ms, or a number of samples.")
_PROMPT = flags.DEFINE_string("prompt", None, "WAV file whose beginning every clip continues.")
_PROMPT_LENGTH = flags.DEFINE_string("prompt_length", None, "How much of it; all if not given.")
_LABEL = flags.DEFINE_string(
    "label", None, "Class to draw, in a model with classes: a number, or 'cycle' for each in turn."
)
_GUIDANCE = flags.DEFINE_float(
    "guidance", 1.0, "Weight of classifier-free guidance towards the label; 1 is none."
)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Divides the logits; 0 is greedy.")
_TOP_K = flags.DEFINE_integer("top_k", None, "Draw from so many of the likeliest codes only.")
_TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Draw from the fewest likeliest codes whose probabilities add up to this."
)
_NUM_REAL = flags.DEFINE_integer(
    "num_real", 0, "Validation clips to write beside, as the model hears them.", lower_bound=0
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the config's.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draw.", lower_bound=0, upper_bound=2**31 - 1)
_STEP = flags.DEFINE_string(
    "step", "best", "Checkpoint: best (by validation bits), latest, or the number of its step."
)
_WEIGHTS = flags.DEFINE_enum("weights", "ema", ["ema", "raw"], "Averaged, or as trained.")
_DISTRIBUTED = flags.DEFINE_bool("distributed", False, "Connect the processes of a pod.")


def main(argv):
    """Checks, restores, draws what is missing, writes."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    out = pathlib.Path(_OUT.value) if _OUT.value else workdir / "samples"
    with command_line.user_errors():
        experiment = read_experiment(workdir)
        check_mounted("out", out)
        data = experiment.data
        if _LENGTH.value is None:
            raise ValueError(
                "--length is missing; the model's clips last "
                f"--length={data.seq_len / SAMPLE_RATE:g}s"
            )
        length = command_line.parse_duration("length", _LENGTH.value, SAMPLE_RATE)
        label_of = _parse_label(experiment)
        prompt = _read_prompt(data, length)

    import jax
    from jax.experimental import multihost_utils

    from poolformer_jax import sharding
    from poolformer_jax.experiment.restore import restore_params
    from poolformer_jax.sampling import folder as sample_folder
    from poolformer_jax.sampling.clips import draw_samples, hash_params
    from poolformer_jax.sampling.draw import Draw
    from poolformer_jax.training.checkpoint import Weights

    if _DISTRIBUTED.value:
        jax.distributed.initialize()
    # TPUs would multiply float32 numbers in bfloat16 otherwise.
    jax.config.update("jax_default_matmul_precision", "float32")
    platform = cast(Platform, jax.default_backend())
    model = dataclasses.replace(experiment.model, dtype="float32", platform=platform)
    process, num_processes = jax.process_index(), jax.process_count()
    with command_line.user_errors():
        draw = Draw(
            temperature=_TEMPERATURE.value,
            top_k=_TOP_K.value,
            top_p=_TOP_P.value,
            guidance=_GUIDANCE.value,
        )
        batch_size = _choose_batch_size(jax.device_count())
        real = _read_real(data) if process == 0 else []
        params, step = restore_params(
            workdir,
            experiment,
            sharding.make_mesh(),
            step=_STEP.value,
            weights=cast(Weights, _WEIGHTS.value),
        )
        # From here on every process is on its own, with its devices and its share of the clips.
        mesh = sharding.make_mesh(jax.local_devices())
        params = sharding.copy_to(mesh, params)
        settings = {
            "step": step,
            "weights": _WEIGHTS.value,
            "parameters_sha256": hash_params(params),
            "seed": _SEED.value,
            "length": length,
            "sample_rate": SAMPLE_RATE,
            "codec": data.codec,
            "label": _LABEL.value,
            **dataclasses.asdict(draw),
            "prompt_length": 0 if prompt is None else len(prompt),
            "prompt_sha256": None
            if prompt is None
            else hashlib.sha256(prompt.tobytes()).hexdigest(),
        }
        if _OVERWRITE.value and process == 0 and sample_folder.find_conflict(out, settings):
            sample_folder.clear(out)
        multihost_utils.sync_global_devices("the folder is as it was left")
        folder = sample_folder.SampleFolder(
            out, settings, length=length, sample_rate=SAMPLE_RATE, process_index=process
        )
        known = np.array([clip in folder.rows for clip in range(_NUM_SAMPLES.value)])
        # The first process decides: a shared file system may show the others an older state.
        known = np.asarray(multihost_utils.broadcast_one_to_all(known), bool)
        if process == 0:
            folder.start()
            for index, pcm in enumerate(real):
                write_wav(out / f"real_{index:05d}.wav", pcm, SAMPLE_RATE)
        multihost_utils.sync_global_devices("the folder is ready")
        is_shared = (out / sample_folder.SETTINGS_FILE).is_file()
        if not np.all(multihost_utils.process_allgather(np.array(is_shared))):
            raise OSError(f"--out={out} is not the same folder on all hosts; choose a shared one")

    (missing,) = np.nonzero(~known)
    mine = missing[process::num_processes].tolist()
    drawn = length - settings["prompt_length"]
    start, fault = time.monotonic(), None
    with _progress_bar(len(mine) * drawn, num_processes, enabled=process == 0) as show:
        try:
            draw_samples(
                folder,
                mine,
                config=model,
                params=params,
                seed=_SEED.value,
                batch_size=batch_size // num_processes,
                length=length,
                codec=data.codec,
                draw=draw,
                prompt=prompt,
                label_of=label_of,
                place=functools.partial(sharding.put_along, mesh),
                on_progress=show,
            )
        except (FloatingPointError, OSError) as error:
            fault = error
    # Also from a process that failed: the others must not wait for it for ever.
    faults = multihost_utils.process_allgather(np.array(fault is not None))
    if np.any(faults):
        sys.exit(f"error: {fault or 'another process failed; the clips so far are kept'}")
    if process == 0:
        rows = folder.finish(_NUM_SAMPLES.value)
        if len(missing) < _NUM_SAMPLES.value:
            print(f"{_NUM_SAMPLES.value - len(missing):,} clips were in {out} already")
        if len(missing):
            seconds = time.monotonic() - start
            speed = len(missing) * drawn / seconds
            print(
                f"{len(missing):,} clips of {length / SAMPLE_RATE:.2f} s in {seconds:.1f} s with "
                f"compilation: {speed:,.0f} samples/s, {speed / SAMPLE_RATE:.2f} x real time"
            )
        print(f"{len(rows):,} clips in {out}, drawn with the weights of step {step}")
        _write_page(out, rows, settings)


@contextlib.contextmanager
def _progress_bar(
    total: int, num_processes: int, *, enabled: bool
) -> Iterator[Callable[[int], None]]:
    """Yields what to call with numbers of samples; the speed leaves the compilation out."""
    import tqdm

    with tqdm.tqdm(
        total=total,
        unit="sample",
        unit_scale=True,
        bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}",
        disable=not (enabled and total),
    ) as bar:
        first_block: list[float] = []

        def show(samples: int) -> None:
            bar.update(samples)
            if not first_block:
                first_block.extend([time.monotonic(), bar.n])
                return
            since, before = first_block
            speed = (bar.n - before) / (time.monotonic() - since) * num_processes
            bar.set_postfix_str(f"{speed:,.0f} samples/s, {speed / SAMPLE_RATE:.2f} x real time")

        yield show


def _choose_batch_size(num_devices: int) -> int:
    enough = -(-_NUM_SAMPLES.value // num_devices) * num_devices
    batch_size = _BATCH_SIZE.value
    if batch_size is None:
        batch_size = -(-16 // num_devices) * num_devices
    if batch_size < 1 or batch_size % num_devices:
        raise ValueError(
            f"--batch_size={batch_size} does not split over {num_devices} devices; use a multiple "
            f"of {num_devices}, such as {max(1, -(-batch_size // num_devices)) * num_devices}"
        )
    return min(batch_size, enough)


def _parse_label(experiment: Experiment) -> Callable[[int], int | None]:
    """From a clip's number to the class to draw."""
    classes, text = experiment.model.num_classes, _LABEL.value
    if text is None or not classes:
        if text is not None:
            raise ValueError(
                f"--label={text}: the model has no classes; train one with "
                "--config.model.num_classes"
            )
        if _GUIDANCE.value != 1.0:
            raise ValueError(f"--guidance={_GUIDANCE.value:g} needs a --label")
        if classes and not experiment.train.label_dropout:
            raise ValueError(
                "--label is missing: the model never saw a clip without a label in training "
                f"(train.label_dropout is 0); give 0 to {classes - 1}, or cycle"
            )
        return lambda clip: None
    if _GUIDANCE.value != 1.0 and not experiment.train.label_dropout:
        raise ValueError(
            f"--guidance={_GUIDANCE.value:g} compares with clips without a label, of which the "
            "model never saw one in training (train.label_dropout is 0); use --guidance=1"
        )
    if text == "cycle":
        return lambda clip: clip % classes
    if not text.isdecimal() or int(text) >= classes:
        raise ValueError(f"--label={text} must be a class, 0 to {classes - 1}, or cycle")
    return lambda clip: int(text)


def _read_prompt(data: DataConfig, length: int) -> np.ndarray | None:
    """The codes to continue, scaled like a training clip: by the extremes of the whole file."""
    if _PROMPT.value is None:
        if _PROMPT_LENGTH.value is not None:
            raise ValueError(f"--prompt_length={_PROMPT_LENGTH.value} needs a --prompt")
        return None
    path = pathlib.Path(_PROMPT.value)
    pcm, rate = read_wav(path)
    if rate != SAMPLE_RATE:
        raise ValueError(
            f"--prompt={path} has {rate} Hz, the model {SAMPLE_RATE} Hz; convert it with: "
            f"ffmpeg -i {path} -ar {SAMPLE_RATE} -ac 1 -c:a pcm_s16le OUT.wav"
        )
    if not len(pcm):
        raise ValueError(f"--prompt={path} is empty")
    taken = len(pcm)
    if _PROMPT_LENGTH.value is not None:
        taken = command_line.parse_duration("prompt_length", _PROMPT_LENGTH.value, SAMPLE_RATE)
    if taken > len(pcm):
        raise ValueError(
            f"--prompt_length={_PROMPT_LENGTH.value} is {taken} samples; {path} has {len(pcm)}"
        )
    if taken >= length:
        raise ValueError(
            f"the prompt of {taken} samples leaves nothing to draw of clips of {length}; give a "
            "longer --length or a shorter --prompt_length"
        )
    codes = encode(pcm, codec=data.codec, normalize=data.normalize, part=slice(taken))
    return codes.astype(np.int32)


def _read_real(data: DataConfig) -> list[np.ndarray]:
    """Validation clips, spread over the split, as the model hears them."""
    if not _NUM_REAL.value:
        return []
    from poolformer_jax.data.source import open_splits

    if _DATA_DIR.value:
        data = dataclasses.replace(data, data_dir=_DATA_DIR.value)
    clips = open_splits(data)["validation"]
    count = min(_NUM_REAL.value, len(clips))
    pcm = [clips[index * len(clips) // count]["audio"] for index in range(count)]
    codec, normalize = data.codec, data.normalize
    return [decode(encode(clip, codec=codec, normalize=normalize), codec=codec) for clip in pcm]


def _write_page(out: pathlib.Path, rows: list, settings: dict) -> None:
    try:
        from poolformer_jax.pages.samples import write_sample_page
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        print("no page was written: it needs matplotlib: pip install -e '.[report]'")
        return
    print(f"Listen: {write_sample_page(out, rows, settings)}")


if __name__ == "__main__":
    command_line.run(main)
