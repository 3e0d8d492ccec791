"""Scores of a folder of generated clips, and of the real and other clips that bound them.

The way through this room: a classifier turns sets of clips into features and probabilities
(`classified`), those of the training clips are what others are compared with (`reference`), all
scores of one set are computed at once (`metrics`), and here they are put together, set by set, with
what a reader has to know about them, as `metrics.json` and the page show it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from poolformer_jax.evals.samples.clip_sets import ClipSet, Relation
from poolformer_jax.evals.samples.generated import GeneratedClips
from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.accuracy import Accuracy, find_accuracy_warnings
from poolformer_jax.evals.scores.classified import ClassifiedClips
from poolformer_jax.evals.scores.likelihood_filter import HIGH, LOW, likelihood_quantile_filter
from poolformer_jax.evals.scores.metrics import MIN_FRECHET_CLIPS, SampleMetrics, sample_metrics
from poolformer_jax.evals.scores.published import find_deviations
from poolformer_jax.evals.scores.reference import Classify, ReferenceStatistics
from poolformer_jax.files import write_json

RESULT_FILE = "metrics.json"
_NAMES_IN_RESULT = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """A set of clips with its scores.

    Attributes:
      name: For machines, such as `samples`.
      title: For people.
      metrics: The scores.
      clips: The classifier's features and probabilities of each clip.
      relation: To the reference.
    """

    name: str
    title: str
    metrics: SampleMetrics
    clips: ClassifiedClips
    relation: Relation = "apart"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer:
    """How clips are scored.

    Attributes:
      reference: What they are compared with.
      resamples: For the intervals, of every score; none are computed if 0.
      seed: Of the resamples.
      on_progress: Called with the title of a set, the resamples done and their total.
    """

    reference: ReferenceStatistics
    resamples: int = 50
    seed: int = 0
    on_progress: Callable[[str, int, int], None] = lambda title, done, total: None

    def score(
        self, name: str, title: str, clips: ClassifiedClips, *, relation: Relation = "apart"
    ) -> ScoredSet:
        """Computes all scores of classified clips; errors are those of `sample_metrics`."""
        reference = self.reference
        if relation == "left_out":
            reference = reference.without(clips.features, clips.log_probs)
        metrics = sample_metrics(
            reference,
            clips.features,
            clips.log_probs,
            resamples=self.resamples,
            seed=self.seed,
            on_progress=functools.partial(self.on_progress, title),
        )
        return ScoredSet(name=name, title=title, metrics=metrics, clips=clips, relation=relation)

    def score_filtered(
        self, scored: ScoredSet, log_likelihoods: Float[np.ndarray, " b"]
    ) -> ScoredSet:
        """Scores the clips of moderate likelihood alone, as SaShiMi's published scores are.

        Raises:
          ValueError: As `likelihood_quantile_filter`.
        """
        kept = likelihood_quantile_filter(log_likelihoods)
        names = {scored.clips.names[clip] for clip in kept}
        before = scored.clips.report
        report = FolderReport(
            num_clips=len(kept),
            silent=tuple(name for name in before.silent if name in names),
            non_finite=tuple(name for name in before.non_finite if name in names),
        )
        title = f"{scored.title}, filtered {LOW:.2f}–{HIGH:.2f}"
        return self.score(f"{scored.name}_filtered", title, scored.clips.take(kept, report))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scores:
    """The scores of a folder of generated clips, as far as they are computed.

    Attributes:
      samples: The generated clips.
      sets: All scored sets; the first is of all generated clips.
      faults: What a reader has to know about the generated clips, and those of a folder that they
        are compared with.
      reference: What the clips were compared with.
      accuracy: Of the classifier on real clips; None if it is unknown.
      class_names: Names of the classes.
      about: How the scores were made: what else `metrics.json` shall say.
    """

    samples: GeneratedClips
    sets: Sequence[ScoredSet]
    faults: Sequence[str]
    reference: ReferenceStatistics
    accuracy: Accuracy | None
    class_names: Sequence[str]
    about: Mapping[str, Any]

    @property
    def warnings(self) -> list[str]:
        """What a reader must not overlook."""
        return [
            *find_accuracy_warnings(self.accuracy),
            *find_count_warnings(self.sets),
            *find_part_warnings(self.sets),
            *self.faults,
        ]

    @property
    def deviations(self) -> list[str]:
        """What is not as in the published scores on SC09; empty if they compare."""
        return find_deviations(
            self.about,
            num_clips={scored.name: scored.metrics.num_clips for scored in self.sets},
            report=self.sets[0].clips.report,
            accuracy=self.accuracy,
        )

    def write(self, folder: pathlib.Path) -> pathlib.Path:
        """Writes `metrics.json` and returns its path; a score that is not finite becomes null."""
        deviations = self.deviations
        results = {
            "classifier_accuracy": self.accuracy and dataclasses.asdict(self.accuracy),
            "as_published": not deviations,
            "not_as_published": deviations,
            "warnings": self.warnings,
            "sets": [_describe(scored, self.class_names) for scored in self.sets],
        }
        path = folder / RESULT_FILE
        write_json(path, _strict({**self.about, **results}))
        return path


def score_samples(
    samples: GeneratedClips,
    classified: ClassifiedClips,
    scorer: Scorer,
    *,
    accuracy: Accuracy | None,
    class_names: Sequence[str],
    about: Mapping[str, Any],
    baselines: Sequence[ClipSet],
    classify: Classify,
) -> Iterator[Scores]:
    """Scores generated clips, those of moderate likelihood if it is known, and what bounds them.

    Args:
      samples: The generated clips.
      classified: The same, classified.
      scorer: How to score them.
      accuracy: See `Scores`.
      class_names: See `Scores`.
      about: See `Scores`.
      baselines: Sets to score beside.
      classify: Classifies them.

    Yields:
      The scores so far, first without the baselines and then after each of them: intervals may take
      minutes, and an interruption should cost no more than those of one set.
    """
    generated = scorer.score(samples.clips.name, samples.clips.title, classified)
    sets, faults = [generated], find_faults(generated.clips.report, "generated")
    if "folder" in about["reference"]:
        faults += find_faults(scorer.reference.report, "reference")
    if samples.rows is not None:
        log_likelihoods = np.array([row.log_likelihood for row in samples.rows])
        try:
            sets.append(scorer.score_filtered(generated, log_likelihoods))
        except ValueError as error:
            faults.append(f"there is no row of clips filtered by likelihood: {error}")
    elif samples.settings is not None:
        faults.append(
            f"{samples.folder} is not complete, so there is no row of clips filtered by "
            "likelihood: launch.sample writes the likelihoods when the last clip is drawn"
        )
    scores = Scores(
        samples=samples,
        sets=sets,
        faults=faults,
        reference=scorer.reference,
        accuracy=accuracy,
        class_names=class_names,
        about=about,
    )
    yield scores
    for clips in baselines:
        scored = scorer.score(clips.name, clips.title, classify(clips), relation=clips.relation)
        scores = dataclasses.replace(scores, sets=[*scores.sets, scored])
        yield scores


def check_classes(known: Sequence[str], wanted: Sequence[str], data: str) -> None:
    """Raises ValueError unless a classifier tells the classes of a data set, in their order."""
    if not wanted:
        raise ValueError(
            f"the data set {data!r} has no classes, which these scores need; name another one"
        )
    if tuple(known) != tuple(wanted):
        raise ValueError(
            f"the classifier's classes ({', '.join(known)}) are not those of the data set {data!r} "
            f"({', '.join(wanted)}); use a classifier that was trained on it"
        )


def find_count_warnings(sets: Sequence[ScoredSet]) -> list[str]:
    """What a reader has to know about the numbers of clips of all sets, also of real ones."""
    found = [
        f"FID is biased: {scored.title} has {scored.metrics.num_clips:,} clips, fewer than "
        f"{MIN_FRECHET_CLIPS:,}. The fewer the clips, the larger the FID: compare it only with "
        "that of equally many clips, and not with published values"
        for scored in sets
        if scored.metrics.fid_is_biased
    ]
    if len({scored.metrics.num_clips for scored in sets}) > 1:
        counts = "; ".join(f"{scored.title}: {scored.metrics.num_clips:,}" for scored in sets)
        found.append(
            f"the sets differ in number of clips ({counts}): with fewer clips FID looks worse and "
            "NDB looks better; compare equal numbers only"
        )
    return found


def find_part_warnings(sets: Sequence[ScoredSet]) -> list[str]:
    """Which recordings are in the reference itself, and what that does to their scores.

    With features of m clips drawn from the n of the reference, the variance of what FID measures is
    proportional to 1 / m - 1 / n; of fresh clips it is 1 / m + 1 / n.
    """
    found = []
    for scored in sets:
        if scored.relation == "part":
            m, n = scored.metrics.num_clips, scored.metrics.num_reference
            found.append(
                f"{scored.title}: these clips are compared with themselves among others, so their "
                f"FID is about {(n - m) / (n + m):.0%} of what fresh clips, and a perfect "
                "generator, would have; --baselines=held_out_train leaves them out of the reference"
            )
    return found


def find_faults(report: FolderReport, title: str) -> list[str]:
    """What a reader has to know about the clips of a folder that are not as they should be."""
    found = []
    for names, fault in (
        (report.silent, "are silent (all samples are equal)"),
        (report.non_finite, "hold NaN or infinity, which was read as 0"),
    ):
        shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        found.append((len(names), f"{fault}; they are scored all the same: {shown}"))
    found += [
        (report.padded, "are shorter than a second and were filled up with silence"),
        (report.truncated, "are longer than a second: the scores are of their first second"),
        (report.resampled, "had another rate or several channels and were converted"),
    ]
    total = f"{report.num_clips:,} {title} clips"
    return [f"{count:,} of {total} {fault}" for count, fault in found if count]


def _describe(scored: ScoredSet, class_names: Sequence[str]) -> dict[str, Any]:
    report, confusion = scored.clips.report, scored.clips.confusion()
    return {
        "name": scored.name,
        "title": scored.title,
        "relation_to_reference": scored.relation,
        "metrics": dataclasses.asdict(scored.metrics),
        "predicted": dict(zip(class_names, scored.clips.counts().tolist(), strict=True)),
        "class_entropy": scored.clips.class_entropy,
        "accuracy": scored.clips.accuracy,
        "confusion": None if confusion is None else confusion.tolist(),
        "clips": {
            "count": report.num_clips,
            "silent": _names(report.silent),
            "non_finite": _names(report.non_finite),
            "resampled": report.resampled,
            "padded": report.padded,
            "truncated": report.truncated,
        },
    }


def _names(names: Sequence[str]) -> dict[str, Any]:
    return {"count": len(names), "first": list(names[:_NAMES_IN_RESULT])}


def _strict(value: Any) -> Any:
    """JSON knows neither infinity nor NaN."""
    match value:
        case dict():
            return {name: _strict(part) for name, part in value.items()}
        case list() | tuple():
            return [_strict(part) for part in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
