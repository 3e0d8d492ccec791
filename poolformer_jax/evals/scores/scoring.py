"""Scores of a folder of generated clips, and of the real and other clips that bound them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import math
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from poolformer_jax.evals.samples.clip_sets import ClipSet
from poolformer_jax.evals.samples.generated import GeneratedClips
from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.classified import ClassifiedClips
from poolformer_jax.evals.scores.likelihood_filter import likelihood_quantile_filter
from poolformer_jax.evals.scores.metrics import MIN_FRECHET_SAMPLES, SampleMetrics, sample_metrics
from poolformer_jax.evals.scores.reference import ReferenceStatistics
from poolformer_jax.files import write_whole

Classify = Callable[[ClipSet], ClassifiedClips]

RESULT_FILE = "metrics.json"
LOW_QUANTILE, HIGH_QUANTILE = 0.40, 0.95  # Of the likelihood, as SaShiMi's scores are filtered.
_NAMES_IN_RESULT = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoredSet:
    """A set of clips with its scores.

    Attributes:
      name: For machines, such as `samples`.
      title: For people.
      metrics: The scores.
      clips: What the classifier makes of each clip.
    """

    name: str
    title: str
    metrics: SampleMetrics
    clips: ClassifiedClips


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

    def score(self, name: str, title: str, clips: ClassifiedClips) -> ScoredSet:
        """Computes all scores of classified clips; errors are those of `sample_metrics`."""
        metrics = sample_metrics(
            self.reference,
            clips.features,
            clips.log_probs,
            resamples=self.resamples,
            frechet_resamples=self.resamples,
            seed=self.seed,
            on_progress=functools.partial(self.on_progress, title),
        )
        return ScoredSet(name=name, title=title, metrics=metrics, clips=clips)

    def score_filtered(
        self, scored: ScoredSet, log_likelihoods: Float[np.ndarray, " b"]
    ) -> ScoredSet:
        """Scores the clips of middling likelihood alone, as SaShiMi's published scores are.

        Raises:
          ValueError: If fewer than 2 clips are left, or a likelihood isn't finite.
        """
        kept = likelihood_quantile_filter(log_likelihoods, low=LOW_QUANTILE, high=HIGH_QUANTILE)
        if len(kept) < 2:
            raise ValueError(
                f"of {len(log_likelihoods)} clips {len(kept)} is left between the quantiles "
                f"{LOW_QUANTILE} and {HIGH_QUANTILE} of the second half; draw more"
            )
        names = {scored.clips.names[clip] for clip in kept}
        before = scored.clips.report
        report = FolderReport(
            num_clips=len(kept),
            silent=tuple(name for name in before.silent if name in names),
            non_finite=tuple(name for name in before.non_finite if name in names),
        )
        return self.score(
            f"{scored.name}_filtered",
            f"{scored.title}, filtered {LOW_QUANTILE:.2f}–{HIGH_QUANTILE:.2f}",
            scored.clips.take(kept, report),
        )


def data_hash(manifest_sha256: str, split: str) -> str:
    """SHA-256 of the identity of a split."""
    return hashlib.sha256(f"{manifest_sha256}/{split}".encode()).hexdigest()


def cached_reference(
    path: pathlib.Path, clips: ClipSet, classify: Classify, *, key: str, num_cells: int
) -> ReferenceStatistics:
    """Reads the statistics of the reference, or computes them once and keeps them.

    Args:
      path: Of the file that keeps them.
      clips: The reference.
      classify: Computes what the classifier makes of them.
      key: `reference_key` of all that they depend on.
      num_cells: Cells of feature space.

    Raises:
      ValueError: If the file is damaged, or there are fewer distinct clips than cells.
    """
    try:
        return ReferenceStatistics.load(path, key=key)
    except FileNotFoundError:
        classified = classify(clips)
    reference = ReferenceStatistics.of(
        classified.features, classified.log_probs, key=key, num_cells=num_cells
    )
    reference.save(path)
    return reference


def score_generated(
    samples: GeneratedClips, classified: ClassifiedClips, scorer: Scorer
) -> tuple[list[ScoredSet], list[str]]:
    """Scores generated clips, and those of middling likelihood if it is known.

    Returns:
      (one or two sets, warnings; those of `find_count_warnings`, of all sets, not among them).
    """
    generated = scorer.score(samples.clips.name, samples.clips.title, classified)
    sets, warnings = [generated], find_warnings(generated)
    if samples.rows is not None:
        log_likelihoods = np.array([row.log_likelihood for row in samples.rows])
        try:
            sets.append(scorer.score_filtered(generated, log_likelihoods))
        except ValueError as error:
            warnings.append(f"there is no row of clips filtered by likelihood: {error}")
    elif samples.settings is not None:
        warnings.append(
            f"{samples.folder} is not complete: launch.sample writes the likelihoods at its end, "
            "and without them there is no row of clips filtered by likelihood"
        )
    return sets, warnings


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
        f"FID is biased: {scored.title} has {scored.metrics.num_samples:,} clips, fewer than "
        f"{MIN_FRECHET_SAMPLES:,}. It is too large, the more so the fewer clips there are; "
        "compare it with an equal number of clips only, and not with published values"
        for scored in sets
        if scored.metrics.fid_is_biased
    ]
    if len({scored.metrics.num_samples for scored in sets}) > 1:
        counts = "; ".join(f"{scored.title}: {scored.metrics.num_samples:,}" for scored in sets)
        found.append(
            f"the sets differ in number of clips ({counts}): FID falls with it, and NDB rises, so "
            "that NDB looks better the fewer clips there are; compare equal numbers only"
        )
    return found


def find_warnings(scored: ScoredSet) -> list[str]:
    """What a reader has to know about generated clips that are not as they should be."""
    report, count = scored.clips.report, len(scored.clips.names)
    found = []
    for names, fault in (
        (report.silent, "silent (all samples are equal)"),
        (report.non_finite, "holding NaN or infinity, which was read as 0"),
    ):
        if names:
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            found.append(
                f"{len(names):,} of {count:,} {scored.title} clips are scored although {fault}: "
                f"{shown}"
            )
    if report.padded:
        found.append(
            f"{report.padded:,} of {count:,} {scored.title} clips are shorter than a second and "
            "were filled up with silence"
        )
    if report.truncated:
        found.append(
            f"{report.truncated:,} of {count:,} {scored.title} clips are longer than a second: "
            "the scores are of their first second"
        )
    if report.resampled:
        found.append(
            f"{report.resampled:,} of {count:,} {scored.title} clips had another rate or several "
            "channels and were converted"
        )
    return found


def write_result(
    folder: pathlib.Path,
    sets: Sequence[ScoredSet],
    warnings: Sequence[str],
    *,
    about: Mapping[str, Any],
    class_names: Sequence[str],
) -> pathlib.Path:
    """Writes `metrics.json` in one go; a score that is not finite becomes null.

    Args:
      folder: Of the file.
      sets: With their scores.
      warnings: What a reader has to know.
      about: What else the file shall say.
      class_names: Names of the classes.

    Returns:
      The path of the file.
    """
    result = {
        **about,
        "warnings": list(warnings),
        "sets": [_describe(scored, class_names) for scored in sets],
    }
    path = folder / RESULT_FILE
    text = json.dumps(_strict(result), indent=2, allow_nan=False) + "\n"
    write_whole(path, text)
    return path


def _describe(scored: ScoredSet, class_names: Sequence[str]) -> dict[str, Any]:
    report, confusion = scored.clips.report, scored.clips.confusion()
    return {
        "name": scored.name,
        "title": scored.title,
        "metrics": dataclasses.asdict(scored.metrics),
        "predicted": dict(zip(class_names, scored.clips.counts().tolist(), strict=True)),
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
    match value:
        case dict():
            return {name: _strict(part) for name, part in value.items()}
        case list() | tuple():
            return [_strict(part) for part in value]
        case float() if not math.isfinite(value):
            return None
        case _:
            return value
