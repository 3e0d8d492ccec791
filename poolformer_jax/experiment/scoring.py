"""Scores clips of any generator against real ones: FID, IS, mIS, AM, NDB, each with an interval."""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import poolformer_jax
from poolformer_jax import interruption, own_files
from poolformer_jax.config_checks import check_range
from poolformer_jax.data.config import DataConfig
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.pages import offer_metrics_page
from poolformer_jax.experiment.paths import local_path
from poolformer_jax.experiment.pretrained import pretrained_classifier
from poolformer_jax.experiment.references import choose_reference, open_reference

if TYPE_CHECKING:
    from poolformer_jax.evals.scores.scoring import Scores

_LOG = logging.getLogger(__name__)

Folder = str | os.PathLike[str]

_FILES = ("metrics.json", "index.html")


@interruption.keeps("sets that were scored by then are in metrics.json, references are kept")
def score_samples(
    samples: Folder | None = None,
    *,
    workdir: Folder | None = None,
    classifier: Folder | None = None,
    reference: str | None = None,
    data_dir: str | None = None,
    partial: bool = False,
    out: Folder | None = None,
    reference_dir: Folder | None = None,
    baselines: Sequence[str] | None = None,
    resample: bool = False,
    batch_size: int = 64,
    bootstrap: int = 50,
    num_cells: int = 50,
    seed: int = 0,
    devices: Sequence[Any] | None = None,
) -> Scores:
    """Scores a folder of clips and what bounds them; writes metrics.json and a page.

    What is known of the reference is computed once, and kept.

    Args:
      samples: Folder of one-second WAV files; `<workdir>/samples` if None.
      workdir: Run that drew the clips; tells the data set.
      classifier: Folder of the classifier; the one that comes with the package if None, for
        `digits` and its kin.
      reference: Data set and split, such as "sc09:train", or a folder of WAV files; the run's train
        split if None.
      data_dir: Folder of data sets, if it is another than the run's.
      partial: Whether to use the prepared subset of the data set.
      out: Folder of the results; `<samples>/metrics` if None.
      reference_dir: Where references are kept; in the cache folder if None.
      baselines: Sets to score beside, see `baseline_sets`; test and train if None, or none where no
        data set is named.
      resample: Whether to convert WAV files of another rate, or stereo.
      batch_size: Clips classified side by side.
      bootstrap: Resamples for the intervals; 0 for none.
      num_cells: Cells of feature space, for NDB.
      seed: Of resamples, noise, chosen train clips.
      devices: Of this process; all of its own if None.

    Returns:
      All scores; `scores.sets` has the generated clips first.

    Raises:
      UserError: If something is missing or does not fit, files of others are in the way, or a clip
        cannot be read.
    """
    with user_errors():
        if classifier is not None:
            classifier = local_path("classifier", classifier)
        folder = _find_samples(samples, workdir)
        chosen = choose_reference(workdir, reference, data_dir, samples=folder, partial=partial)
        named = "a folder of WAV files" if chosen.data is None else chosen.data.name
        classifier_dir = classifier or pretrained_classifier(named)
        out = folder / "metrics" if out is None else local_path("out", out)
        references = None if reference_dir is None else local_path("reference_dir", reference_dir)
        check_range("bootstrap", bootstrap, 0, 100_000)
        check_range("num_cells", num_cells, 2, 10_000)
        check_range("batch_size", batch_size, 1, 100_000)
        if bootstrap == 1:
            raise ValueError("bootstrap 1 must be 0 or at least 2: one resample has no spread")
        keys = ("samples", "reference", "classifier")
        own = own_files.of_earlier_version(out, _FILES, _FILES[0], *keys)
        own_files.check(out, _FILES, own=own)

    # Only now the imports of JAX and data sets, which take seconds.
    import jax

    from poolformer_jax import sharding
    from poolformer_jax.classifier.files import load_classifier
    from poolformer_jax.classifier.inference import front_end_hash
    from poolformer_jax.data.builders.folders import cache_dir
    from poolformer_jax.evals.samples.clip_sets import baseline_sets, real_set
    from poolformer_jax.evals.samples.generated import open_generated
    from poolformer_jax.evals.scores import scoring
    from poolformer_jax.evals.scores.accuracy import cached_accuracy
    from poolformer_jax.evals.scores.classified import classify_clips
    from poolformer_jax.evals.scores.reference import cached_reference, reference_key
    from poolformer_jax.experiment.progress import ScoringBars

    with user_errors():
        saved = load_classifier(classifier_dir)
        generated = open_generated(folder, num_classes=len(saved.class_names), resample=resample)
        opened = open_reference(chosen, class_names=saved.class_names, resample=resample)
        if baselines is None:
            baselines = ("test", "train") if opened.splits else ()
        data = chosen.data or DataConfig()
        bounds = baseline_sets(
            baselines,
            opened.splits,
            reference=chosen.split,
            num_generated=len(generated.paths),
            codec=data.codec,
            normalize=data.normalize,
            seed=seed,
        )
        own_files.claim(out, _FILES, own=own)
    mesh = sharding.make_mesh(devices=jax.local_devices() if devices is None else devices)
    bars = ScoringBars()
    classify = bars.show(functools.partial(classify_clips, saved, batch_size=batch_size, mesh=mesh))
    keep_in = references or cache_dir() / "references"
    key_of = functools.partial(
        reference_key, classifier=saved.sha256, front_end=front_end_hash(saved.config)
    )
    key = key_of(manifest=opened.sha256, split=opened.reading, num_cells=num_cells)
    classified_sets: dict[str, Any] = {}

    def classify_once(clips: Any) -> Any:
        """The test clips are a baseline, too."""
        if clips.name not in classified_sets:
            classified_sets[clips.name] = classify(clips)
        return classified_sets[clips.name]

    # A clip may be of another rate or damaged; both are found before anything else is classified.
    with user_errors():
        classified = classify(generated.clips)
        statistics = cached_reference(keep_in, opened.clips, classify, key=key, num_cells=num_cells)
        accuracy = None
        if opened.data_sha256 is not None:
            accuracy = cached_accuracy(
                keep_in,
                real_set(opened.splits["test"], "test"),
                classify_once,
                key=key_of(manifest=opened.data_sha256, split="test"),
                name=f"{data.name}:test",
            )
    about: dict[str, Any] = {
        "samples": str(folder),
        "drawn_with": generated.settings,
        "reference": {**opened.about, "key": key},
        "classifier": {
            "folder": str(classifier_dir),
            "sha256": saved.sha256,
            "kind": saved.config.kind,
            "mel_padding": saved.config.mel_padding,
            "source": dict(saved.source),
        },
        "seed": seed,
        "num_cells": num_cells,
        "resamples": bootstrap,
        "versions": {
            "poolformer_jax": poolformer_jax.__version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")},
        },
    }
    for scores in scoring.score_samples(
        generated,
        classified,
        scoring.Scorer(
            reference=statistics,
            resamples=bootstrap,
            seed=seed,
            on_progress=bars.show_resamples,
        ),
        accuracy=accuracy,
        class_names=saved.class_names,
        about=about,
        baselines=bounds,
        classify=classify_once,
    ):
        about["clips_per_second"] = bars.clips_per_second
        path = scores.write(out)
    _print(scores, path, bars.clips_per_second)
    offer_metrics_page(out, scores)
    return scores


