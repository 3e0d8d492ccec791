"""SC09: the ten digit words of Speech Commands v0.02."""

from __future__ import annotations

import re

from poolformer_jax.data.builders.archive import Archive
from poolformer_jax.data.builders.download import HubArchive
from poolformer_jax.data.builders.features import DIGIT_WORDS
from poolformer_jax.data.builders.recordings import Plan, Recording, Recordings
from poolformer_jax.files import plain, quoted

_LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}
_MAX_LIST = 1 << 24  # Bytes; the published ones have less than half a million.


class Sc09(Recordings):
    """SC09: one-second recordings of the words "zero" to "nine" by many speakers, at 16 kHz.

    Validation and test clips are named by the two list files that are published with the clips, and
    all others are for training. The lists of the raw Speech Commands archive name 35 words, of
    which ten count.

    Source: P. Warden 2018, arXiv:1804.03209; as a benchmark of generation, C. Donahue et al. 2018,
      arXiv:1802.04208.
    """

    name = "sc09"
    TITLE = "SC09"
    HOMEPAGE = "huggingface.co/datasets/krandiash/sc09"
    ARCHIVE_NAMES = ("sc09.zip", "speech_commands_v0.02.tar.gz")
    CLIP_PATTERN = rf"(?:{'|'.join(DIGIT_WORDS)})/\w+\.wav"
    LABELS = DIGIT_WORDS
    MAX_SECONDS = 4
    EXPECTED_CLIPS = {"train": 31_158}  # The other splits are what the lists name.
    HUB_ARCHIVE = HubArchive(repository="krandiash/sc09", file_names=("sc09.zip",))

    def plan(self, archive: Archive) -> Plan:
        listed = _read_lists(archive)
        both = sorted(listed["validation"] & listed["test"])
        if both:
            raise ValueError(
                f"{archive.path}: {plain(both[0])} is in {' and in '.join(_LISTS.values())}; get "
                "the archive again"
            )
        for split, file in _LISTS.items():
            missing = sorted(listed[split] - archive.clips)
            if missing:
                fault = f"lacks {len(missing):,} clips named in {file}, such as {plain(missing[0])}"
                self.complain_unless_partial(archive, fault)
        parts = {"train": archive.clips - listed["validation"] - listed["test"]}
        parts |= {split: archive.clips & listed[split] for split in _LISTS}
        return {split: [_recording(name) for name in sorted(part)] for split, part in parts.items()}


def _read_lists(archive: Archive) -> dict[str, set[str]]:
    missing = sorted(set(_LISTS.values()) - archive.names)
    if missing:
        raise ValueError(
            f"{archive.path} lacks {missing[0]}, which says what is in the splits; get it from the "
            "archive of Speech Commands v0.02, and put it beside the folders of the words"
        )
    contents = dict(archive.read([*_LISTS.values()], max_bytes=_MAX_LIST))
    return {split: _parse_list(archive, file, contents[file]) for split, file in _LISTS.items()}


def _parse_list(archive: Archive, file: str, content: bytes) -> set[str]:
    # A name that is not understood would leave its clip in the training split.
    names = set()
    for number, line in enumerate(content.splitlines(), start=1):
        name = line.strip().decode("ascii", errors="backslashreplace")
        if name and not re.fullmatch(r"\w+/\w+\.wav", name, re.ASCII):
            raise ValueError(
                f"{archive.path}: line {number} of {file} is {quoted(name)}, expected a name such "
                "as zero/0a2b400e_nohash_0.wav; save it as plain text"
            )
        if name.split("/")[0] in DIGIT_WORDS:
            names.add(name)
    return names


def _recording(name: str) -> Recording:
    word, file = name.split("/")
    speaker = file.removesuffix(".wav").partition("_nohash_")[0]
    return Recording(name=name, label=word, speaker=speaker)
