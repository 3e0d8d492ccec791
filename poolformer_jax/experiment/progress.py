"""Progress bars on stderr, with speeds that leave compilation out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import tqdm.auto as tqdm

from poolformer_jax.data.datasets import SAMPLE_RATE


@contextlib.contextmanager
def drawing_bar(
    total: int, *, num_processes: int = 1, enabled: bool = True
) -> Iterator[Callable[[int], None]]:
    """Yields what to call with the number of samples that were drawn since the last call.

    Args:
      total: Samples that this process draws.
      num_processes: That draw side by side; the speed is that of all.
      enabled: Whether this process shows anything.
    """
    with tqdm.tqdm(
        total=total,
        unit="sample",
        unit_scale=True,
        bar_format="{percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt}, {remaining} left{postfix}",
        disable=not (enabled and total),
    ) as bar:
        first_block: list[float] = []

        def show(samples: int) -> None:
            bar.update(samples)
            if not first_block:
                first_block.extend([time.monotonic(), bar.n])
                return
            since, before = first_block
            speed = (bar.n - before) / (time.monotonic() - since) * num_processes
            bar.set_postfix_str(format_speed(speed))

        yield show


def format_speed(samples_per_second: float) -> str:
    """Says a speed, also as a multiple of real time."""
    real_time = samples_per_second / SAMPLE_RATE
    return f"{samples_per_second:,.0f} samples/s, {real_time:.2f} x real time"


class ScoringBars:
    """Bars of sets of clips that are classified and resampled.

    Attributes:
      clips_per_second: Classified so far, without each set's first batch; None if no set had a
        second one.
    """

    def __init__(self):
        self._clips, self._seconds = 0, 0.0
        self._resamples: Any = None

    @property
    def clips_per_second(self) -> float | None:
        return self._clips / self._seconds if self._clips else None

    def show_resamples(self, title: str, done: int, total: int) -> None:
        """Shows a bar for the intervals of a set, on a terminal only."""
        if done == 0:
            # Its own default leaves bars in log files.
            self._resamples = tqdm.tqdm(
                total=total, unit=" resamples", desc=f"{title}: intervals", disable=None
            )
            return
        self._resamples.update()
        if done == total:
            self._resamples.close()

    def show(self, classify: Callable) -> Callable:
        """Lets (clips, on_progress) -> result show a bar."""

        def wrapped(clips: Any) -> Any:
            since = None  # The first batch may have to wait for the compiler.

            def update(count: int) -> None:
                nonlocal since
                bar.update(count)
                now = time.monotonic()
                if since is not None:
                    self._clips += count
                    self._seconds += now - since
                since = now

            with tqdm.tqdm(total=clips.num_clips, unit=" clips", desc=clips.title) as bar:
                return classify(clips=clips, on_progress=update)

        return wrapped
