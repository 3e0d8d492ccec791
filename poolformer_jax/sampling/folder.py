"""A folder of generated clips that an interrupted or later run completes.

| file                | what                                                                  |
|---------------------|-----------------------------------------------------------------------|
| settings.json       | how the clips were drawn; another draw into the folder is refused     |
| sample_00007.wav    | clip 7, whole                                                         |
| real_00007.wav      | a recording, to compare with                                          |
| rows_*.jsonl        | log-likelihoods of the clips so far, by process; gone in the end      |
| log_likelihoods.csv | log-likelihoods of all clips, from the least likely to the likeliest  |
| index.html          | players and spectrograms of some of them (`write_sample_page`)        |
| written_files.json  | which of these are the program's own, see `own_files`                 |

The clips are not on that list: those in rows_*.jsonl and log_likelihoods.csv are the program's own.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import pathlib
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Int16

from poolformer_jax import own_files
from poolformer_jax.audio.wav import write_wav
from poolformer_jax.buckets import AnyPath
from poolformer_jax.files import read_json, write_json, write_whole

SETTINGS_FILE = "settings.json"
TABLE_FILE = "log_likelihoods.csv"
PAGE_FILE = "index.html"
REAL_PREFIX = "real_"
"""Begins the names of recordings that lie beside the clips."""

_JOURNAL = re.compile(r"rows_\d+\.jsonl")
_CLIP = re.compile(r"sample_[0-9]{5,}\.wav")
_REAL = re.compile(rf"{REAL_PREFIX}[0-9]{{5,}}\.wav")
# In every settings.json of the versions that kept no list.
_SETTINGS = ("step", "weights", "parameters_sha256", "seed", "length")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleRow:
    """What is known of a generated clip.

    Attributes:
      clip: Its number, which with the seed of the settings decides its randomness.
      seed: That seed.
      label: Class it was drawn with, None without one.
      num_samples: Samples that were drawn; a prompt's do not count.
      log_likelihood: The model's own, of those samples, in nats.
      bits_per_sample: The same as bits, the mean over the samples.
    """

    clip: int
    seed: int
    label: int | None
    num_samples: int
    log_likelihood: float
    bits_per_sample: float


def make_row(clip: int, *, seed: int, label: int | None, log_probs: np.ndarray) -> SampleRow:
    """Sums the log-probabilities [t] (nats) of a clip's drawn samples, in float64."""
    total = float(np.sum(log_probs, dtype=np.float64))
    return SampleRow(
        clip=clip,
        seed=seed,
        label=label,
        num_samples=len(log_probs),
        log_likelihood=total,
        bits_per_sample=-total / (len(log_probs) * math.log(2)),
    )


def clip_path(folder: pathlib.Path, clip: int) -> pathlib.Path:
    """Where a clip is."""
    return folder / clip_name(clip)


def clip_name(clip: int) -> str:
    """Its file's name."""
    return f"sample_{clip:05d}.wav"


def own_names(folder: pathlib.Path) -> set[str]:
    """The files in a folder that this project wrote, or may have.

    Raises:
      ValueError: If a list of them is damaged.
    """
    names = own_files.listed(folder)
    if names is not None:
        rows = _read_all_rows(folder, names)
        return {*names, *(clip_path(folder, clip).name for clip in rows)}
    if not own_files.is_result(folder / SETTINGS_FILE, *_SETTINGS):
        return set()
    fixed = (SETTINGS_FILE, TABLE_FILE, PAGE_FILE)
    return {
        name
        for name in os.listdir(folder)
        if name in fixed or any(p.fullmatch(name) for p in (_JOURNAL, _CLIP, _REAL))
    }


def check_folder(folder: pathlib.Path, *, num_clips: int, num_real: int = 0) -> None:
    """Checks that clips 0 to num_clips - 1 and their files may be written to a folder.

    Raises:
      OSError: If a file of somebody else is in the way.
      ValueError: If a list of the folder is damaged, or it holds clips of unknown origin.
    """
    own = own_names(folder)
    present = sorted(os.listdir(folder)) if folder.is_dir() else []
    numbered = [
        name
        for pattern, count in ((_CLIP, num_clips), (_REAL, num_real))
        for name in present
        if pattern.fullmatch(name) and int("".join(filter(str.isdigit, name))) < count
    ]
    own_files.check(folder, [*_fixed_names(), *numbered], own=own)
    if not own and any(name.startswith("sample_") and name.endswith(".wav") for name in present):
        raise ValueError(
            f"{folder} holds clips but no {SETTINGS_FILE} that says how they were drawn; they are "
            "kept: choose another folder"
        )


