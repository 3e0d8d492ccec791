"""A trace of some steps of a run, in the folders in which XProf and TensorBoard look for it."""

from __future__ import annotations

import contextlib
import pathlib
import tempfile
from collections.abc import Callable, Iterator

import jax

from poolformer_jax.buckets import AnyPath
from poolformer_jax.files import write_whole

STEP_NAME = "train"
"""What a step is called in a trace."""


class Profiler:
    """Traces what devices and host do while steps are taken, on each process for itself.

    The first step after a start compiles, and is left out.

    Args:
      folder: Of all traces; process i writes plugins/profile/steps_10_to_15/process_i_*.
      steps: The first and the last, from 1; None traces nothing.
      start_step: Steps taken before this start.
      wait: Returns when the devices have done all that they were given.
      say: Tells the user.
    """

    def __init__(
        self,
        folder: AnyPath,
        steps: tuple[int, int] | None,
        *,
        start_step: int,
        wait: Callable[[], None],
        say: Callable[[str], None],
    ):
        first, last = steps or (1, 0)
        self.folder = folder
        self.steps = range(max(first, start_step + 2), last + 1)
        self._wait, self._say = wait, say
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._last = 0
        if steps and not self.steps:
            say(
                f"no trace: steps {first} to {last} are done, or the first of this start, which "
                "contains the compilation"
            )

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Around a step: begins the trace before its first step, ends it after its last."""
        if number not in self.steps:
            yield
            return
        if self._scratch is None:
            self._wait()
            # JAX names files after the host alone, and writes them bit by bit.
            self._scratch = tempfile.TemporaryDirectory(prefix="poolformer_profile_")
            jax.profiler.start_trace(self._scratch.name)
        self._last = number
        with jax.profiler.StepTraceAnnotation(STEP_NAME, step_num=number):
            yield
        if number == self.steps[-1]:
            self._wait()
            self.close()

    def close(self) -> None:
        """Writes the trace of the steps until now, if one has begun."""
        if self._scratch is None:
            return
        scratch, self._scratch = self._scratch, None
        with scratch:
            jax.profiler.stop_trace()
            steps = f"steps_{self.steps[0]}_to_{self._last}"
            target = self.folder / "plugins" / "profile" / steps
            for path in pathlib.Path(scratch.name).glob("plugins/profile/*/*"):
                name = f"process_{jax.process_index()}_{path.name}"
                write_whole(target / name, path.read_bytes())
        self._say(
            f"a trace of steps {self.steps[0]} to {self._last} is in {target}; to open it: "
            f"pip install xprof, xprof --logdir={self.folder}"
        )
