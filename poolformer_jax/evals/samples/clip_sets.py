"""Sets of one-second clips to score: generated ones, recordings, and what bounds them."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
from jaxtyping import Int, Int16

from poolformer_jax.audio.codec import CodecName, decode, encode, silence_code
from poolformer_jax.classifier.log_mel import CLIP_LENGTH, SAMPLE_RATE
from poolformer_jax.data.source import Source, as_text
from poolformer_jax.evals.samples.wav_folder import ClipBatch, FolderReport, read_clips

Listen = Callable[[Int16[np.ndarray, " t"]], Int16[np.ndarray, " s"]]
"""What becomes of a recording before it is scored."""

Relation = Literal["apart", "part", "left_out"]
"""Of clips to the reference: others, a part of it, or a part that is left out of it meanwhile."""

_NOISE_LEVEL = 0.1  # Standard deviation; the front end makes all clips equally loud.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSet:
    """Clips that can be read as often as needed.

    Attributes:
      name: For machines, such as `real_test`.
      title: For people.
      num_clips: How many there are.
      read: Yields batches of them in order, all but the last of the batch size that it is given.
      relation: To the reference.
    """

    name: str
    title: str
    num_clips: int
    read: Callable[[int], Iterator[ClipBatch]]
    relation: Relation = "apart"


def wav_set(
    paths: Sequence[pathlib.Path],
    *,
    name: str,
    title: str,
    resample: bool = False,
    labels: Int[np.ndarray, " b"] | None = None,
) -> ClipSet:
    """WAV files by any generator, or recordings; see `read_clips`."""

    def read(batch_size: int) -> Iterator[ClipBatch]:
        start = 0
        for batch in read_clips(
            paths,
            num_samples=CLIP_LENGTH,
            sample_rate=SAMPLE_RATE,
            resample=resample,
            batch_size=batch_size,
        ):
            end = start + len(batch.names)
            part = None if labels is None else labels[start:end]
            yield dataclasses.replace(batch, labels=part)
            start = end

    return ClipSet(name=name, title=title, num_clips=len(paths), read=read)


def real_set(source: Source, split: str, *, limit: int | None = None, seed: int = 0) -> ClipSet:
    """Recordings of a split with labels.

    Args:
      source: The split.
      split: Its name.
      limit: Take so many, drawn without replacement, of a larger split.
      seed: Of that choice.
    """
    clips = np.arange(len(source))
    if limit is not None and limit < len(source):
        clips = np.sort(np.random.default_rng(seed).choice(len(source), limit, replace=False))
    return _recordings(source, clips, lambda pcm: pcm, f"real_{split}", f"real, {split}")


def round_trip_set(source: Source, split: str, *, codec: CodecName, normalize: bool) -> ClipSet:
    """Recordings as a model hears them: encoded, padded with the code of silence, and decoded."""

    def listen(pcm: Int16[np.ndarray, " t"]) -> Int16[np.ndarray, " s"]:
        codes = encode(pcm, codec=codec, normalize=normalize, part=slice(CLIP_LENGTH))
        padding = (0, CLIP_LENGTH - len(codes))
        return decode(np.pad(codes, padding, constant_values=silence_code(codec)), codec=codec)

    title = f"real, {split}, {codec}"
    return _recordings(source, np.arange(len(source)), listen, "round_trip", title)


def baseline_sets(
    names: Iterable[str],
    splits: Mapping[str, Source],
    *,
    reference: str | None,
    num_generated: int,
    codec: CodecName,
    normalize: bool,
    seed: int = 0,
) -> list[ClipSet]:
    """Makes the sets that generated clips are compared with.

    Args:
      names: `test`, `train`, `held_out_train`, `round_trip` or `noise`; once each.
      splits: Of the data set; empty if there is none.
      reference: The split that is the reference; None if none of them is.
      num_generated: Clips that were generated. As many are drawn from the training clips, for
        `held_out_train` at most half of these. A part of the reference scores better than a
        perfect generator would; left out of it, the same clips score as fresh ones do.
      codec: For `round_trip`.
      normalize: The same.
      seed: Of the training clips and the noise.

    Raises:
      ValueError: If a name is unknown, or needs a split or reference that is not there.
    """

    def real(split: str, limit: int | None = None) -> ClipSet:
        clips = real_set(splits[split], split, limit=limit, seed=seed)
        if split != reference:
            return clips
        title = f"{clips.title} (in the reference)"
        return dataclasses.replace(clips, title=title, relation="part")

    def held_out() -> ClipSet:
        clips = real("train", limit=min(num_generated, len(splits["train"]) // 2))
        title = "real, train (left out of the reference)"
        return dataclasses.replace(
            clips, name="real_train_held_out", title=title, relation="left_out"
        )

    known = {
        "test": lambda: real("test"),
        "train": lambda: real("train", limit=num_generated),
        "held_out_train": held_out,
        "round_trip": lambda: round_trip_set(
            splits["test"], "test", codec=codec, normalize=normalize
        ),
        "noise": lambda: noise_set(num_generated, seed=seed),
    }
    for name in names:
        if name not in known:
            raise ValueError(f"unknown baseline {name!r}; known: {', '.join(known)}")
        if not splits and name != "noise":
            raise ValueError(
                f"the baseline {name!r} is of a data set, and the reference is none; leave it out "
                "of --baselines, or give the --workdir of a run on that data set"
            )
        if name == "held_out_train" and reference != "train":
            raise ValueError(
                "the baseline 'held_out_train' leaves clips out of a reference of train clips, "
                "which this one is not; use train"
            )
    return [known[name]() for name in dict.fromkeys(names)]


def noise_set(num_clips: int, *, seed: int = 0) -> ClipSet:
    """White noise, normally distributed; a clip depends on the seed and its number alone."""

    def read(batch_size: int) -> Iterator[ClipBatch]:
        for start in range(0, num_clips, batch_size):
            clips = range(start, min(start + batch_size, num_clips))
            audio = [np.random.default_rng((seed, clip)).normal(size=CLIP_LENGTH) for clip in clips]
            yield ClipBatch(
                tuple(f"noise {clip}" for clip in clips),
                (_NOISE_LEVEL * np.stack(audio)).astype(np.float32),
                FolderReport(num_clips=len(clips)),
            )

    return ClipSet(name="noise", title="white noise", num_clips=num_clips, read=read)


def _recordings(
    source: Source, clips: Int[np.ndarray, " b"], listen: Listen, name: str, title: str
) -> ClipSet:
    def read(batch_size: int) -> Iterator[ClipBatch]:
        for start in range(0, len(clips), batch_size):
            examples = [source[int(clip)] for clip in clips[start : start + batch_size]]
            names = tuple(as_text(example["name"]) for example in examples)
            labels = np.array([int(example["label"]) for example in examples])
            audio = np.zeros((len(examples), CLIP_LENGTH), np.float32)
            report = FolderReport()
            for row, name, example in zip(audio, names, examples, strict=True):
                pcm = example["audio"]
                heard = listen(pcm)[:CLIP_LENGTH]
                row[: len(heard)] = heard / 2.0**15
                report += FolderReport(
                    num_clips=1,
                    silent=(name,) if pcm.min() == pcm.max() else (),
                    padded=int(len(pcm) < CLIP_LENGTH),
                    truncated=int(len(pcm) > CLIP_LENGTH),
                )
            yield ClipBatch(names, audio, report, labels)

    return ClipSet(name=name, title=title, num_clips=len(clips), read=read)
