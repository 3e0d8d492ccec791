"""One HTML page about the scores of generated clips: tables, classes, clips to listen to."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Float32

from poolformer_jax.audio.wav import format_wav
from poolformer_jax.classifier.log_mel import CLIP_LENGTH, SAMPLE_RATE
from poolformer_jax.evals.samples.generated import GeneratedClips
from poolformer_jax.evals.samples.wav_folder import read_clips
from poolformer_jax.evals.scores.published import (
    PUBLISHED_NUM_CLIPS,
    PUBLISHED_SC09,
    PUBLISHED_SOURCES,
)
from poolformer_jax.evals.scores.reference import ReferenceStatistics
from poolformer_jax.evals.scores.scoring import ScoredSet
from poolformer_jax.evals.scores.table import (
    COLUMNS,
    HEADER,
    PUBLISHED_HEADER,
    format_score,
    published_row,
    score_row,
)
from poolformer_jax.files import write_whole
from poolformer_jax.pages import html as page
from poolformer_jax.pages.plots import plot_classes, plot_confusion
from poolformer_jax.pages.run_files import Clip

PAGE_FILE = "index.html"
CLIPS_PER_GROUP = 4
"""Players in each of the three groups: each takes about 0.2 MB."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricsPage:
    """What the page shows.

    Attributes:
      samples: The generated clips.
      sets: All scored sets; the first is of all generated clips.
      warnings: What a reader must not overlook.
      reference: What the clips were compared with.
      class_names: Names of the classes.
      about: How the scores were made, as the JSON file says it.
    """

    samples: GeneratedClips
    sets: Sequence[ScoredSet]
    warnings: Sequence[str]
    reference: ReferenceStatistics
    class_names: Sequence[str]
    about: Mapping[str, Any]

    @property
    def is_published_protocol(self) -> bool:
        """Whether the scores may stand beside the published ones of SC09."""
        reference, classifier = self.about["reference"], self.about["classifier"]
        return (
            (reference["data"], reference["partial"], reference["split"])
            == ("sc09", False, "train")
            and (classifier["kind"], classifier["mel_padding"]) == ("resnext29_8x64d", "reflect")
            and "imported_from" in classifier["source"]
            and self.sets[0].metrics.num_samples == PUBLISHED_NUM_CLIPS
        )


def write_metrics_page(folder: pathlib.Path, content: MetricsPage) -> pathlib.Path:
    """Writes `index.html` into a folder, and returns its path."""
    sections = [
        page.tiles(_headline(content)),
        *map(page.warning, content.warnings),
        page.section("Scores", _scores(content)),
        page.section("Published on SC09", _published(content.is_published_protocol)),
        page.section("Are all classes generated?", _classes(content)),
        page.section("Predicted and true classes", _confusions(content)),
        page.section("Listen", _clips(content)),
        page.section("Made with", page.table(_facts(content.about))),
    ]
    path = folder / PAGE_FILE
    reference = content.about["reference"]
    title = f"Generated clips against {reference['data']}:{reference['split']}"
    write_whole(path, page.document(title, sections))
    return path


