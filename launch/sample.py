"""Draws clips from a trained model, one sample at a time, and writes WAV files.

    python -m launch.sample --workdir=runs/digits --num_samples=4

Writes <workdir>/samples/sample_*.wav. Uses the averaged parameters.
"""

from __future__ import annotations

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
    import numpy as np

    from launch.restore import restore_ema_params
    from poolformer_jax.audio.codec import decode
    from poolformer_jax.audio.wav import write_wav
    from poolformer_jax.sampling.streaming import sample
    from poolformer_jax.training import sharding

    with command_line.user_errors():
        params, step = restore_ema_params(
            workdir, experiment, sharding.make_mesh(jax.devices()[:1]), _CHECKPOINT.value
        )
    num_steps = _NUM_STEPS.value or experiment.data.seq_len
    start = time.monotonic()

    def show(done):
        seconds = time.monotonic() - start
        print(f"\r{done:,} of {num_steps:,} samples | {seconds:.0f} s", end="", flush=True)

    codes = sample(
        experiment.model,
        params,
        jax.random.key(_SEED.value),
        num_clips=_NUM_SAMPLES.value,
        num_samples=num_steps,
        temperature=_TEMPERATURE.value,
        on_progress=show,
    )
    print()
    folder = workdir / "samples"
    folder.mkdir(exist_ok=True)
    for old in folder.glob("sample_*.wav"):
        old.unlink()
    for index, clip in enumerate(codes):
        pcm = decode(clip.astype(np.uint8), codec=experiment.data.codec)
        write_wav(folder / f"sample_{index:04d}.wav", pcm, SAMPLE_RATE)
    seconds = time.monotonic() - start
    print(
        f"{len(codes)} clips of {num_steps / SAMPLE_RATE:.2f} s in {folder}, {seconds:.1f} s with "
        f"compilation, averaged parameters of step {step}"
    )


if __name__ == "__main__":
    command_line.run(main)
