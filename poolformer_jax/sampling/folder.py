"""A folder of generated clips that an interrupted or later run completes.

| file                | what                                                                  |
|---------------------|-----------------------------------------------------------------------|
| settings.json       | how the clips were drawn; another draw into the folder is refused     |
| sample_00007.wav    | clip 7, whole                                                         |
| rows_*.jsonl        | log-likelihoods of the clips so far, by process; gone in the end      |
| log_likelihoods.csv | log-likelihoods of all clips, from the least likely to the likeliest  |
| index.html          | players and spectrograms of some of them (`write_sample_page`)        |
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Int16

from poolformer_jax.audio.wav import write_wav
from poolformer_jax.files import write_json, write_whole

SETTINGS_FILE = "settings.json"
TABLE_FILE = "log_likelihoods.csv"
PAGE_FILE = "index.html"
REAL_PREFIX = "real_"
"""Begins the names of recordings that lie beside the clips."""
# What `write_whole` leaves behind if it is killed.
_HALF_WRITTEN = tuple(
    f"{name}*.part" for name in ("sample_", REAL_PREFIX, SETTINGS_FILE, TABLE_FILE, PAGE_FILE)
)


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
    return folder / f"sample_{clip:05d}.wav"


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
        self.rows = self._read_rows()
        self._journal = folder / f"rows_{process_index}.jsonl"

    def start(self) -> None:
        """Makes the folder and notes the settings; one process does, before clips are added."""
        write_json(self.folder / SETTINGS_FILE, self._settings)

    def add(self, row: SampleRow, pcm: Int16[np.ndarray, " t"]) -> None:
        """Writes a clip; one that is there, whole or not, is replaced."""
        write_wav(clip_path(self.folder, row.clip), pcm, self._sample_rate)
        with open(self._journal, "a", encoding="utf-8") as file:
            # In front as well: a line that a killed process left unfinished must not swallow it.
            file.write(f"\n{json.dumps(dataclasses.asdict(row))}\n")
        self.rows[row.clip] = row

    def finish(self, num_clips: int) -> list[SampleRow]:
        """Gathers the rows of all processes in one table; one process does, at the end.

        Args:
          num_clips: Clips 0 to num_clips - 1 must be there; clips beyond are kept.

        Returns:
          All rows by ascending likelihood, as the protocol of SaShiMi sorts them.
        """
        rows = self._read_rows()
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
        _remove(self.folder, "rows_*.jsonl", *_HALF_WRITTEN)
        return ordered

    def _read_rows(self) -> dict[int, SampleRow]:
        """Those whose clips are whole: others were cut off, or deleted by someone."""
        header = 44  # Bytes in front of the samples of a WAV file.
        sizes = {path.name: path.stat().st_size for path in self.folder.glob("sample_*.wav")}
        return {
            clip: row
            for clip, row in _read_all_rows(self.folder).items()
            if sizes.get(clip_path(self.folder, clip).name) == header + 2 * self._length
        }


def find_conflict(folder: pathlib.Path, settings: Mapping[str, Any]) -> str | None:
    """Says how the clips of a folder differ from those asked for; None if clips may be added."""
    path = folder / SETTINGS_FILE
    if not path.is_file():
        if any(folder.glob("sample_*.wav")):
            return f"{folder} holds clips but no {SETTINGS_FILE}, which says how they were drawn"
        return None
    before = json.loads(path.read_text(encoding="utf-8"))
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


def clear(folder: pathlib.Path) -> None:
    """Removes what an earlier run left in a folder, and nothing else."""
    # The settings last: a folder that was half cleared still belongs to the old draw.
    _remove(folder, "rows_*.jsonl", TABLE_FILE, PAGE_FILE, "sample_*.wav", *_HALF_WRITTEN)
    _remove(folder, SETTINGS_FILE)


def _remove(folder: pathlib.Path, *patterns: str) -> None:
    for pattern in patterns:
        for path in folder.glob(pattern):
            path.unlink()


def read_table(folder: pathlib.Path) -> list[SampleRow]:
    """Reads the table of a complete folder, by ascending likelihood.

    Raises:
      FileNotFoundError: If there is none.
    """
    with open(folder / TABLE_FILE, encoding="utf-8", newline="") as file:
        return [
            SampleRow(
                clip=int(line["clip"]),
                seed=int(line["seed"]),
                label=int(line["label"]) if line["label"] else None,
                num_samples=int(line["num_samples"]),
                log_likelihood=float(line["log_likelihood"]),
                bits_per_sample=float(line["bits_per_sample"]),
            )
            for line in csv.DictReader(file)
        ]


def _read_all_rows(folder: pathlib.Path) -> dict[int, SampleRow]:
    rows = read_table(folder) if (folder / TABLE_FILE).is_file() else []
    for path in sorted(folder.glob("rows_*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(SampleRow(**json.loads(line)))
            except (json.JSONDecodeError, TypeError):
                continue  # Empty, or cut off when its process was killed: the clip is redrawn.
    return {row.clip: row for row in rows}
