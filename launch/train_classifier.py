"""Trains a classifier of spoken words, or goes on training it.

    python -m launch.train_classifier --config=configs/digits_classifier.py \\
        --workdir=runs/digits_classifier

Writes the classifier that is best on the validation clips to <workdir>/classifier.json and
<workdir>/classifier.npz, and its results on the test clips to <workdir>/classifier_test.json.
The same command again goes on from the latest checkpoint in the workdir. One process trains on all
of its devices.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
command_line.define_config(
    _FLAGS, "Configuration: a file, or the name of one such as digits_classifier."
)
_WORKDIR = command_line.define_workdir(_FLAGS, "Folder of the classifier.")
command_line.define_data_dir(_FLAGS)
_RESTART = command_line.define_restart(_FLAGS)


def main(argv):
    """Trains; returns how that ended."""
    del argv
    with ex.user_errors():
        experiment = command_line.configured(_FLAGS, ex.ClassifierExperiment)
    outcome = ex.train_classifier(experiment, _WORKDIR.value, restart=_RESTART.value)
    command_line.say_how_to_resume(outcome, is_program=__name__ == "__main__")
    return outcome


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
