"""The files of an evaluation: `likelihood_<split>.json` about the split, .csv about every clip.

These names belong to the evaluation that a report shows: of the best checkpoint's averaged weights,
on the data that the run was configured with. Any other has in its names what it differs in, such as
likelihood_test_raw_step400_60s.json.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
from collections.abc import Mapping
from typing import Any, Literal

from poolformer_jax.buckets import AnyPath
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.source import Source, as_text
from poolformer_jax.evals.bootstrap import bootstrap_ratio
from poolformer_jax.evals.likelihood.evaluator import Likelihood
from poolformer_jax.evals.likelihood.position_curve import position_curve
from poolformer_jax.files import read_json, write_json, write_whole


def write_likelihood(
    workdir: AnyPath,
    split: str,
    source: Source,
    likelihood: Likelihood,
    *,
    variant: str = "",
    about: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes both files; each is replaced in one go, so that an interruption leaves the old one.

    Args:
      workdir: Folder of the run.
      split: Name of the split.
      source: The split, for the names of the clips, and of speech their label and speaker.
      likelihood: Of its clips.
      variant: What sets the evaluation apart, see `name_variant`.
      about: What else the JSON file shall say, such as the checkpoint's step.

    Returns:
      The content of the JSON file: `split`, `about`, the mean and its numbers of clips and samples,
      its bootstrap interval over the clips, and the curve of bits against the position in the clip.

    Raises:
      FloatingPointError: If bits are not finite; names a clip, and nothing is written.
    """
    _check_finite(source, likelihood)
    interval = bootstrap_ratio(likelihood.clip_bits, likelihood.clip_samples)
    curve = position_curve(likelihood.position_bits, likelihood.position_clips)
    content = {
        "split": split,
        **about,
        **likelihood.summary(),
        "confidence_interval": None if interval is None else dataclasses.asdict(interval),
        "curve": dataclasses.asdict(curve),
    }
    write_whole(csv_path(workdir, split, variant), _clips_table(source, likelihood))
    path = json_path(workdir, split, variant)
    write_json(path, content)
    return read_json(path)


def name_variant(
    own: DataConfig,
    data: DataConfig,
    *,
    step: int | None = None,
    weights: Literal["ema", "raw"] = "ema",
) -> str:
    """What sets an evaluation apart from the one that a report shows, for the names of its files.

    Args:
      own: Data of the run.
      data: What is evaluated; where it is kept does not matter.
      step: Of the checkpoint, if it was chosen otherwise than by validation bits.
      weights: Of the checkpoint.

    Returns:
      Parts that each begin with `_`, in a fixed order; empty if nothing differs.
    """
    parts = {
        data.name: data.name != own.name,
        "partial" if data.partial else "whole": data.partial != own.partial,
        f"build{data.build_seed}": data.build_seed != own.build_seed,
        data.codec: data.codec != own.codec,
        "normalized" if data.normalize else "unnormalized": data.normalize != own.normalize,
        weights: weights != "ema",
        f"step{step}": step is not None,
        f"{data.seq_len / data.dataset.sample_rate:.12g}s": data.seq_len != own.seq_len,
        f"{data.eval_clips or 'all'}clips": data.eval_clips != own.eval_clips,
    }
    return "".join(f"_{part}" for part, differs in parts.items() if differs)


def json_path(workdir: AnyPath, split: str, variant: str = "") -> AnyPath:
    """Where the result on a split is."""
    return workdir / f"likelihood_{split}{variant}.json"


def csv_path(workdir: AnyPath, split: str, variant: str = "") -> AnyPath:
    """Where its clips are."""
    return workdir / f"likelihood_{split}{variant}.csv"


def _check_finite(source: Source, likelihood: Likelihood) -> None:
    for index, bits in zip(likelihood.clip_indices, likelihood.clip_bits, strict=True):
        if not math.isfinite(bits):
            raise FloatingPointError(
                f"the bits of clip {as_text(source[int(index)]['name'])} are not finite: the "
                "parameters have diverged; evaluate an earlier step"
            )


def _clips_table(source: Source, likelihood: Likelihood) -> str:
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    known = [key for key in ("name", "label", "speaker") if key in source[0]]
    writer.writerow([*known, "num_samples", "bits_per_sample"])
    for index, bits, num_samples in zip(
        likelihood.clip_indices.tolist(),
        likelihood.clip_bits.tolist(),
        likelihood.clip_samples.tolist(),
        strict=True,
    ):
        example = source[index]
        writer.writerow(
            [*(as_text(example[key]) for key in known), num_samples, bits / num_samples]
        )
    return file.getvalue()
