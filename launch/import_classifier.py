"""Brings the published SC09 classifier, a PyTorch checkpoint, into this project's form.

    python -m launch.import_classifier resnext.pth --workdir=runs/sc09_classifier

The file is ResNeXt-29 8x64d, or its state dict, as torch.save wrote it. That is a pickle; it
is read without PyTorch and without running anything that it says. Writes <workdir>/classifier.json
and <workdir>/classifier.npz.
"""

from __future__ import annotations

from typing import get_args

from absl import flags

from launch import command_line
from poolformer_jax import experiment as ex
from poolformer_jax.classifier.config import MelPadding

_FLAGS = flags.FlagValues()
_WORKDIR = command_line.define_workdir(_FLAGS, "Folder of the classifier.")
_CLASS_NAMES = flags.DEFINE_list(
    "class_names",
    None,
    "Names of the logits, in order; zero to nine if not given.",
    flag_values=_FLAGS,
)
_MEL_PADDING = flags.DEFINE_enum(
    "mel_padding",
    "reflect",
    get_args(MelPadding),
    "Padding of the spectrograms it was trained on: librosa's until 0.8, or since 0.9.",
    flag_values=_FLAGS,
)
POSITIONAL = ("the checkpoint's file",)


def main(argv):
    """Imports; returns the classifier."""
    return ex.import_classifier(
        argv[1], _WORKDIR.value, class_names=_CLASS_NAMES.value, mel_padding=_MEL_PADDING.value
    )


if __name__ == "__main__":
    command_line.run(main, _FLAGS, positional=POSITIONAL)
