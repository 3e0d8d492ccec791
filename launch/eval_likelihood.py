"""Computes the bits per sample of a trained model on a whole split.

    python -m launch.eval_likelihood --workdir=runs/digits --split=test

Writes <workdir>/likelihood_<split>.json (the mean, its interval, bits against the position in the
clip) and <workdir>/likelihood_<split>.csv (every clip). With another checkpoint, weights, length or
data set than the run's own, the names say so: likelihood_test_raw_step400_60s.json. Clips are read
in chunks of the training length, so that longer ones, with --length=60s, take no more memory on the
devices.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
_CONFIG = command_line.define_config(
    _FLAGS, "Configuration of the same model; that of the run if not given.", required=False
)
command_line.define_run(_FLAGS)
_SPLIT = flags.DEFINE_enum(
    "split", "test", ["train", "validation", "test"], "Split.", flag_values=_FLAGS
)
_STEP = command_line.define_step(_FLAGS)
_WEIGHTS = command_line.define_weights(_FLAGS)
_DATA_DIR = command_line.define_data_dir(_FLAGS)
_LENGTH = flags.DEFINE_string(
    "length",
    None,
    "Where clips are cut, in samples (160000) or seconds (10s); data.seq_len if not given.",
    flag_values=_FLAGS,
)
_CHUNK_LENGTH = flags.DEFINE_integer(
    "chunk_length",
    None,
    "Samples that clips are read by, a multiple of the model's chunk_multiple; equal parts of at "
    "most the training length if not given.",
    flag_values=_FLAGS,
)
_BATCH_SIZE = command_line.define_batch_size(
    _FLAGS, "Clips per step; train.eval_batch_size if not given."
)
command_line.define_distributed(_FLAGS)


def main(argv):
    """Evaluates; returns what the JSON file holds."""
    del argv
    with ex.user_errors():
        workdir = command_line.run_of(_FLAGS)
        length = command_line.duration_of(_LENGTH)
        experiment = (
            None if _CONFIG.value is None else command_line.configured(_FLAGS, ex.Experiment)
        )
    return ex.evaluate_likelihood(
        workdir,
        split=_SPLIT.value,
        experiment=experiment,
        step=_STEP.value,
        weights=_WEIGHTS.value,
        length=length,
        chunk_length=_CHUNK_LENGTH.value,
        batch_size=_BATCH_SIZE.value,
        data_dir=_DATA_DIR.value,
        distributed=command_line.distributed_of(_FLAGS),
    )


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
