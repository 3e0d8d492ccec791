"""What a classifier of one-second clips is, and how its clips are changed in training.

The front end's constants are here as well, so that nothing that only needs them loads JAX.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

from poolformer_jax.config_checks import check_at_least, check_fraction, check_types

SAMPLE_RATE = 16_000  # Hz.
CLIP_LENGTH = 16_000  # Samples.
NUM_MELS = 32
FRAME_LENGTH = 2048  # Samples.
HOP = 512  # Samples.
NUM_FRAMES = 1 + CLIP_LENGTH // HOP
MIN_POWER = 1e-10
DYNAMIC_RANGE = 80.0  # dB.

MelPadding = Literal["reflect", "constant"]
"""How the half frames beyond both ends of a clip are filled, see `log_mel`."""

ClassifierKind = Literal["resnext29_8x64d", "small"]

SMALL_WIDTHS = (32, 64, 128, 192)
"""Channels of the `small` kind's convolutions."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    """A classifier of log-mel spectrograms.

    Attributes:
      kind: `resnext29_8x64d` is the published one behind the sample metrics of SC09 (34,425,546
        parameters, 1024 features); `small` (316,394 parameters, 192 features) learns clean digit
        words on a CPU within minutes.
      num_classes: Width of the logits.
      mel_padding: Padding of the front end, see `log_mel`. The weights published with SaShiMi were
        trained with `reflect`.

    Raises:
      ValueError: On construction, if a value is not one of these.
    """

    kind: ClassifierKind = "resnext29_8x64d"
    num_classes: int = 10
    mel_padding: MelPadding = "reflect"

    def __post_init__(self):
        check_types(self)
        check_at_least(self, 2, "num_classes")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Ranges that the changes of a training clip are drawn from, uniformly.

    The defaults are those of the classifier published with SaShiMi.

    Attributes:
      probability: Of each change, apart from the others; 0 trains on the clips as they are.
      min_amplitude: Least factor of the samples.
      max_amplitude: Greatest factor.
      max_speed: A clip becomes longer, and lower, by a factor in 1 - this to 1 + this.
      max_stretch: Its frames pass faster by a factor in 1 - this to 1 + this, at the same pitch.
      max_shift: Most frames, of 32 ms, that a clip is moved by, to either side.
      max_noise: Greatest share of background noise; noise is changed like a clip beforehand.

    Raises:
      ValueError: On construction, for a value that cannot work.

    Source: https://github.com/tugstugi/pytorch-speech-commands.
    """

    probability: float = 0.5
    min_amplitude: float = 0.7
    max_amplitude: float = 1.1
    max_speed: float = 0.2
    max_stretch: float = 0.2
    max_shift: int = 8
    max_noise: float = 0.45

    def __post_init__(self):
        check_types(self)
        check_fraction(self, "probability", "max_noise", closed=True)
        check_fraction(self, "max_speed", "max_stretch")
        if not 0 < self.min_amplitude <= self.max_amplitude:
            raise ValueError(
                f"min_amplitude {self.min_amplitude} must be positive and at most max_amplitude "
                f"{self.max_amplitude}"
            )
        if not 0 <= self.max_shift < NUM_FRAMES:
            raise ValueError(f"max_shift {self.max_shift} must be in 0 to {NUM_FRAMES - 1} frames")
