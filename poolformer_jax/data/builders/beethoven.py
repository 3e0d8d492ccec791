"""Beethoven: his piano sonatas in pieces of eight seconds."""

from __future__ import annotations

from poolformer_jax.data.builders.archive import Archive
from poolformer_jax.data.builders.download import HubArchive
from poolformer_jax.data.builders.recordings import Plan, Recordings


class Beethoven(Recordings):
    """Beethoven: 4,328 pieces of piano sonatas, of 8 s (128,000 samples) each, at 16 kHz.

    Source: S. Mehri et al. 2017, arXiv:1612.07837; splits as in K. Goel et al. 2022,
      arXiv:2202.09729.
    """

    name = "beethoven"
    TITLE = "Beethoven"
    HOMEPAGE = "huggingface.co/datasets/krandiash/beethoven"
    ARCHIVE_NAMES = ("beethoven.zip",)
    HUB_ARCHIVE = HubArchive(repository="krandiash/beethoven", file_names=ARCHIVE_NAMES)
    CLIP_PATTERN = r"\d+\.wav"
    MAX_SECONDS = 60

    def plan(self, archive: Archive) -> Plan:
        splits = {
            "train": range(3_808),
            "validation": range(3_808, 4_068),
            "test": range(4_068, 4_328),
        }
        return self.plan_by_number(archive, name_of="{}.wav", splits=splits)
