"""Published scores on SC09, and what of a folder's scores was not made as they were."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from poolformer_jax.evals.samples.wav_folder import FolderReport
from poolformer_jax.evals.scores.accuracy import MIN_ACCURACY, Accuracy

PUBLISHED_CLASSIFIER_SHA256: str | None = None
"""Of the published checkpoint, `sc09_classifier/resnext.pth` of `krandiash/sashimi-release`. The
file was not available when this was written. Until its hash stands here, no score counts as made
like the published ones."""

FILTERED_NUM_CLIPS, UNFILTERED_NUM_CLIPS = 10_240, 2_048
"""Clips that published models drew: autoregressive ones, before the filter, and all others."""

_FILTERED = f"2,816 of {FILTERED_NUM_CLIPS:,}, by likelihood"
_UNFILTERED = f"{UNFILTERED_NUM_CLIPS:,}, all"

PUBLISHED_HEADER = (
    "",
    "parameters",
    "clips scored",
    "bits ↓",
    "FID ↓",
    "IS-S4 ↑",
    "mIS ↑",
    "AM ↓",
)
PUBLISHED_SC09 = (
    ("real, train (the reference)", "–", "all", "–", "0.00", "8.56", "292.5", "0.16"),
    ("real, test", "–", "all", "–", "0.02", "8.33", "257.6", "0.19"),
    ("Poolformer", "7.3M", "–", "1.854", "0.46", "6.46", "–", "–"),
    ("Mamba", "24.3M", "–", "1.860", "0.67", "7.33", "144.9", "0.36"),
    ("Mamba", "6.1M", "–", "1.852", "0.94", "6.26", "88.54", "0.52"),
    ("DiffWave + SaShiMi", "23.0M", _UNFILTERED, "–", "1.42", "5.94", "69.17", "0.59"),
    ("DiffWave", "24.1M", _UNFILTERED, "–", "1.92", "5.26", "51.21", "0.68"),
    ("SaShiMi, U-Net", "6.8M", _FILTERED, "1.873", "1.99", "5.13", "42.57", "0.74"),
    ("SaShiMi, autoregressive", "4.1M", _FILTERED, "1.891", "1.99", "4.12", "24.57", "0.90"),
    ("WaveGAN", "19.1M", _UNFILTERED, "–", "2.03", "4.90", "36.10", "0.80"),
    ("WaveNet-1024", "4.2M", _FILTERED, "1.925", "5.08", "2.27", "5.80", "1.47"),
    ("SampleRNN", "35.0M", _FILTERED, "2.042", "8.96", "1.71", "3.02", "1.76"),
)
"""By FID."""

PUBLISHED_SOURCES = (
    "SampleRNN, WaveNet and the autoregressive SaShiMi: arXiv:2202.09729, table 6; SaShiMi's "
    "U-Net: README of state-spaces/s4 (arXiv:2312.00752 counts 5.8M parameters); DiffWave, "
    "WaveGAN, Mamba: arXiv:2312.00752, table 4; Poolformer: arXiv:2510.02206, the baseline. All "
    "are of SC09, with the classifier published with SaShiMi and the training clips as reference; "
    "their IS is IS-S4. SampleRNN, WaveNet and SaShiMi are scored on the clips that a filter by "
    "likelihood leaves, DiffWave and WaveGAN on all; of Poolformer and Mamba it is not known here."
)

# As `launch.sample` notes them. Published clips were drawn without any of what these can change.
_PLAIN_DRAW = {
    "weights": "ema",
    "length": 16_000,
    "sample_rate": 16_000,
    "temperature": 1.0,
    "top_k": None,
    "top_p": 1.0,
    "guidance": 1.0,
    "label": None,
    "prompt_length": 0,
}


def find_deviations(
    about: Mapping[str, Any],
    *,
    num_clips: Mapping[str, int],
    report: FolderReport,
    accuracy: Accuracy | None,
) -> list[str]:
    """Lists in words what is not as in the published scores of SC09; empty if they compare.

    Args:
      about: `reference`, `classifier` and `drawn_with` of `metrics.json`.
      num_clips: Scored clips by the name of their set.
      report: What was odd about the generated clips.
      accuracy: Of the classifier.
    """
    found = []
    reference = about["reference"]
    # Not by the name, which a folder may have, too.
    if (reference.get("data"), reference.get("split")) != ("sc09", "train"):
        found.append(f"the reference is {reference['name']}, not sc09:train")
    elif reference["partial"]:
        found.append("the reference is a subset of sc09:train")
    found += _classifier_deviations(about["classifier"], accuracy)
    found += _draw_deviations(about["drawn_with"])
    if odd := report.resampled + report.padded + report.truncated:
        found.append(f"{odd:,} clips were not of one second, one channel and 16 kHz")
    count = num_clips["samples"]
    if count not in (FILTERED_NUM_CLIPS, UNFILTERED_NUM_CLIPS):
        found.append(
            f"the clips are {count:,}, not {FILTERED_NUM_CLIPS:,} (or {UNFILTERED_NUM_CLIPS:,}, as "
            "of models without a likelihood)"
        )
    elif count == FILTERED_NUM_CLIPS and "samples_filtered" not in num_clips:
        found.append("no row is of the clips that the filter by likelihood leaves")
    return found


def _classifier_deviations(classifier: Mapping[str, Any], accuracy: Accuracy | None) -> list[str]:
    source, found = classifier["source"], []
    if classifier["kind"] != "resnext29_8x64d" or "imported_from" not in source:
        found.append("the classifier is not the published one, see launch.import_classifier")
    elif PUBLISHED_CLASSIFIER_SHA256 is None:
        found.append(
            "the classifier was imported, but the SHA-256 of the published checkpoint is not known "
            "to this version, so that nothing tells whether it is the published one"
        )
    elif source.get("sha256") != PUBLISHED_CLASSIFIER_SHA256:
        found.append("the classifier was imported from another file than the published checkpoint")
    if classifier["mel_padding"] != "reflect":
        found.append(f"spectrograms are padded by {classifier['mel_padding']}, not by reflect")
    if accuracy is None:
        found.append("the classifier's accuracy on real clips was not measured")
    elif accuracy.value < MIN_ACCURACY:
        found.append(f"the classifier is right on {accuracy.value:.1%} of the real test clips only")
    return found


def _draw_deviations(drawn_with: Mapping[str, Any] | None) -> list[str]:
    if drawn_with is None:
        return ["nothing tells how the clips were drawn: no settings.json lies beside them"]
    found = []
    for name, plain in _PLAIN_DRAW.items():
        if name not in drawn_with:
            found.append(f"settings.json does not tell {name}")
        elif drawn_with[name] != plain:
            found.append(f"the clips were drawn with {name} {drawn_with[name]}, not {plain}")
    return found
