"""One page about a folder of generated clips: players, spectrograms, likelihoods."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from poolformer_jax.files import write_whole
from poolformer_jax.pages import html as page
from poolformer_jax.pages.run_files import Clip, read_clip
from poolformer_jax.sampling.folder import PAGE_FILE, REAL_PREFIX, SampleRow, clip_path, own_names

MAX_CLIPS = 24
"""Clips on the page: each takes about 0.2 MB, and 4 / 3 of the size of its WAV file."""

_MAX_INLINE_BYTES = 500_000  # Longer clips stay in their files: the page must open quickly.


def write_sample_page(
    folder: pathlib.Path, rows: Sequence[SampleRow], settings: dict[str, Any]
) -> pathlib.Path:
    """Writes `index.html` into a folder of clips.

    Args:
      folder: Holds the clips.
      rows: Of all clips, by ascending likelihood.
      settings: How they were drawn.

    Returns:
      The path of the page.
    """
    # Evenly from the least likely to the likeliest, both ends included.
    places = np.unique(np.linspace(0, len(rows) - 1, MAX_CLIPS).round().astype(int))
    shown = [rows[place] for place in places]
    bits = np.array([row.bits_per_sample for row in rows])
    numbers = [
        (f"{len(rows):,}", "clips"),
        (f"{bits.mean():.3f}", "bits per drawn sample, mean"),
        (f"{bits.min():.3f} to {bits.max():.3f}", "most to least likely clip"),
    ]
    heading, spread = "All clips", ""
    if len(shown) < len(rows):
        heading, spread = f"{len(shown)} of {len(rows):,} clips", ", evenly spread"
    remark = page.caption(
        f"From the least likely to the most likely under the model that drew them{spread}; bits "
        "are the mean over a clip's drawn samples."
    )
    clips = [read_clip(clip_path(folder, row.clip), _describe(row)) for row in shown]
    # Those of somebody else may be of any kind.
    recordings = [name for name in sorted(own_names(folder)) if name.startswith(REAL_PREFIX)]
    paths = [folder / name for name in recordings if (folder / name).is_file()]
    real = [read_clip(path) for path in paths[:MAX_CLIPS]]
    sections = [
        page.tiles(numbers),
        page.section(heading, remark + _cards(clips)),
        *([page.section("Real clips, for comparison", _cards(real))] if real else []),
        page.section("Drawn with", page.table(page.facts(settings))),
    ]
    path = folder / PAGE_FILE
    write_whole(path, page.document("Generated clips", sections))
    return path


def _cards(clips: Sequence[Clip]) -> str:
    inline = all(len(clip.encoded) <= _MAX_INLINE_BYTES for clip in clips)
    return page.players(clips, inline=inline)


def _describe(row: SampleRow) -> str:
    label = "" if row.label is None else f"label {row.label} · "
    return f"{label}{row.bits_per_sample:.3f} bits"
