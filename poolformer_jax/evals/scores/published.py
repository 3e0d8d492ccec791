"""Published scores of generated SC09 clips, to stand beside one's own."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedScores:
    """A row of a published table.

    Attributes:
      title: Model, or real clips.
      params: Parameters, as published; None of real clips.
      bits_per_sample: Likelihood; None without one.
      fid: Fréchet distance to the training clips.
      inception_score_s4: As the S4 / SaShiMi code computes it.
      modified_inception_score: mIS; None where it was not published.
      am_score: AM; None where it was not published.
    """

    title: str
    params: str | None = None
    bits_per_sample: float | None = None
    fid: float
    inception_score_s4: float
    modified_inception_score: float | None = None
    am_score: float | None = None


def _row(
    title: str,
    params: str | None,
    bits: float | None,
    fid: float,
    inception: float,
    modified: float | None = None,
    am: float | None = None,
) -> PublishedScores:
    return PublishedScores(
        title=title,
        params=params,
        bits_per_sample=bits,
        fid=fid,
        inception_score_s4=inception,
        modified_inception_score=modified,
        am_score=am,
    )


PUBLISHED_SC09 = (
    _row("real, train", None, None, 0.00, 8.56, 292.5, 0.16),
    _row("real, test", None, None, 0.02, 8.33, 257.6, 0.19),
    _row("Poolformer", "7.3M", 1.854, 0.46, 6.46),
    _row("Mamba", "24.3M", 1.860, 0.67, 7.33, 144.9, 0.36),
    _row("Mamba", "6.1M", 1.852, 0.94, 6.26, 88.54, 0.52),
    _row("DiffWave + SaShiMi", "23.0M", None, 1.42, 5.94, 69.17, 0.59),
    _row("SaShiMi", "5.8M", 1.873, 1.99, 5.13, 42.57, 0.74),
    _row("WaveNet", "4.2M", 1.925, 5.08, 2.27, 5.80, 1.47),
    _row("SampleRNN", "35.0M", 2.042, 8.96, 1.71, 3.02, 1.76),
)
"""By FID. Poolformer: Gallo Fernandez 2025, arXiv:2510.02206, the baseline; the others as in Gu &
Dao 2023, arXiv:2312.00752, table 4."""

PUBLISHED_NUM_CLIPS = 10_240
"""Generated clips, before any are filtered."""

PUBLISHED_SOURCES = (
    "Poolformer: arXiv:2510.02206; all others as in arXiv:2312.00752, table 4. All are of SC09, "
    "with the classifier published with SaShiMi (arXiv:2202.09729) and its training clips as the "
    "reference; their IS is IS-S4, and SaShiMi's scores are of clips filtered by likelihood."
)
