"""Brings the published SC09 classifier, a PyTorch checkpoint, into this project's form.

    python -m launch.import_classifier resnext.pth --workdir=runs/sc09_classifier

The file is ResNeXt-29 8x64d, or its state dict, as torch.save wrote it. That is a pickle; it
is read without PyTorch and without running anything that it says. Writes <workdir>/classifier.json
and <workdir>/classifier.npz.
"""

from __future__ import annotations

import hashlib
import pathlib
from typing import Any

from absl import flags

from launch import command_line

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the classifier.", required=True)
_CLASS_NAMES = flags.DEFINE_list(
    "class_names", None, "Names of the logits, in order; zero to nine if not given."
)
_MEL_PADDING = flags.DEFINE_enum(
    "mel_padding",
    "reflect",
    ["reflect", "constant"],
    "Padding of the spectrograms it was trained on: librosa's until 0.8, or since 0.9.",
)


def main(argv):
    """Reads, checks, writes."""
    source, workdir = pathlib.Path(argv[1]), pathlib.Path(_WORKDIR.value)

    from poolformer_jax.classifier.config import ClassifierConfig
    from poolformer_jax.classifier.files import (
        DESCRIPTION,
        SavedClassifier,
        classifier_hash,
        save_classifier,
    )
    from poolformer_jax.classifier.network import count_params
    from poolformer_jax.classifier.torch_import.checkpoint import read_torch_tensors
    from poolformer_jax.classifier.torch_import.resnext import import_resnext
    from poolformer_jax.data.builders.features import DIGIT_WORDS

    with command_line.user_errors():
        if (workdir / DESCRIPTION).exists():
            raise ValueError(f"{workdir} holds a classifier already; name another --workdir")
        names = tuple(_CLASS_NAMES.value or DIGIT_WORDS)
        options: dict[str, Any] = {"num_classes": len(names), "mel_padding": _MEL_PADDING.value}
        config = ClassifierConfig(**options)
        with source.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        params, stats = import_resnext(config, read_torch_tensors(source))
        classifier = SavedClassifier(
            config=config,
            class_names=names,
            source={"imported_from": source.name, "sha256": sha256},
            params=params,
            stats=stats,
        )
        save_classifier(workdir, classifier)
    print(
        f"{workdir}: {config.kind}, {count_params(config):,} parameters, classes "
        f"{', '.join(names)}; hash {classifier_hash(workdir)[:12]}"
    )


if __name__ == "__main__":
    command_line.run(main, positional=["the checkpoint's file"])
