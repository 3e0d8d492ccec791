"""Draws clips from a trained model, one sample at a time, and writes WAV files and a page.

    python -m launch.sample --pretrained=digits --label=cycle --num_samples=10 --length=280ms
    python -m launch.sample --workdir=runs/digits --num_samples=64 --batch_size=16 --length=1s

Writes sample_*.wav, log_likelihoods.csv and index.html to --out. The same command again completes
what an interrupted one began. Uses the averaged weights, in float32, on all devices.
"""

from __future__ import annotations

import functools

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.data.datasets import SAMPLE_RATE

_FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_float = functools.partial(flags.DEFINE_float, flag_values=_FLAGS)

command_line.define_run(_FLAGS)
_OUT = _string("out", None, "Folder of the clips; <workdir>/samples if not given.")
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace the clips of another draw in --out.", flag_values=_FLAGS
)
_NUM_SAMPLES = _integer("num_samples", 16, "Number of clips.", lower_bound=1)
_BATCH_SIZE = command_line.define_batch_size(
    _FLAGS, "Clips drawn side by side, over all devices; about 16 if not given."
)
_LENGTH = _string("length", None, "Of a clip: 1s, 500ms, or a number of samples.")
_PROMPT = _string("prompt", None, "WAV file whose beginning every clip continues.")
_PROMPT_LENGTH = _string("prompt_length", None, "How much of it; all if not given.")
_LABEL = _string(
    "label", None, "Class to draw, in a model with classes: a number, or 'cycle' for each in turn."
)
_GUIDANCE = _float(
    "guidance", 1.0, "Weight of classifier-free guidance towards the label; 1 is none."
)
_TEMPERATURE = _float("temperature", 1.0, "Divides the logits; 0 is greedy.")
_TOP_K = _integer("top_k", None, "Draw from so many of the likeliest codes only.")
_TOP_P = _float(
    "top_p", 1.0, "Draw from the fewest likeliest codes whose probabilities add up to this."
)
_NUM_REAL = _integer(
    "num_real",
    0,
    "Validation clips to write beside, as the model hears them, of the same labels in turn.",
    lower_bound=0,
)
_DATA_DIR = command_line.define_data_dir(_FLAGS, "Folder of data sets; overrides the run's.")
_SEED = command_line.define_seed(_FLAGS)
_STEP = command_line.define_step(_FLAGS)
_WEIGHTS = command_line.define_weights(_FLAGS)
command_line.define_distributed(_FLAGS)


def main(argv):
    """Draws; returns the folder."""
    del argv
    with ex.user_errors():
        workdir = command_line.run_of(_FLAGS)
        length, prompt_length = map(command_line.duration_of, (_LENGTH, _PROMPT_LENGTH))
        if length is None:
            clips = ex.read_experiment(workdir).data.seq_len / SAMPLE_RATE
            raise ValueError(f"--length is missing; the model's clips last --length={clips:g}s")
        draw = ex.Draw(
            temperature=_TEMPERATURE.value,
            top_k=_TOP_K.value,
            top_p=_TOP_P.value,
            guidance=_GUIDANCE.value,
        )
    return ex.sample(
        workdir,
        _OUT.value,
        num_clips=_NUM_SAMPLES.value,
        length=length,
        draw=draw,
        label=_LABEL.value,
        prompt=_PROMPT.value,
        prompt_length=prompt_length,
        batch_size=_BATCH_SIZE.value,
        seed=_SEED.value,
        step=_STEP.value,
        weights=_WEIGHTS.value,
        num_real=_NUM_REAL.value,
        data_dir=_DATA_DIR.value,
        overwrite=_OVERWRITE.value,
        distributed=command_line.distributed_of(_FLAGS),
    )


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