def choose_clips(goodness: Float[np.ndarray, " b"]) -> tuple[list[int], list[int], list[int]]:
    """Picks the clips of highest, middle and lowest goodness, the best first in each group."""
    order = np.argsort(-goodness, kind="stable").tolist()
    size = min(CLIPS_PER_GROUP, max(1, len(order) // 3))
    middle = (len(order) - size) // 2
    return order[:size], order[middle : middle + size], order[-size:]


def _headline(content: MetricsPage) -> list[tuple[str, str]]:
    generated, *others = content.sets
    real = next((scored for scored in others if scored.name.startswith("real_")), None)
    tiles = []
    for field, heading in COLUMNS.items():
        label = heading
        if real is not None:
            label += f" · {real.title}: {format_score(_plain(real, field))}"
        tiles.append((format_score(_plain(generated, field)), label))
    counts = generated.clips.counts()
    tiles.append((f"{np.count_nonzero(counts)} of {len(counts)}", "classes are predicted"))
    tiles.append((f"{len(generated.clips.names):,}", "generated clips"))
    return tiles


def _plain(scored: ScoredSet, field: str) -> Any:
    return dataclasses.replace(getattr(scored.metrics, field), interval=None)


def _scores(content: MetricsPage) -> str:
    interval = content.sets[0].metrics.fid.interval
    spread = (
        "No intervals were computed."
        if interval is None
        else f"± is half of a {interval.confidence:.0%} bootstrap interval over the clips of the "
        f"row ({interval.resamples} resamples): how the score would move with other clips of the "
        "same kind and number."
    )
    text = (
        f"Arrows point to where a score is better. {spread} FID and NDB depend on the number of "
        "clips. IS is the standard inception score; IS-S4 what the S4 code computes under that "
        "name. AM is in nats, NDB the share of the cells of feature space that are filled "
        "differently from the reference."
    )
    rows = [score_row(scored) for scored in content.sets]
    return page.table(rows, header=HEADER, numeric=True) + page.caption(text)


def _published(apply: bool) -> str:
    rows = [published_row(scores) for scores in PUBLISHED_SC09]
    table = page.table(rows, header=PUBLISHED_HEADER, numeric=True)
    if apply:
        return table + page.caption(
            f"{PUBLISHED_SOURCES} They are of {PUBLISHED_NUM_CLIPS:,} generated clips, as many as "
            "above."
        )
    return page.muted(table) + page.caption(
        "For orientation only, and no comparison: the scores above are of another data set, "
        "another classifier or its other spectrograms, or not of "
        f"{PUBLISHED_NUM_CLIPS:,} generated clips. {PUBLISHED_SOURCES}"
    )


def _classes(content: MetricsPage) -> str:
    shown = [scored for scored in content.sets if scored.name.startswith("samples")]
    shares = {}
    for scored in shown:
        counts = scored.clips.counts()
        shares[scored.title] = counts / counts.sum()
    counts = content.sets[0].clips.counts()
    missing = [name for name, count in zip(content.class_names, counts, strict=True) if not count]
    rarest = int(counts.argmin())
    remark = (
        f"Never predicted: {', '.join(missing)}."
        if missing
        else f"All are; the rarest is {content.class_names[rarest]}, "
        f"{counts[rarest]:,} of {counts.sum():,} clips."
    )
    figure = plot_classes(content.class_names, shares, content.reference.probs)
    return page.picture(
        figure,
        "Share of the predicted classes",
        caption=f"{remark} Bars: the classes that the classifier finds likeliest. Lines: the mean "
        "probabilities of the reference.",
        kind="wide",
    )


def _confusions(content: MetricsPage) -> str:
    parts = []
    for scored in content.sets:
        counts = scored.clips.confusion()
        if counts is not None and scored.name in ("samples", "real_test"):
            picture = page.picture(
                plot_confusion(content.class_names, counts), f"Confusion of {scored.title} clips"
            )
            parts.append(
                page.group(f"{scored.title}: {scored.clips.accuracy:.1%} as labelled", picture)
            )
    remark = ""
    if content.sets[0].clips.labels is None:
        remark = page.caption(
            "The generated clips were drawn without labels, so nobody knows their true classes."
        )
    return page.columns(parts) + remark


def _clips(content: MetricsPage) -> str:
    clips, rows = content.sets[0].clips, content.samples.rows
    bits = None if rows is None else np.array([row.bits_per_sample for row in rows])
    if bits is None:
        goodness, kinds = -clips.entropies, ("surest", "middling", "least sure")
        text = "Ordered by how sure the classifier is of a clip: the entropy of its probabilities."
    else:
        goodness, kinds = -bits, ("likeliest", "middling", "least likely")
        text = (
            "Ordered by likelihood under the model that drew them. The likeliest clips are often "
            "the plainest, such as silence; the filter leaves them out too."
        )
    text += " As the classifier hears them: one second, 16 kHz, one channel."
    groups = []
    for kind, chosen in zip(kinds, choose_clips(goodness.astype(np.float64)), strict=True):
        players, notes = [], []
        for index in chosen:
            players.append(_read_player(content.samples.paths[index]))
            predicted = int(clips.predicted[index])
            probability = float(np.exp(clips.log_probs[index, predicted]))
            note = f"{content.class_names[predicted]} {probability:.0%}"
            notes.append(note if bits is None else f"{note} · {bits[index]:.3f} bits")
        heading = f"The {kind}, {len(chosen)} of {len(clips.names):,}"
        groups.append(page.group(heading, page.clip_cards(players, notes)))
    return page.caption(text) + "".join(groups)


def _facts(about: Mapping[str, Any], prefix: str = "") -> list[list[str]]:
    """Nested entries as rows, `reference key`."""
    rows = []
    for name, value in about.items():
        label = f"{prefix} {name}".strip().replace("_", " ")
        match value:
            case Mapping():
                rows += _facts(value, label)
            case float():
                rows.append([label, f"{value:.4g}"])
            case _:
                rows.append([label, str(value)])
    return rows


def _read_player(path: pathlib.Path) -> Clip:
    (batch,) = read_clips(
        [path], num_samples=CLIP_LENGTH, sample_rate=SAMPLE_RATE, resample=True, batch_size=1
    )
    pcm = _to_pcm(batch.audio)[0]
    encoded = format_wav(pcm, SAMPLE_RATE)
    return Clip(name=path.stem, is_real=False, encoded=encoded, pcm=pcm, sample_rate=SAMPLE_RATE)


def _to_pcm(audio: Float32[np.ndarray, "b t"]) -> np.ndarray:
    return np.clip(np.rint(audio * 2.0**15), -(2**15), 2**15 - 1).astype(np.int16)
