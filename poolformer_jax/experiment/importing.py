"""Brings the published SC09 classifier, a PyTorch checkpoint, into this project's form."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence

from poolformer_jax import interruption, own_files
from poolformer_jax.classifier.config import ClassifierConfig, MelPadding
from poolformer_jax.classifier.files import (
    ARRAYS,
    DESCRIPTION,
    SavedClassifier,
    load_classifier,
    save_classifier,
)
from poolformer_jax.classifier.network import count_params
from poolformer_jax.classifier.torch_import.checkpoint import read_torch_tensors
from poolformer_jax.classifier.torch_import.resnext import import_resnext
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.paths import local_path

_LOG = logging.getLogger(__name__)


@interruption.keeps("no classifier was written")
def import_classifier(
    file: str | os.PathLike[str],
    workdir: str | os.PathLike[str],
    *,
    class_names: Sequence[str] | None = None,
    mel_padding: MelPadding = "reflect",
) -> SavedClassifier:
    """Reads a checkpoint without PyTorch, and writes the classifier in it to a workdir.

    Args:
      file: ResNeXt-29 8x64d, or its state dict, as torch.save wrote it. That is a pickle; nothing
        that it says is run.
      workdir: Folder of the classifier.
      class_names: Names of the logits, in order; zero to nine if None.
      mel_padding: MelPadding of the spectrograms it was trained on.

    Raises:
      UserError: If the file is missing, damaged or holds something else, the names do not fit, or
        the workdir holds a classifier already.
    """
    with user_errors():
        file, workdir = local_path("file", file), local_path("workdir", workdir)
        if (workdir / DESCRIPTION).exists():
            raise ValueError(f"{workdir} holds a classifier already; name another --workdir")
        own_files.check(workdir, (DESCRIPTION, ARRAYS))
        names = tuple(class_names or DIGIT_WORDS)
        config = ClassifierConfig(num_classes=len(names), mel_padding=mel_padding)
        params, stats = import_resnext(config, read_torch_tensors(file))
        with file.open("rb") as content:
            sha256 = hashlib.file_digest(content, "sha256").hexdigest()
        classifier = SavedClassifier(
            config=config,
            class_names=names,
            source={"imported_from": file.name, "sha256": sha256},
            params=params,
            stats=stats,
        )
        own_files.claim(workdir, (DESCRIPTION, ARRAYS))
        save_classifier(workdir, classifier)
    _LOG.info(
        "%s: %s, %s parameters, classes %s; hash %s",
        workdir,
        config.kind,
        f"{count_params(config):,}",
        ", ".join(names),
        load_classifier(workdir).sha256[:12],
    )
    return classifier
