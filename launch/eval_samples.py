"""Scores generated clips against real ones: FID, IS, mIS, AM, NDB, each with an interval.

    python -m launch.eval_samples --workdir=runs/quickstart --classifier=runs/digits_classifier
    python -m launch.eval_samples --samples=FOLDER_OF_WAVS --classifier=runs/sc09_classifier \\
        --reference=sc09:train

Clips may be any generator's. Writes metrics.json and index.html (extra `report`) to --out. What is
known of the reference is computed once, and kept in --reference_dir.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import pathlib
import shlex
import time
from collections.abc import Callable
from typing import Any

from absl import flags

import poolformer_jax
from launch import command_line
from poolformer_jax.data.config import DataConfig
from poolformer_jax.experiment.experiment import read_experiment

_SAMPLES = flags.DEFINE_string(
    "samples", None, "Folder of one-second WAV files; <workdir>/samples if not given."
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Run that drew the clips; tells the data set.")
_CLASSIFIER = flags.DEFINE_string(
    "classifier",
    None,
    "Folder of the classifier, from launch.train_classifier or launch.import_classifier.",
)
_REFERENCE = flags.DEFINE_string(
    "reference", None, "Data set and split, such as sc09:train; that of the run if not given."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Folder of data sets; overrides the run's.")
_PARTIAL = flags.DEFINE_bool("partial", False, "Use the subset that --allow_partial prepared.")
_OUT = flags.DEFINE_string("out", None, "Folder of the results; <samples>/metrics if not given.")
_REFERENCE_DIR = flags.DEFINE_string(
    "reference_dir", None, "Where references are kept; in the cache folder if not given."
)
_BASELINES = flags.DEFINE_list(
    "baselines",
    ["test", "train"],
    "What to score beside: test and train (recordings), round_trip (test clips as the model hears "
    "them), noise.",
)
_RESAMPLE = flags.DEFINE_bool("resample", False, "Convert WAV files of another rate, or stereo.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 64, "Clips classified side by side.", lower_bound=1
)
_BOOTSTRAP = flags.DEFINE_integer(
    "bootstrap", 50, "Resamples for the intervals; 0 for none.", lower_bound=0
)
_NUM_CELLS = flags.DEFINE_integer(
    "num_cells", 50, "Cells of feature space, for NDB.", lower_bound=2
)
_SEED = flags.DEFINE_integer("seed", 0, "Of resamples, noise, chosen train clips.", lower_bound=0)


def main(argv):
    """Checks, classifies, scores, writes."""
    del argv
    with command_line.user_errors():
        folder, classifier_dir = _find_folders()
        data, split = _choose_reference()
        if _BOOTSTRAP.value == 1:
            raise ValueError("--bootstrap=1: one resample has no spread; use 0 or at least 2")

    import jax

    from poolformer_jax import sharding
    from poolformer_jax.classifier.files import classifier_hash, load_classifier
    from poolformer_jax.classifier.inference import front_end_hash
    from poolformer_jax.data.builders.folders import cache_dir
    from poolformer_jax.data.source import describe_dataset, open_splits
    from poolformer_jax.evals.samples import clip_sets
    from poolformer_jax.evals.samples.generated import open_generated
    from poolformer_jax.evals.scores import scoring as score_samples
    from poolformer_jax.evals.scores import table as metrics_table
    from poolformer_jax.evals.scores.classified import classify_clips
    from poolformer_jax.evals.scores.reference import cached_reference, reference_key

    with command_line.user_errors():
        sha256, classifier = classifier_hash(classifier_dir), load_classifier(classifier_dir)
        if classifier_hash(classifier_dir) != sha256:  # A training may go on.
            raise ValueError(f"{classifier_dir} was replaced while it was read; run this again")
        num_classes = len(classifier.class_names)
        samples = open_generated(folder, num_classes=num_classes, resample=_RESAMPLE.value)
        facts = describe_dataset(data)
        score_samples.check_classes(classifier.class_names, facts.class_names, data.name)
        splits = open_splits(data)
        baselines = clip_sets.baseline_sets(
            _BASELINES.value,
            splits,
            num_generated=len(samples.paths),
            codec=data.codec,
            normalize=data.normalize,
            seed=_SEED.value,
        )
        out = pathlib.Path(_OUT.value) if _OUT.value else folder / "metrics"
        out.mkdir(parents=True, exist_ok=True)
    mesh = sharding.make_mesh(jax.local_devices())
    progress = _Progress()
    classify = progress.show(
        functools.partial(classify_clips, classifier, batch_size=_BATCH_SIZE.value, mesh=mesh)
    )
    key = reference_key(
        classifier=sha256,
        front_end=front_end_hash(classifier.config),
        manifest=facts.manifest_sha256,
        split=split,
        num_cells=_NUM_CELLS.value,
    )
    kept_in = pathlib.Path(_REFERENCE_DIR.value or cache_dir() / "references")
    # A clip may be of another rate or damaged; both are found before anything else is classified.
    with command_line.user_errors():
        generated = classify(samples.clips)
        reference = cached_reference(
            kept_in,
            clip_sets.real_set(splits[split], split),
            classify,
            key=key,
            num_cells=_NUM_CELLS.value,
        )
    scorer = score_samples.Scorer(
        reference=reference,
        resamples=_BOOTSTRAP.value,
        seed=_SEED.value,
        on_progress=progress.show_resamples,
    )
    about: dict[str, Any] = {
        "samples": str(folder),
        "drawn_with": samples.settings,
        "reference": {
            "data": data.name,
            "partial": data.partial,
            "split": split,
            "num_clips": reference.gaussian.count,
            "manifest_sha256": facts.manifest_sha256,
            "key": key,
        },
        "classifier": {
            "folder": classifier_dir,
            "sha256": sha256,
            "kind": classifier.config.kind,
            "mel_padding": classifier.config.mel_padding,
            "source": dict(classifier.source),
        },
        "seed": _SEED.value,
        "num_cells": _NUM_CELLS.value,
        "resamples": _BOOTSTRAP.value,
        "versions": {
            "poolformer_jax": poolformer_jax.__version__,
            **{name: importlib.metadata.version(name) for name in ("jax", "numpy", "scipy")},
        },
    }
    for scores in score_samples.score_samples(
        samples,
        generated,
        scorer,
        class_names=classifier.class_names,
        about=about,
        baselines=baselines,
        classify=classify,
    ):
        about["clips_per_second"] = progress.clips_per_second
        path = scores.write(out)
    print(metrics_table.text_table([metrics_table.score_row(scored) for scored in scores.sets]))
    for warning in scores.warnings:
        print(f"WARNING: {warning}")
    speed = progress.clips_per_second
    print(
        f"Compared with {reference.gaussian.count:,} clips of {data.name}:{split}"
        f"{'' if speed is None else f', {speed:,.0f} clips/s'}; written to {path}"
    )
    try:
        from poolformer_jax.pages.scores import write_metrics_page
    except ModuleNotFoundError as error:
        if error.name is None or not error.name.startswith("matplotlib"):
            raise
        print("no page was written: it needs matplotlib: pip install -e '.[report]'")
        return
    print(f"Look and listen: {write_metrics_page(out, scores)}")


def _find_folders() -> tuple[pathlib.Path, str]:
    """The folders of the clips and of the classifier."""
    if _CLASSIFIER.value is None:
        raise ValueError(
            "--classifier is missing: make one with launch.train_classifier, or bring the "
            "published one with launch.import_classifier, and pass its folder"
        )
    if _SAMPLES.value is not None:
        return pathlib.Path(_SAMPLES.value), _CLASSIFIER.value
    if _WORKDIR.value is None:
        raise ValueError("give --samples=FOLDER_OF_WAVS, or the --workdir of a run that drew clips")
    folder = pathlib.Path(_WORKDIR.value) / "samples"
    if not folder.is_dir():
        command = ["python", "-m", "launch.sample", f"--workdir={_WORKDIR.value}"]
        command += ["--num_samples=2048", "--batch_size=64", "--length=1s"]
        raise ValueError(
            f"{folder} does not exist; draw clips with: {shlex.join(command)}, or name the --out "
            "of an earlier draw as --samples"
        )
    return folder, _CLASSIFIER.value


def _choose_reference() -> tuple[DataConfig, str]:
    """The data set and the split to compare with; a run's own train split if none is named."""
    data = DataConfig()
    if _WORKDIR.value is not None:
        data = read_experiment(pathlib.Path(_WORKDIR.value)).data
    elif _REFERENCE.value is None:
        raise ValueError("--reference is missing: name a data set and a split, such as sc09:train")
    name, _, split = (_REFERENCE.value or f"{data.name}:train").partition(":")
    if split not in ("train", "validation", "test"):
        raise ValueError(
            f"--reference={_REFERENCE.value} is not a data set and a split, such as {name}:train"
        )
    partial = _PARTIAL.value or (name == data.name and data.partial)
    data_dir = _DATA_DIR.value or data.data_dir
    return dataclasses.replace(data, name=name, partial=partial, data_dir=data_dir), split


