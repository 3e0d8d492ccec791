"""How often the classifier behind the scores is right on recordings: what they can tell at best."""

from __future__ import annotations

import dataclasses
import pathlib

from poolformer_jax.evals.samples.clip_sets import ClipSet
from poolformer_jax.evals.scores.reference import Classify
from poolformer_jax.files import read_json, write_json

MIN_ACCURACY = 0.95
"""Below it is warned of. The published classifier has 98.08 % on SC09, those of digits 99 %."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Accuracy:
    """Share of real test clips whose likeliest class is the true one.

    Attributes:
      value: From 0 to 1.
      num_clips: Test clips.
      clips: Their data set and split.
    """

    value: float
    num_clips: int
    clips: str


def cached_accuracy(
    folder: pathlib.Path, clips: ClipSet, classify: Classify, *, key: str, name: str
) -> Accuracy:
    """Reads the accuracy of a classifier, or measures it and keeps it as `<key>.json`.

    Args:
      folder: Where references are kept.
      clips: Labelled recordings that the classifier was not trained on.
      classify: Classifies them.
      key: `reference_key` of classifier and clips.
      name: Of the clips, for people.

    Raises:
      ValueError: If the file is damaged.
    """
    path = folder / f"{key}.json"
    try:
        content = read_json(path)
        return Accuracy(value=float(content["value"]), num_clips=content["num_clips"], clips=name)
    except FileNotFoundError:
        pass
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged ({error}); delete it, and the accuracy is measured again"
        ) from error
    classified = classify(clips)
    assert classified.accuracy is not None
    accuracy = Accuracy(value=classified.accuracy, num_clips=len(classified.names), clips=name)
    write_json(path, dataclasses.asdict(accuracy))
    return accuracy


def describe_accuracy(accuracy: Accuracy | None) -> str:
    """A sentence to show beside scores."""
    if accuracy is None:
        return "The classifier's accuracy on real clips was not measured."
    return (
        f"The classifier is right on {accuracy.value:.1%} of {accuracy.num_clips:,} real clips "
        f"({accuracy.clips})."
    )


def find_accuracy_warnings(accuracy: Accuracy | None) -> list[str]:
    """What a reader has to know about a classifier that is often wrong, or nobody knows."""
    if accuracy is None:
        return [
            "the classifier's accuracy on real clips is unknown, because the reference has no "
            "labels: measure it with a data set as the reference, such as --reference=sc09:train"
        ]
    if accuracy.value >= MIN_ACCURACY:
        return []
    return [
        f"the classifier is right on only {accuracy.value:.1%} of {accuracy.num_clips:,} real "
        f"clips ({accuracy.clips}); below {MIN_ACCURACY:.0%} the scores say little about the clips"
    ]