def _fixed_names(num_real: int = 0, num_processes: int = 1) -> list[str]:
    """All files but the clips, which have rows."""
    real = [f"{REAL_PREFIX}{index:05d}.wav" for index in range(num_real)]
    journals = [f"rows_{index}.jsonl" for index in range(num_processes)]
    return [SETTINGS_FILE, TABLE_FILE, PAGE_FILE, *real, *journals]


class SampleFolder:
    """Clips on disk, and what is known of them.

    Args:
      folder: Made if missing.
      settings: All that the clips depend on, as JSON can hold it.
      length: Samples of a clip.
      sample_rate: In Hz.
      process_index: Of several that fill the folder together: each draws clips of its own. They
        must all have opened it before any adds a clip.

    Attributes:
      folder: The folder.
      rows: What is known of each complete clip, by its number.

    Raises:
      ValueError: If the folder holds clips drawn with other settings; the differences are listed.
    """

    def __init__(
        self,
        folder: pathlib.Path,
        settings: Mapping[str, Any],
        *,
        length: int,
        sample_rate: int,
        process_index: int = 0,
    ):
        self.folder = folder
        self._length, self._sample_rate = length, sample_rate
        self._settings = dict(settings)
        if conflict := find_conflict(folder, settings):
            raise ValueError(
                f"{conflict}\nchoose another folder, or replace the clips with --overwrite"
            )
        self._own = own_names(folder)
        self.rows = self._read_rows(self._own)
        self._journal = folder / f"rows_{process_index}.jsonl"

    def start(
        self, real: Sequence[Int16[np.ndarray, " _"]] = (), *, num_processes: int = 1
    ) -> None:
        """Makes the folder, and notes the settings; one process does, before clips are added.

        Args:
          real: Recordings to write beside the clips.
          num_processes: That fill the folder together.

        Raises:
          FileExistsError: If a file of somebody else is in the way.
        """
        names = _fixed_names(len(real), num_processes)
        own_files.claim(
            self.folder, {*names, *_without_rows(self.folder, self._own)}, own=self._own
        )
        write_json(self.folder / SETTINGS_FILE, self._settings)
        for index, pcm in enumerate(real):
            write_wav(self.folder / f"{REAL_PREFIX}{index:05d}.wav", pcm, self._sample_rate)

    def add(self, row: SampleRow, pcm: Int16[np.ndarray, " t"]) -> None:
        """Writes a clip; one that is there, whole or not, is replaced.

        Raises:
          FileExistsError: If a file of somebody else is in the way.
        """
        path = clip_path(self.folder, row.clip)
        own_files.check_free(self.folder, [path.name], self._own)
        # Before the clip, so that a clip without a row is never this project's. In front of the
        # line as well: one that a killed process left unfinished must not swallow it.
        with open(self._journal, "a", encoding="utf-8") as file:
            file.write(f"\n{json.dumps(dataclasses.asdict(row))}\n")
            file.flush()
            os.fsync(file.fileno())
        self._own.add(path.name)
        write_wav(path, pcm, self._sample_rate)
        self.rows[row.clip] = row

    def finish(self, num_clips: int) -> list[SampleRow]:
        """Gathers the rows of all processes in one table; one process does, at the end.

        Args:
          num_clips: Clips 0 to num_clips - 1 must be there; clips beyond are kept.

        Returns:
          All rows by ascending likelihood, as the protocol of SaShiMi sorts them.
        """
        own = own_names(self.folder)
        rows = self._read_rows(own)
        missing = sorted(set(range(num_clips)) - rows.keys())
        if missing:
            raise RuntimeError(f"clips {missing[:10]} of {num_clips} were not drawn")
        ordered = sorted(rows.values(), key=lambda row: row.log_likelihood)
        text = io.StringIO()
        names = [field.name for field in dataclasses.fields(SampleRow)]
        writer = csv.DictWriter(text, ["file", *names], lineterminator="\n")
        writer.writeheader()
        for row in ordered:
            name = clip_path(self.folder, row.clip).name
            writer.writerow({"file": name, **dataclasses.asdict(row)})
        write_whole(self.folder / TABLE_FILE, text.getvalue())
        own_files.remove_half_written(self.folder, own)
        own_files.remove(self.folder, filter(_JOURNAL.fullmatch, own))
        return ordered

    def _read_rows(self, own: Collection[str]) -> dict[int, SampleRow]:
        """Those whose clips are whole: others were cut off, or deleted by someone."""
        header = 44  # Bytes in front of the samples of a WAV file.
        sizes = {
            name: (self.folder / name).stat().st_size
            for name in filter(_CLIP.fullmatch, own)
            if (self.folder / name).is_file()
        }
        return {
            clip: row
            for clip, row in _read_all_rows(self.folder, own).items()
            if sizes.get(clip_path(self.folder, clip).name) == header + 2 * self._length
        }


