"""YouTubeMix: four hours of piano in pieces of one minute."""

from __future__ import annotations

from poolformer_jax.data.builders.archive import Archive
from poolformer_jax.data.builders.download import HubArchive
from poolformer_jax.data.builders.recordings import Plan, Recordings


class Youtubemix(Recordings):
    """YouTubeMix: 241 pieces of piano music, of one minute each, at 16 kHz.

    Source: DeepSound 2017, the SampleRNN release; splits as in K. Goel et al. 2022,
      arXiv:2202.09729.
    """

    name = "youtubemix"
    TITLE = "YouTubeMix"
    HOMEPAGE = "huggingface.co/datasets/krandiash/youtubemix"
    ARCHIVE_NAMES = ("youtube_mix.zip", "youtubemix.zip")
    HUB_ARCHIVE = HubArchive(repository="krandiash/youtubemix", file_names=ARCHIVE_NAMES)
    CLIP_PATTERN = r"out\d+\.wav"
    MAX_SECONDS = 180

    def plan(self, archive: Archive) -> Plan:
        splits = {"train": range(212), "validation": range(212, 226), "test": range(226, 241)}
        return self.plan_by_number(archive, name_of="out{:03d}.wav", splits=splits)