class _Progress:
    """Bars, and the number of clips per second without each set's first batch.

    Attributes:
      clips_per_second: So far; None if no set had a second batch.
    """

    def __init__(self):
        self._clips, self._seconds = 0, 0.0
        self._resamples: Any = None

    @property
    def clips_per_second(self) -> float | None:
        return self._clips / self._seconds if self._clips else None

    def show_resamples(self, title: str, done: int, total: int) -> None:
        """Shows a bar for the intervals of a set, on a terminal only."""
        import tqdm

        if done == 0:
            description = f"{title}: intervals"
            # Its own default leaves bars in log files.
            self._resamples = tqdm.tqdm(
                total=total, unit=" resamples", desc=description, disable=None
            )
            return
        self._resamples.update()
        if done == total:
            self._resamples.close()

    def show(self, classify: Callable) -> Callable:
        """Lets (clips, on_progress) -> result show a bar."""
        import tqdm

        def wrapped(clips):
            since = None  # The first batch may have to wait for the compiler.

            def update(count: int) -> None:
                nonlocal since
                bar.update(count)
                now = time.monotonic()
                if since is not None:
                    self._clips += count
                    self._seconds += now - since
                since = now

            with tqdm.tqdm(total=clips.num_clips, unit=" clips", desc=clips.title) as bar:
                return classify(clips=clips, on_progress=update)

        return wrapped


if __name__ == "__main__":
    command_line.run(main)
