"""Draws clips from a trained model, one sample at a time, and writes WAV files.

    python -m launch.sample --workdir=runs/digits --num_samples=4

Writes <workdir>/samples/sample_*.wav and, for comparison, real_*.wav. Uses the averaged parameters.
"""

from __future__ import annotations

import dataclasses
import pathlib
import time

from absl import flags

from launch import command_line
from launch.experiment import read_experiment

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run.", required=True)
_NUM_SAMPLES = flags.DEFINE_integer("num_samples", 4, "Number of clips.", lower_bound=1)
_NUM_STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "Length of a clip in audio samples; data.seq_len if not given.",
    lower_bound=1,
)
_TEMPERATURE = flags.DEFINE_float("temperature", 1.0, "Divides the logits.", lower_bound=0.0)
_TOP_K = flags.DEFINE_integer("top_k", None, "Draw from so many of the likeliest codes only.")
_TOP_P = flags.DEFINE_float(
    "top_p", 1.0, "Draw from the fewest likeliest codes whose probabilities add up to this."
)
_NUM_REAL = flags.DEFINE_integer(
    "num_real", 0, "Validation clips to write beside, as the model hears them.", lower_bound=0
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the config's.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the draw.", lower_bound=0)
_CHECKPOINT = flags.DEFINE_enum(
    "checkpoint", "best", ["best", "latest"], "By validation bits, or the newest."
)

SAMPLE_RATE = 16_000


def main(argv):
    """Restores, samples, writes."""
    del argv
    workdir = pathlib.Path(_WORKDIR.value)
    with command_line.user_errors():
        experiment = read_experiment(workdir)

    import jax

    from launch.restore import restore_ema_params
    from poolformer_jax.audio.codec import decode, encode
    from poolformer_jax.audio.wav import write_wav
    from poolformer_jax.data.builders.prepare import open_splits
    from poolformer_jax.sampling.draw import Draw
    from poolformer_jax.sampling.streaming import generate
    from poolformer_jax.training import sharding

    with command_line.user_errors():
        draw = Draw(temperature=_TEMPERATURE.value, top_k=_TOP_K.value, top_p=_TOP_P.value)
        data = experiment.data
        if _DATA_DIR.value:
            data = dataclasses.replace(data, data_dir=_DATA_DIR.value)
        real = open_splits(data)["validation"] if _NUM_REAL.value else []
        params, step = restore_ema_params(
            workdir, experiment, sharding.make_mesh(jax.devices()[:1]), _CHECKPOINT.value
        )
    num_steps = _NUM_STEPS.value or experiment.data.seq_len
    start = time.monotonic()

    def show(done):
        seconds = time.monotonic() - start
        print(f"\r{done:,} of {num_steps:,} samples | {seconds:.0f} s", end="", flush=True)

    codes, _ = generate(
        experiment.model,
        params,
        jax.random.key(_SEED.value),
        num_samples=_NUM_SAMPLES.value,
        length=num_steps,
        draw=draw,
        on_progress=show,
    )
    print()
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.wav"):
        old.unlink()
    for index, clip in enumerate(codes):
        pcm = decode(clip, codec=experiment.data.codec)
        write_wav(folder / f"sample_{index:04d}.wav", pcm, SAMPLE_RATE)
    for index in range(min(_NUM_REAL.value, len(real))):
        example = real[index * len(real) // _NUM_REAL.value]
        pcm = example["audio"]
        heard = decode(encode(pcm, codec=data.codec, normalize=data.normalize), codec=data.codec)
        write_wav(folder / f"real_{index:04d}.wav", heard, SAMPLE_RATE)
    seconds = time.monotonic() - start
    print(
        f"{len(codes)} clips of {num_steps / SAMPLE_RATE:.2f} s in {folder}, {seconds:.1f} s with "
        f"compilation, averaged parameters of step {step}"
    )


if __name__ == "__main__":
    command_line.run(main)
