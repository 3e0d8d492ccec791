"""Trains a sequence model, or goes on training it.

    python -m launch.train --config=configs/digits.py --workdir=runs/digits

Fields of the configuration are overridden by flags such as --config.train.batch_size=8. The same
command again goes on from the latest checkpoint in the workdir.
"""

from __future__ import annotations

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex

_FLAGS = flags.FlagValues()
command_line.define_config(_FLAGS)
_WORKDIR = command_line.define_workdir(_FLAGS, "Folder for checkpoints and metrics.")
command_line.define_data_dir(_FLAGS)
_RESTART = command_line.define_restart(_FLAGS)
command_line.define_distributed(_FLAGS)
_PROFILE_STEPS = flags.DEFINE_string(
    "profile_steps",
    None,
    "FIRST:LAST, such as 10:15: steps of which a trace is written to <workdir>/profile.",
    flag_values=_FLAGS,
)


def main(argv):
    """Trains; returns how that ended."""
    del argv
    with ex.user_errors():
        experiment = command_line.configured(_FLAGS, ex.Experiment)
        profile_steps = command_line.steps_of(_PROFILE_STEPS)
    outcome = ex.train(
        experiment,
        _WORKDIR.value,
        restart=_RESTART.value,
        distributed=command_line.distributed_of(_FLAGS),
        profile_steps=profile_steps,
    )
    command_line.say_how_to_resume(outcome, is_program=__name__ == "__main__")
    return outcome


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