def find_conflict(folder: pathlib.Path, settings: Mapping[str, Any]) -> str | None:
    """Says how the clips of a folder differ from those asked for; None if clips may be added.

    Raises:
      ValueError: If a list of the folder is damaged.
    """
    own = own_names(folder)
    present = {name for name in own if (folder / name).is_file()}
    if SETTINGS_FILE not in present:
        if any(map(_CLIP.fullmatch, present)):
            return f"{folder} holds clips but no {SETTINGS_FILE}, which says how they were drawn"
        return None
    path = folder / SETTINGS_FILE
    if not own_files.is_result(path):
        return f"{path}, which says how the clips there were drawn, is damaged"
    before = read_json(path)
    wanted = json.loads(json.dumps(dict(settings)))
    differences = [
        f"{name}: {before.get(name)!r} -> {wanted.get(name)!r}"
        for name in {**before, **wanted}
        if before.get(name) != wanted.get(name)
    ]
    if not differences:
        return None
    return (
        f"{folder} holds clips that were drawn with other settings (there -> asked for):\n  "
        + "\n  ".join(differences)
    )


def _without_rows(folder: pathlib.Path, own: Collection[str]) -> set[str]:
    """The files that nothing but a list can tell to be this project's.

    Earlier versions, when they were killed, left a clip without a row.
    """
    return {*own} - {clip_path(folder, clip).name for clip in _read_all_rows(folder, own)}


def clear(folder: pathlib.Path) -> None:
    """Removes the clips of an earlier draw and what is known of them, and nothing else."""
    own = own_names(folder)
    clips = {name for name in own if _CLIP.fullmatch(name)}
    own_files.claim(folder, _without_rows(folder, own), own=own)
    own_files.remove_half_written(folder, own)
    # First the clips, which nothing but their rows makes this project's; the settings last: a
    # folder that was half cleared still belongs to the old draw.
    order = [*sorted(clips), PAGE_FILE, *filter(_JOURNAL.fullmatch, own), TABLE_FILE, SETTINGS_FILE]
    own_files.remove(folder, filter(own.__contains__, order))


def read_table(folder: AnyPath) -> list[SampleRow]:
    """Reads the table of a complete folder, by ascending likelihood.

    Raises:
      FileNotFoundError: If there is none.
      ValueError: If it is damaged.
    """
    path = folder / TABLE_FILE
    try:
        return [
            SampleRow(
                clip=int(line["clip"]),
                seed=int(line["seed"]),
                label=int(line["label"]) if line["label"] else None,
                num_samples=int(line["num_samples"]),
                log_likelihood=float(line["log_likelihood"]),
                bits_per_sample=float(line["bits_per_sample"]),
            )
            for line in csv.DictReader(path.read_text(encoding="utf-8").splitlines())
        ]
    except (ValueError, KeyError, TypeError, csv.Error) as error:
        raise ValueError(
            f"{path} is damaged, and tells no more which clips are whose; choose another folder"
        ) from error


def _read_all_rows(folder: pathlib.Path, own: Collection[str]) -> dict[int, SampleRow]:
    """Of the table and the journals that are this project's own."""
    rows = []
    if TABLE_FILE in own and (folder / TABLE_FILE).is_file():
        rows = read_table(folder)
    for name in sorted(filter(_JOURNAL.fullmatch, own)):
        try:
            lines = (folder / name).read_text(encoding="utf-8", errors="replace").splitlines()
        except FileNotFoundError:
            continue
        for line in lines:
            try:
                row = SampleRow(**json.loads(line))
            except (ValueError, TypeError, RecursionError):
                continue  # Empty, or cut off when its process was killed: the clip is redrawn.
            if type(row.clip) is int and row.clip >= 0:
                rows.append(row)
    return {row.clip: row for row in rows}