def _print(scores: Scores, path: pathlib.Path, clips_per_second: float | None) -> None:
    from poolformer_jax.evals.scores.accuracy import describe_accuracy
    from poolformer_jax.evals.scores.table import HEADER, score_row
    from poolformer_jax.evals.text_table import text_table

    _LOG.info(text_table([score_row(scored) for scored in scores.sets], HEADER))
    _LOG.info(describe_accuracy(scores.accuracy))
    for warning in scores.warnings:
        _LOG.warning(warning)
    if scores.deviations:
        _LOG.info("Not as published on SC09: %s", "; ".join(scores.deviations))
    else:
        _LOG.info("Made as the published scores on SC09")
    _LOG.info(
        "Compared with %s clips of %s%s; written to %s",
        f"{scores.reference.gaussian.count:,}",
        scores.about["reference"]["name"],
        "" if clips_per_second is None else f", {clips_per_second:,.0f} clips/s",
        path,
    )


def _find_samples(samples: Folder | None, workdir: Folder | None) -> pathlib.Path:
    """The folder of the clips."""
    if samples is not None:
        return local_path("samples", samples)
    if workdir is None:
        raise ValueError("give --samples=FOLDER_OF_WAVS, or the --workdir of a run that drew clips")
    folder = local_path("workdir", workdir) / "samples"
    if not folder.is_dir():
        command = ["python", "-m", "launch.sample", f"--workdir={workdir}"]
        command += ["--num_samples=2048", "--batch_size=64", "--length=1s"]
        raise ValueError(
            f"{folder} does not exist; draw clips with: {shlex.join(command)}, or name the --out "
            "of an earlier draw as --samples"
        )
    return folder
