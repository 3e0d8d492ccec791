"""Makes a data set from its published archive, checked clip by clip.

    python -m launch.prepare_data --dataset=sc09 --manual_dir=~/Downloads --data_dir=gs://bucket/data

The archive may also be fetched with --download. Training reads the same --data_dir. A finished data
set is left as it is, and an interrupted preparation leaves none.
"""

from __future__ import annotations

import shlex

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.data.datasets import DATASETS

_FLAGS = flags.FlagValues()
_DATASET = flags.DEFINE_enum(
    "dataset", None, list(DATASETS), "What to prepare.", required=True, flag_values=_FLAGS
)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    None,
    "The published archive, a folder that holds it, or the folder it was extracted to.",
    flag_values=_FLAGS,
)
_DOWNLOAD = flags.DEFINE_bool(
    "download",
    False,
    "Get the archive from the Hugging Face Hub (extra `download`).",
    flag_values=_FLAGS,
)
_DATA_DIR = command_line.define_data_dir(
    _FLAGS, "Folder of data sets, or gs://bucket/folder; the cache if not given."
)
_ALLOW_PARTIAL = flags.DEFINE_bool(
    "allow_partial",
    False,
    "Prepare whatever part of the data set is there, apart from whole ones.",
    flag_values=_FLAGS,
)


def main(argv):
    """Prepares, and says how to train on it."""
    del argv
    data = ex.prepare_data(
        _DATASET.value,
        data_dir=_DATA_DIR.value,
        manual_dir=_MANUAL_DIR.value,
        download=_DOWNLOAD.value,
        allow_partial=_ALLOW_PARTIAL.value,
    )
    if data.name in ex.named_configs():
        command = ["python", "-m", "launch.train", f"--config={data.name}"]
        command.append(f"--workdir=runs/{data.name}")
        command += [f"--data_dir={data.data_dir}"] if data.data_dir else []
        command += ["--config.data.partial=True"] if data.partial else []
        print(f"Train on it with: {shlex.join(command)}")


if __name__ == "__main__":
    command_line.run(main, _FLAGS)
