"""What comes with the package already trained, in `poolformer_jax/pretrained/`."""

from __future__ import annotations

import pathlib

import poolformer_jax

_FOLDER = pathlib.Path(poolformer_jax.__file__).parent / "pretrained"
_CLASSIFIERS = {"digits": "digits_classifier"}


def pretrained_classifier(data: str) -> pathlib.Path:
    """The folder of the classifier for a data set.

    Raises:
      ValueError: If none comes with the package.
    """
    if data not in _CLASSIFIERS:
        raise ValueError(
            f"classifier is missing, and none for {data} comes with the "
            "package: make one with launch.train_classifier, or bring the published one with "
            "launch.import_classifier, and pass its folder"
        )
    return _FOLDER / _CLASSIFIERS[data]
