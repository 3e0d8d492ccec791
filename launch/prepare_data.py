"""Makes a data set from its published archive, checked clip by clip.

    python -m launch.prepare_data --dataset=sc09 --manual_dir=~/Downloads --data_dir=gs://bucket/data

The archive may also be fetched with --download. Training reads the same --data_dir. A finished data
set is left as it is, and an interrupted preparation leaves none.
"""

from __future__ import annotations

import pathlib
import shlex

from absl import flags

from launch import command_line
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import DATASETS

_DATASET = flags.DEFINE_enum("dataset", None, [*DATASETS], "What to prepare.", required=True)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir",
    None,
    "The published archive, a folder that holds it, or the folder it was extracted to.",
)
_DOWNLOAD = flags.DEFINE_bool(
    "download", False, "Get the archive from the Hugging Face Hub (extra `download`)."
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Folder of data sets, or gs://bucket/folder; the cache if not given."
)
_ALLOW_PARTIAL = flags.DEFINE_bool(
    "allow_partial", False, "Prepare whatever part of the data set is there, apart from whole ones."
)


def main(argv):
    """Builds, reads everything once, and says what is there."""
    del argv
    with command_line.user_errors():
        config = DataConfig(
            name=_DATASET.value, data_dir=_DATA_DIR.value, partial=_ALLOW_PARTIAL.value
        )
        from poolformer_jax.data.builders.prepare import prepare
        from poolformer_jax.data.source import describe_split, open_splits

        prepare(config, manual_dir=_MANUAL_DIR.value, download=_DOWNLOAD.value)
        for split, source in open_splits(config).items():
            print(f"{split}: {describe_split(source)}", flush=True)
    path = pathlib.Path("configs") / f"{config.name}.py"
    if path.is_file():
        command = ["python", "-m", "launch.train", f"--config={path}"]
        command.append(f"--workdir=runs/{config.name}")
        command += [f"--data_dir={config.data_dir}"] if config.data_dir else []
        command += ["--config.data.partial=True"] if config.partial else []
        print(f"Train on it with: {shlex.join(command)}")


if __name__ == "__main__":
    command_line.run(main)
