"""Makes a data set from its published archive, checked clip by clip."""

from __future__ import annotations

import logging
import os

from poolformer_jax import interruption
from poolformer_jax.data.config import DataConfig
from poolformer_jax.experiment.errors import user_errors

_LOG = logging.getLogger(__name__)


@interruption.keeps("finished data sets and downloads are kept")
def prepare_data(
    name: str,
    *,
    data_dir: str | None = None,
    manual_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    allow_partial: bool = False,
) -> DataConfig:
    """Builds a data set unless it is there, reads all of it once, and logs what is in it.

    Args:
      name: See `DataConfig`.
      data_dir: Folder of data sets, or gs://bucket/folder; the cache if None.
      manual_dir: The published archive, a folder that holds it, or the folder it was extracted to.
      download: Whether to get the archive from the Hugging Face Hub instead.
      allow_partial: Whether to prepare whatever part is there, apart from whole data sets.

    Returns:
      What to train on it with.

    Raises:
      UserError: If something is missing, damaged or not what was published.
    """
    with user_errors():
        config = DataConfig(name=name, data_dir=data_dir, partial=allow_partial)
        from poolformer_jax.data.builders.prepare import prepare
        from poolformer_jax.data.source import describe_split, open_splits

        prepare(config, manual_dir=manual_dir, download=download)
        for split, source in open_splits(config).items():
            _LOG.info("%s: %s", split, describe_split(source))
    return config
