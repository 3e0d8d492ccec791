"""Spoken digits, synthesised with eSpeak NG: an embedded stand-in for SC09.

The ten words "zero" to "nine" in the voice variants of eSpeak NG, each take with its own accent,
rate, pitch and pitch range. The splits hold different voices: 84 train, 10 validation and 10 test
voices times 10 takes of 10 words are 8,400 / 1,000 / 1,000 clips. Where speakers are named, all
splits hold the same voices, each with takes of its own.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from poolformer_jax.data.builders import espeak
from poolformer_jax.data.builders.features import DIGIT_WORDS, clip_features
from poolformer_jax.data.config import DatasetConfig

MAX_SAMPLES = 16_000  # One second.

ACCENTS = (
    "en",
    "en-029",
    "en-gb-scotland",
    "en-gb-x-gbclan",
    "en-gb-x-gbcwmd",
    "en-gb-x-rp",
    "en-us",
    "en-us-nyc",
)

# Some variants are near copies of others (klatt and klatt2, adam and klatt6, Gene and Gene2). The
# held-out ones are far from every other in the mean log spectrum of their words, so that a model
# cannot have heard them in training under another name.
VALIDATION_VOICES = (
    "Alicia",
    "Jacky",
    "Lee",
    "Marco",
    "boris",
    "ed",
    "f1",
    "pablo",
    "shelby",
    "travis",
)
TEST_VOICES = (
    "Andrea",
    "Annie",
    "Storm",
    "grandma",
    "ian",
    "marcelo",
    "norbert",
    "quincy",
    "sandro",
    "zac",
)


@dataclasses.dataclass(eq=False, kw_only=True)
class DigitsConfig(tfds.core.BuilderConfig):
    """What to speak.

    Attributes:
      seed: Of the takes' accents, rates and pitches.
      voices: At most so many voices of each split, train / validation / test; None means all.
      takes: Takes of each word by each voice.
      speakers: The only voices, which say eight in ten of their takes in the training split and one
        in ten in each of the others; empty for voices that are in one split each.
      accents: Of which each take has one.
      rates: Words a minute, from the slowest to the fastest.
      pitches: From the lowest to the highest, see `espeak.Utterance`.
      pitch_ranges: From the flattest to the liveliest.
      min_samples: To which a shorter word is prolonged by silence, so that a model learns to end.
    """

    name: str = dataclasses.field(init=False)
    seed: int = 0
    voices: tuple[int, int, int] | None = None
    takes: int = 10
    speakers: tuple[str, ...] = ()
    accents: tuple[str, ...] = ACCENTS
    rates: tuple[int, int] = (110, 190)
    pitches: tuple[int, int] = (25, 75)
    pitch_ranges: tuple[int, int] = (20, 80)
    min_samples: int = 0

    def __post_init__(self):
        voices = "all" if self.voices is None else "-".join(map(str, self.voices))
        voices = "-".join(self.speakers) or voices
        self.name = f"seed{self.seed}_voices_{voices}_takes{self.takes}"
        if self.accents != ACCENTS:
            self.name += f"_{'-'.join(self.accents)}"
        for field in ("rates", "pitches", "pitch_ranges"):
            least, most = getattr(self, field)
            if (least, most) != getattr(DigitsConfig, field):
                self.name += f"_{field}{least}-{most}"
        if self.min_samples:
            self.name += f"_min{self.min_samples}"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One planned clip: key in the data set, label (index into DIGIT_WORDS), take and utterance."""

    key: str
    label: int
    take: int
    utterance: espeak.Utterance


def plan(config: DigitsConfig) -> dict[str, list[Clip]]:
    """Returns every split's clips, drawn from the seed, without synthesising any.

    A voice's takes depend on the seed and its name alone.

    Raises:
      ImportError: If `espeakng_loader` is not installed.
      ValueError: If the installed eSpeak NG lacks a held-out voice.
    """
    variants = espeak.voice_variants()
    missing = sorted({*VALIDATION_VOICES, *TEST_VOICES, *config.speakers} - set(variants))
    if missing:
        raise ValueError(
            f"the installed eSpeak NG lacks the voice variants {', '.join(missing)}; "
            "run: pip install -e '.[digits]' for the tested version"
        )
    if config.speakers:
        clips = [clip for voice in config.speakers for clip in _takes(voice, config)]
        ends = {"train": (0, 0.8), "validation": (0.8, 0.9), "test": (0.9, 1)}
        return {
            split: [clip for clip in clips if start <= clip.take / config.takes < end]
            for split, (start, end) in ends.items()
        }
    train = [v for v in variants if v not in VALIDATION_VOICES and v not in TEST_VOICES]
    splits = {"train": train, "validation": [*VALIDATION_VOICES], "test": [*TEST_VOICES]}
    limits = config.voices or (None, None, None)
    return {
        split: [clip for voice in voices[:limit] for clip in _takes(voice, config)]
        for (split, voices), limit in zip(splits.items(), limits, strict=True)
    }


def _takes(voice: str, config: DigitsConfig) -> Iterator[Clip]:
    # A string seeds Python's generator the same way on every platform and version.
    rng = random.Random(f"{config.seed}/{voice}")
    for take in range(config.takes):
        for label, word in enumerate(DIGIT_WORDS):
            utterance = espeak.Utterance(
                text=word,
                accent=rng.choice(config.accents),
                voice=voice,
                rate=rng.randint(*config.rates),
                pitch=rng.randint(*config.pitches),
                pitch_range=rng.randint(*config.pitch_ranges),
                seed=rng.randrange(2**31),
            )
            yield Clip(key=f"{voice}/{word}/{take}", label=label, take=take, utterance=utterance)


class Digits(tfds.core.GeneratorBasedBuilder):
    """Spoken digits of at most one second at 16 kHz; splits by voice.

    Every build of a configuration holds the same examples in the same order. The files' bytes
    differ, because protobuf does not fix the order in which an example's fields are written.
    """

    # The recipe's version: it names the folder, so raise it whenever the bytes would change.
    VERSION = tfds.core.Version("2.0.0")

    @classmethod
    def recipe(cls, config: DatasetConfig) -> DigitsConfig:
        """What to build for a configuration."""
        return DigitsConfig(seed=config.build_seed, **config.dataset.options)

    def _info(self) -> tfds.core.DatasetInfo:
        return self.dataset_info_from_configs(
            description=__doc__,
            features=clip_features(labels=DIGIT_WORDS),
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        del dl_manager  # Nothing is downloaded.
        config = self.builder_config
        assert isinstance(config, DigitsConfig)
        return {split: self._generate_examples(clips) for split, clips in plan(config).items()}

    def _generate_examples(self, clips: list[Clip]) -> Iterator[tuple[str, dict[str, Any]]]:
        spoken = espeak.synthesize([clip.utterance for clip in clips], max_samples=MAX_SAMPLES)
        for clip, pcm in zip(clips, spoken, strict=True):
            pcm = np.pad(pcm, (0, max(0, self.builder_config.min_samples - len(pcm))))
            example = {"audio": pcm, "name": clip.key, "label": clip.label}
            yield clip.key, example | {"speaker": clip.utterance.voice}
