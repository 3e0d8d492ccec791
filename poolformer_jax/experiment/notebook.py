"""What a notebook shows inline: clips to listen to, pages, and a run while it trains."""

from __future__ import annotations

import html
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import tqdm.auto as tqdm
from jaxtyping import Int16

from poolformer_jax.data.datasets import SAMPLE_RATE
from poolformer_jax.experiment.configuration import Experiment
from poolformer_jax.experiment.errors import UserError, user_errors
from poolformer_jax.experiment.pages import plot_loss
from poolformer_jax.experiment.workdir import read_experiment
from poolformer_jax.pages import require_matplotlib


class Html:
    """What a notebook shows as HTML."""

    def __init__(self, text: str):
        self.text = text

    def _repr_html_(self) -> str:
        return self.text


def show_clips(
    clips: Sequence[Int16[np.ndarray, " t"]], names: Sequence[str] | None = None
) -> Html:
    """Clips side by side: a player, the waveform and the spectrogram of each.

    Args:
      clips: 16-bit samples at 16 kHz, as `draw_clips` returns them.
      names: What to call them; clip 1, clip 2, ... if None.

    Raises:
      UserError: If Matplotlib is missing, or there are not as many names as clips.
    """
    with user_errors():
        require_matplotlib()
        from poolformer_jax.pages import html as page
        from poolformer_jax.pages.run_files import Clip

        names = names or [f"clip {number}" for number in range(1, len(clips) + 1)]
        if len(names) != len(clips):
            raise ValueError(f"{len(names)} names for {len(clips)} clips; give one for each")
        pairs = zip(names, clips, strict=True)
        shown = [Clip(name=name, pcm=pcm, sample_rate=SAMPLE_RATE) for name, pcm in pairs]
        return Html(page.embedded(page.players(shown)))


def show_page(path: str | os.PathLike[str], height: int = 600) -> Html:
    """A page that the package wrote, such as scores or compiled programs, in a frame.

    Args:
      path: Of the HTML file.
      height: Of the frame, in pixels; what is below is scrolled to.

    Raises:
      UserError: If there is no such file.
    """
    with user_errors():
        page = html.escape(pathlib.Path(path).read_text(encoding="utf-8"))
        return Html(f'<iframe srcdoc="{page}" width="100%" height="{height}"></iframe>')


class LivePlot:
    """A progress bar, and the plot of the loss below it, drawn anew while a run trains.

        ex.train(experiment, workdir, on_log=ex.LivePlot(workdir))

    Args:
      workdir: Of the run.

    Raises:
      UserError: If Matplotlib is missing.
    """

    def __init__(self, workdir: str | os.PathLike[str]):
        with user_errors():
            require_matplotlib()
        self._workdir = workdir
        self._bar: Any = None
        self._display: Any = None

    def __call__(self, step: int) -> None:
        """Shows where the run stands at a step."""
        from IPython.display import display

        from poolformer_jax.pages import html as page

        if self._bar is None:
            experiment: Experiment = read_experiment(self._workdir)
            total = experiment.train.num_steps
            self._bar = tqdm.tqdm(total=total, initial=step, unit=" steps")
        self._bar.update(step - self._bar.n)
        # As HTML: without pyplot, IPython does not know how to show a figure.
        try:
            figure = plot_loss(self._workdir)
        except UserError:
            return  # In a bucket, the first numbers come with the first checkpoint.
        plot = Html(page.embedded(page.picture(figure, "Loss over training steps")))
        if self._display is None:
            self._display = display(plot, display_id=True)
        else:
            self._display.update(plot)
        if step == self._bar.total:
            self._bar.close()


def describe_devices() -> str:
    """What JAX computes on, in words.

    Raises:
      UserError: If the machine has a TPU, and JAX does not or cannot use it.
    """
    import jax

    from poolformer_jax.aot.chips import ENVIRONMENT

    if not _has_tpu():
        # JAX starts an installed libtpu in any case: `compile_for_tpu` needs it to know of this.
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
    advice = (
        "restart the runtime, install before JAX is imported, and leave torch_xla and "
        "tensorflow-tpu out, which replace libtpu; another process may also hold the TPU"
    )
    try:
        devices = jax.devices()
    except RuntimeError as error:
        raise UserError(f"JAX cannot start: {error}; {advice}") from error
    first = devices[0]
    if first.platform == "cpu" and _has_tpu():
        raise UserError(f"this machine has a TPU, but JAX computes on the CPU: {advice}")
    if first.platform == "cpu":
        return f"CPU, {os.cpu_count()} cores; JAX sees no TPU and no GPU"
    return f"{len(devices)} x {first.device_kind} ({first.platform.upper()})"


def _has_tpu(devices: pathlib.Path = pathlib.Path("/sys/bus/pci/devices")) -> bool:
    """Whether there is a device of Google's that is neither a disk nor a network card."""
    for device in devices.glob("*"):
        vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        if vendor == "0x1ae0" and not kind.startswith(("0x01", "0x02")):
            return True
    return False
