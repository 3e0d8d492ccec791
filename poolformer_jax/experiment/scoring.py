"""Scores clips of any generator against real ones: FID, IS, mIS, AM, NDB, each with an interval."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import logging
import os
import pathlib
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import poolformer_jax
from poolformer_jax import interruption
from poolformer_jax.data.config import DataConfig
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.pages import offer_metrics_page
from poolformer_jax.experiment.workdir import read_experiment

if TYPE_CHECKING:
    from poolformer_jax.evals.scores.scoring import Scores

_LOG = logging.getLogger(__name__)

Folder = str | os.PathLike[str]


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
    baselines: Sequence[str] = ("test", "train"),
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
      samples: Folder of one-second WAV files; <workdir>/samples if None.
      workdir: Run that drew the clips; tells the data set.
      classifier: Folder of the classifier; it has to be given.
      reference: Data set and split, such as "sc09:train"; the run's train split if None.
      data_dir: Folder of data sets, if it is another than the run's.
      partial: Whether to use the prepared subset of the data set.
      out: Folder of the results; <samples>/metrics if None.
      reference_dir: Where references are kept; in the cache folder if None.
      baselines: Sets to score beside, see `baseline_sets`.
      resample: Whether to convert WAV files of another rate, or stereo.
      batch_size: Clips classified side by side.
      bootstrap: Resamples for the intervals; 0 for none.
      num_cells: Cells of feature space, for NDB.
      seed: Of resamples, noise, chosen train clips.
      devices: Of this process; all of its own if None.

    Returns:
      All scores; `scores.sets` has the generated clips first.

    Raises:
      UserError: If something is missing or does not fit, or a clip cannot be read.
    """
    with user_errors():
        folder, classifier_dir = _find_folders(samples, workdir, classifier)
        data, split = _choose_reference(workdir, reference, data_dir, partial=partial)
        if bootstrap == 1:
            raise ValueError("bootstrap 1 must be 0 or at least 2: one resample has no spread")

    # Only now the imports of JAX and data sets, which take seconds.
    import jax

    from poolformer_jax import sharding
    from poolformer_jax.classifier.files import classifier_hash, load_classifier
    from poolformer_jax.classifier.inference import front_end_hash
    from poolformer_jax.data.builders.folders import cache_dir
    from poolformer_jax.data.source import describe_dataset, open_splits
    from poolformer_jax.evals.samples import clip_sets
    from poolformer_jax.evals.samples.generated import open_generated
    from poolformer_jax.evals.scores import scoring
    from poolformer_jax.evals.scores.classified import classify_clips
    from poolformer_jax.evals.scores.reference import cached_reference, reference_key
    from poolformer_jax.evals.scores.table import score_row, text_table
    from poolformer_jax.experiment.progress import ScoringBars

    with user_errors():
        sha256, saved = classifier_hash(classifier_dir), load_classifier(classifier_dir)
        if classifier_hash(classifier_dir) != sha256:  # A training may go on.
            raise ValueError(f"{classifier_dir} was replaced while it was read; run this again")
        generated = open_generated(folder, num_classes=len(saved.class_names), resample=resample)
        facts = describe_dataset(data)
        scoring.check_classes(saved.class_names, facts.class_names, data.name)
        splits = open_splits(data)
        bounds = clip_sets.baseline_sets(
            baselines,
            splits,
            num_generated=len(generated.paths),
            codec=data.codec,
            normalize=data.normalize,
            seed=seed,
        )
        out = pathlib.Path(out) if out else folder / "metrics"
        out.mkdir(parents=True, exist_ok=True)
    mesh = sharding.make_mesh(jax.local_devices() if devices is None else devices)
    bars = ScoringBars()
    classify = bars.show(functools.partial(classify_clips, saved, batch_size=batch_size, mesh=mesh))
    key = reference_key(
        classifier=sha256,
        front_end=front_end_hash(saved.config),
        manifest=facts.manifest_sha256,
        split=split,
        num_cells=num_cells,
    )
    # A clip may be of another rate or damaged; both are found before anything else is classified.
    with user_errors():
        classified = classify(generated.clips)
        statistics = cached_reference(
            pathlib.Path(reference_dir or cache_dir() / "references"),
            clip_sets.real_set(splits[split], split),
            classify,
            key=key,
            num_cells=num_cells,
        )
    about: dict[str, Any] = {
        "samples": str(folder),
        "drawn_with": generated.settings,
        "reference": {
            "data": data.name,
            "partial": data.partial,
            "split": split,
            "num_clips": statistics.gaussian.count,
            "manifest_sha256": facts.manifest_sha256,
            "key": key,
        },
        "classifier": {
            "folder": str(classifier_dir),
            "sha256": sha256,
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
        class_names=saved.class_names,
        about=about,
        baselines=bounds,
        classify=classify,
    ):
        about["clips_per_second"] = bars.clips_per_second
        path = scores.write(out)
    _LOG.info(text_table([score_row(scored) for scored in scores.sets]))
    for warning in scores.warnings:
        _LOG.warning(warning)
    speed = bars.clips_per_second
    _LOG.info(
        "Compared with %s clips of %s:%s%s; written to %s",
        f"{statistics.gaussian.count:,}",
        data.name,
        split,
        "" if speed is None else f", {speed:,.0f} clips/s",
        path,
    )
    offer_metrics_page(out, scores)
    return scores


def _find_folders(
    samples: Folder | None, workdir: Folder | None, classifier: Folder | None
) -> tuple[pathlib.Path, Folder]:
    """The folders of the clips and of the classifier."""
    if classifier is None:
        raise ValueError(
            "classifier is missing: make one with launch.train_classifier, or bring the "
            "published one with launch.import_classifier, and pass its folder"
        )
    if samples is not None:
        return pathlib.Path(samples), classifier
    if workdir is None:
        raise ValueError("give --samples=FOLDER_OF_WAVS, or the --workdir of a run that drew clips")
    folder = pathlib.Path(workdir) / "samples"
    if not folder.is_dir():
        command = ["python", "-m", "launch.sample", f"--workdir={workdir}"]
        command += ["--num_samples=2048", "--batch_size=64", "--length=1s"]
        raise ValueError(
            f"{folder} does not exist; draw clips with: {shlex.join(command)}, or name the --out "
            "of an earlier draw as --samples"
        )
    return folder, classifier


def _choose_reference(
    workdir: Folder | None, reference: str | None, data_dir: str | None, *, partial: bool
) -> tuple[DataConfig, str]:
    """The data set and the split to compare with; a run's own train split if none is named."""
    data = DataConfig()
    if workdir is not None:
        data = read_experiment(pathlib.Path(workdir)).data
    elif reference is None:
        raise ValueError("reference is missing: name a data set and a split, such as sc09:train")
    name, _, split = (reference or f"{data.name}:train").partition(":")
    if split not in ("train", "validation", "test"):
        raise ValueError(
            f"--reference={reference} is not a data set and a split, such as {name}:train"
        )
    return dataclasses.replace(
        data,
        name=name,
        partial=partial or (name == data.name and data.partial),
        data_dir=data_dir or data.data_dir,
    ), split
