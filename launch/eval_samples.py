"""Scores generated clips against real ones: FID, IS, mIS, AM, NDB, each with an interval.

    python -m launch.eval_samples --workdir=runs/quickstart
    python -m launch.eval_samples --samples=FOLDER_OF_WAVS --classifier=runs/sc09_classifier \\
        --reference=sc09:train

Clips may be any generator's, and the reference may be a folder, too. Writes metrics.json and
index.html (extra `report`) to --out. What is known of the reference is computed once, and kept in
--reference_dir.
"""

from __future__ import annotations

import functools

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
_string = functools.partial(flags.DEFINE_string, flag_values=_FLAGS)
_integer = functools.partial(flags.DEFINE_integer, flag_values=_FLAGS)
_bool = functools.partial(flags.DEFINE_bool, flag_values=_FLAGS)

_SAMPLES = _string(
    "samples", None, "Folder of one-second WAV files; <workdir>/samples if not given."
)
command_line.define_run(_FLAGS, "Run that drew the clips; tells the data set.")
_CLASSIFIER = _string(
    "classifier",
    None,
    "Folder of the classifier, from launch.train_classifier or launch.import_classifier; the one "
    "that comes with the package if not given, for data sets of digits.",
)
_REFERENCE = _string(
    "reference",
    None,
    "Data set and split, such as sc09:train, or a folder of WAV files; the run's if not given.",
)
_DATA_DIR = command_line.define_data_dir(_FLAGS, "Folder of data sets; overrides the run's.")
_PARTIAL = _bool("partial", False, "Use the subset that --allow_partial prepared.")
_OUT = _string("out", None, "Folder of the results; <samples>/metrics if not given.")
_REFERENCE_DIR = _string(
    "reference_dir", None, "Where references are kept; in the cache folder if not given."
)
_BASELINES = flags.DEFINE_list(
    "baselines",
    None,
    "What to score beside: test and train (recordings; the default), held_out_train (train clips, "
    "left out of the reference), round_trip (test clips as the model hears them), noise.",
    flag_values=_FLAGS,
)
_RESAMPLE = _bool("resample", False, "Convert WAV files of another rate, or stereo.")
_BATCH_SIZE = command_line.define_batch_size(_FLAGS, "Clips classified side by side.", 64)
_BOOTSTRAP = _integer("bootstrap", 50, "Resamples for the intervals; 0 for none.", lower_bound=0)
_NUM_CELLS = _integer("num_cells", 50, "Cells of feature space, for NDB.", lower_bound=2)
_SEED = command_line.define_seed(_FLAGS, "Of resamples, noise, chosen train clips.")


def main(argv):
    """Scores; returns the scores."""
    del argv
    alone = _FLAGS.workdir is None and _FLAGS.pretrained is None
    return ex.score_samples(
        _SAMPLES.value,
        workdir=None if alone else command_line.run_of(_FLAGS),
        classifier=_CLASSIFIER.value,
        reference=_REFERENCE.value,
        data_dir=_DATA_DIR.value,
        partial=_PARTIAL.value,
        out=_OUT.value,
        reference_dir=_REFERENCE_DIR.value,
        baselines=_BASELINES.value,
        resample=_RESAMPLE.value,
        batch_size=_BATCH_SIZE.value,
        bootstrap=_BOOTSTRAP.value,
        num_cells=_NUM_CELLS.value,
        seed=_SEED.value,
    )


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
