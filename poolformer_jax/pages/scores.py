"""One page about the scores of generated clips: tables, classes, clips to listen to."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
from jaxtyping import Float

from poolformer_jax.audio.codec import to_pcm
from poolformer_jax.classifier.log_mel import CLIP_LENGTH, SAMPLE_RATE
from poolformer_jax.evals.samples.wav_folder import read_clips
from poolformer_jax.evals.scores.accuracy import describe_accuracy
from poolformer_jax.evals.scores.metrics import SampleMetrics
from poolformer_jax.evals.scores.published import (
    FILTERED_NUM_CLIPS,
    PUBLISHED_HEADER,
    PUBLISHED_SC09,
    PUBLISHED_SOURCES,
)
from poolformer_jax.evals.scores.scoring import Scores
from poolformer_jax.evals.scores.table import COLUMNS, HEADER, format_score, score_row
from poolformer_jax.files import write_whole
from poolformer_jax.pages import html as page
from poolformer_jax.pages.plots import plot_classes, plot_confusion
from poolformer_jax.pages.run_files import Clip
from poolformer_jax.sampling.folder import PAGE_FILE

CLIPS_PER_GROUP = 4
"""Players in each of the three groups: each takes about 0.2 MB."""


def write_metrics_page(folder: pathlib.Path, scores: Scores) -> pathlib.Path:
    """Writes `index.html` into a folder, and returns its path."""
    sections = [
        page.tiles(_headline(scores)),
        *map(page.warning, scores.warnings),
        page.section("Scores", _scores(scores)),
        page.section("Published on SC09", _published(scores)),
        page.section("Are all classes generated?", _classes(scores)),
        page.section("Predicted and true classes", _confusions(scores)),
        page.section("Listen", _clips(scores)),
        page.section("Made with", page.table(page.facts(scores.about))),
    ]
    path = folder / PAGE_FILE
    title = f"Generated clips against {scores.about['reference']['name']}"
    write_whole(path, page.document(title, sections))
    return path


def choose_clips(goodness: Float[np.ndarray, " b"]) -> tuple[list[int], list[int], list[int]]:
    """Picks the clips of highest, middle and lowest goodness, the best first in each group."""
    order = np.argsort(-goodness, kind="stable").tolist()
    size = min(CLIPS_PER_GROUP, max(1, len(order) // 3))
    middle = (len(order) - size) // 2
    return order[:size], order[middle : middle + size], order[-size:]


def _headline(scores: Scores) -> list[tuple[str, str]]:
    generated, *others = scores.sets
    real = next((scored for scored in others if scored.name.startswith("real_")), None)
    tiles = []
    for field, heading in COLUMNS.items():
        beside = "" if real is None else f" · {real.title}: {_plain(real.metrics, field)}"
        tiles.append((_plain(generated.metrics, field), heading + beside))
    counts = generated.clips.counts()
    tiles.append((f"{np.count_nonzero(counts)} of {len(counts)}", "classes are predicted"))
    tiles.append((f"{len(generated.clips.names):,}", "generated clips"))
    if scores.accuracy is not None:
        tiles.append((f"{scores.accuracy.value:.1%}", "accuracy of the classifier on real clips"))
    return tiles


def _plain(metrics: SampleMetrics, field: str) -> str:
    return format_score(dataclasses.replace(getattr(metrics, field), interval=None))


def _scores(scores: Scores) -> str:
    interval = scores.sets[0].metrics.fid.interval
    spread = (
        "No intervals were computed."
        if interval is None
        else f"± is half the width of a {interval.confidence:.0%} bootstrap interval over the "
        f"clips of the row ({interval.resamples} resamples): how much the score would vary with "
        "other clips of the same kind and number."
    )
    rows = [score_row(scored) for scored in scores.sets]
    return page.table(rows, header=HEADER, numeric=True) + page.caption(
        f"{describe_accuracy(scores.accuracy)} Arrows show which way is better. {spread} FID and "
        "NDB depend on the number of clips. IS is the standard inception score; IS-S4 is what the "
        "S4 code computes under that name. AM is in nats. NDB is the share of the cells of feature "
        "space that are filled differently from the reference. The class entropy is in bits."
    )


def _published(scores: Scores) -> str:
    table = page.table(PUBLISHED_SC09, header=PUBLISHED_HEADER, numeric=True)
    deviations = scores.deviations
    if deviations:
        return page.muted(table) + page.caption(
            f"For orientation only: the scores above cannot be compared with these, because "
            f"{'; '.join(deviations)}. {PUBLISHED_SOURCES}"
        )
    count = scores.sets[0].metrics.num_clips
    alike = (
        "the filtered row compares with those filtered by likelihood"
        if count == FILTERED_NUM_CLIPS
        else "they compare with those of as many clips"
    )
    return table + page.caption(
        f"The scores above were made as these were, of {count:,} generated clips: {alike}. "
        f"{PUBLISHED_SOURCES}"
    )


def _classes(scores: Scores) -> str:
    shares = {}
    for scored in scores.sets:
        if scored.name.startswith("samples"):
            shares[scored.title] = scored.clips.counts() / len(scored.clips.names)
    counts = scores.sets[0].clips.counts()
    missing = [name for name, count in zip(scores.class_names, counts, strict=True) if not count]
    rarest = int(counts.argmin())
    remark = (
        f"Never predicted: {', '.join(missing)}."
        if missing
        else f"All of them; the rarest is {scores.class_names[rarest]}, with {counts[rarest]:,} of "
        f"{counts.sum():,} clips."
    )
    return page.picture(
        plot_classes(scores.class_names, shares, scores.reference.probs),
        "Share of the predicted classes",
        caption=f"{remark} Bars: share of the clips for which the classifier finds this class the "
        "likeliest. Lines: mean probabilities of the reference.",
        kind="wide",
    )


def _confusions(scores: Scores) -> str:
    parts = []
    for scored in scores.sets:
        counts = scored.clips.confusion()
        if counts is not None and scored.name in ("samples", "real_test"):
            figure = plot_confusion(scores.class_names, counts)
            picture = page.picture(figure, f"Confusion of {scored.title} clips")
            heading = f"{scored.title}: {scored.clips.accuracy:.1%} as labelled"
            parts.append(page.group(heading, picture))
    remark = ""
    if scores.sets[0].clips.labels is None:
        remark = page.caption(
            "The generated clips were drawn without labels, so their true classes are unknown."
        )
    return page.columns(parts) + remark


def _clips(scores: Scores) -> str:
    clips, rows = scores.sets[0].clips, scores.samples.rows
    if rows is None:
        goodness, kinds = -clips.entropies, ("Surest", "In the middle", "Least sure")
        text = "Ordered by how sure the classifier is of a clip: the entropy of its probabilities."
    else:
        goodness = -np.array([row.bits_per_sample for row in rows])
        kinds = ("Most likely", "In the middle", "Least likely")
        text = (
            "Ordered by likelihood under the model that drew them. The most likely clips are often "
            "the plainest, such as silence; the filter leaves them out too."
        )
    text += " Heard as the classifier hears them: one second, 16 kHz, one channel."
    groups = []
    for kind, chosen in zip(kinds, choose_clips(goodness.astype(np.float64)), strict=True):
        heard = []
        for index in chosen:
            predicted = int(clips.predicted[index])
            probability = float(np.exp(clips.log_probs[index, predicted]))
            bits = "" if rows is None else f" · {rows[index].bits_per_sample:.3f} bits"
            note = f"{scores.class_names[predicted]} {probability:.0%}{bits}"
            heard.append(_read_clip(scores.samples.paths[index], note))
        heading = f"{kind}: {len(chosen)} of {len(clips.names):,}"
        groups.append(page.group(heading, page.players(heard)))
    return page.caption(text) + "".join(groups)


def _read_clip(path: pathlib.Path, note: str) -> Clip:
    """As the classifier hears it."""
    (batch,) = read_clips(
        [path], num_samples=CLIP_LENGTH, sample_rate=SAMPLE_RATE, resample=True, batch_size=1
    )
    return Clip(name=path.stem, pcm=to_pcm(batch.audio[0]), sample_rate=SAMPLE_RATE, note=note)
