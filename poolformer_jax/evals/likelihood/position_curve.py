"""Bits per sample against the position in the clip: how much context helps."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float64, Int64

BINS_PER_OCTAVE = 4


@dataclasses.dataclass(frozen=True)
class PositionCurve:
    """Mean bits per sample in bins of positions.

    The mean of the bins, weighted by their samples, is that of the whole split. A clip counts in
    the bins that it reaches, so the last bins are of the longest clips alone.

    Attributes:
      edges: Bin i holds the samples that have edges[i] to edges[i + 1] - 1 samples before them in
        their clip.
      bits_per_sample: Mean of each bin.
      num_samples: Samples in each bin, over all clips.
    """

    edges: tuple[int, ...]
    bits_per_sample: tuple[float, ...]
    num_samples: tuple[int, ...]


def position_curve(
    position_bits: Float64[np.ndarray, " t"], position_clips: Int64[np.ndarray, " t"]
) -> PositionCurve:
    """Averages over bins that are single samples at first and quarters of an octave later.

    What counts is how many times more context there is: one sample more is much for the second one
    and nothing for the thousandth.

    Args:
      position_bits: Bits of the t-th sample, summed over the clips.
      position_clips: Clips that have a t-th sample, at least 1.
    """
    length = len(position_bits)
    octaves = np.arange(np.ceil(BINS_PER_OCTAVE * np.log2(length)) + 1) / BINS_PER_OCTAVE
    starts = np.unique(np.concatenate([[0], np.floor(2.0**octaves).astype(np.int64)]))
    # The last bin is at least half as wide as it should be, so that it is not noise.
    starts = starts[(starts == 0) | (starts < length / 2 ** (0.5 / BINS_PER_OCTAVE))]
    bits = np.add.reduceat(position_bits, starts)
    samples = np.add.reduceat(position_clips, starts)
    return PositionCurve(
        edges=(*starts.tolist(), length),
        bits_per_sample=tuple((bits / samples).tolist()),
        num_samples=tuple(samples.tolist()),
    )
