"""Plots for pages and notebooks: loss, positions, scaling, classes, a clip's spectrogram.

They are transparent, in colours for a light as well as for a dark page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import scipy.signal
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, LogLocator, MaxNLocator
from matplotlib.transforms import Transform

from poolformer_jax.evals.scaling.study import Study
from poolformer_jax.pages.run_files import Clip, Run, read_numbers

# Greys and hues that keep a contrast of at least 3 on white as well as on near-black.
_INK = "#7b828d"
_BLUE = "#3f83f0"
_ORANGE = "#e0761f"
_REAL = "#1f9a75"

_DASHED: dict[str, Any] = {"linewidth": 1, "linestyle": (0, (2, 3))}


def plot_loss(run: Run) -> Figure:
    """Bits per sample over steps: training with its running mean, and validation."""
    figure, axes = _wide_figure(3.6)
    uniform = math.log2(run.config.get("model", {}).get("num_codes", 256))
    axes.axhline(uniform, color=_INK, **_DASHED)
    _label_line(axes, (1.0, uniform), f"uniform, {uniform:.1f}", axes.get_yaxis_transform())
    levels = [uniform]
    for records, is_training in ((run.training, True), (run.validation, False)):
        if not records:
            continue
        steps, bits = (read_numbers(records, key) for key in ("step", "bits_per_sample"))
        levels += bits[np.isfinite(bits)].tolist()
        if not is_training:
            axes.plot(steps, bits, "o-", color=_ORANGE, lw=1.6, ms=4.5, label="validation")
            continue
        axes.plot(steps, bits, color=_BLUE, alpha=0.4, lw=0.8, label="training, each step")
        window = max(1, min(100, len(bits) // 40))
        if window > 1:
            mean = running_mean(bits, window)
            label = f"training, mean of {window} steps"
            axes.plot(steps, mean, color=_BLUE, lw=1.8, label=label)
    # A spike of a diverging step must not squeeze the curve to a line: the top is the uniform
    # loss, or the 98th percentile where most of the run lies above it.
    top = max(uniform, float(np.percentile(levels, 98)))
    bottom = min(levels)
    margin = 0.06 * max(top - bottom, 0.1)
    axes.set_ylim(bottom - margin, top + margin)
    axes.set_xlabel("training step")
    axes.set_ylabel("bits per sample")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(lambda step, _: f"{step:,.0f}")
    _add_legend(axes, columns=3)
    return figure


def plot_context(likelihood: Mapping[str, Any], *, num_codes: int = 256) -> Figure:
    """Bits per sample over the position in the clip.

    Args:
      likelihood: The content of likelihood_<split>.json.
      num_codes: Size of the model's vocabulary.
    """
    figure, axes = _wide_figure(3.2)
    curve = likelihood["curve"]
    # A logarithmic axis has no 0: the first sample is number 1.
    numbers = 1 + np.array(curve["edges"])
    axes.stairs(curve["bits_per_sample"], numbers, color=_BLUE, linewidth=1.8, baseline=None)
    mean = likelihood["bits_per_sample"]
    axes.axhline(mean, color=_INK, **_DASHED)
    start = (0.0, mean)
    _label_line(axes, start, f"mean, {mean:.3f}", axes.get_yaxis_transform(), at="upper right")
    trained = likelihood.get("training_length", math.inf)
    if trained < numbers[-1] - 1:
        axes.axvline(1 + trained, color=_ORANGE, **_DASHED)
        end = (1.0 + trained, 1.0)
        _label_line(axes, end, "training length", axes.get_xaxis_transform(), color=_ORANGE)
    # The first samples, without context, may cost more than chance; they must not squeeze the rest.
    uniform = math.log2(num_codes)
    axes.set_ylim(0, min(max(curve["bits_per_sample"]), uniform) * 1.05)
    axes.set_xscale("log")
    axes.set_xlim(1, numbers[-1])
    axes.xaxis.set_major_formatter(lambda number, _: f"{number:,.0f}")
    axes.set_xlabel("number of the sample in its clip")
    axes.set_ylabel("bits per sample")
    return figure


def plot_scaling(study: Study) -> Figure:
    """Bits per sample against parameters, samples, FLOPs, chips and, where known, chip-hours."""
    labels = {
        "parameters": "parameters",
        "samples": "samples trained on",
        "flops": "training FLOPs",
        "chips": "chips",
        "chip_hours": "chip-hours",
    }
    shown = [name for name in labels if np.isfinite(study.points(name)[0]).all()]
    figure = Figure(figsize=(9, 3.1 * -(-len(shown) // 2)), layout="constrained")
    for place, quantity in enumerate(shown, start=1):
        axes = figure.add_subplot(-(-len(shown) // 2), 2, place)
        axes.set_xscale("log")
        axes.grid(axis="y", color=_INK, alpha=0.2, linewidth=0.6)
        _style_axes(axes)
        x, bits = study.points(quantity)
        for run in study.runs:
            if quantity in ("samples", "flops", "chip_hours"):
                axes.plot(getattr(run, quantity), run.bits, color=_BLUE, alpha=0.4, lw=1)
        if law := study.laws.get(quantity):
            between = np.geomspace(x.min(), x.max(), 50)
            axes.plot(between, law(between), color=_ORANGE, lw=1.6)
        axes.plot(x, bits, "o", color=_BLUE, ms=5)
        for run, at, level in zip(study.runs, x, bits, strict=True):
            style: dict[str, Any] = {"textcoords": "offset points", "color": _INK, "fontsize": 8}
            axes.annotate(_rounded(run.parameters), (at, level), (5, 4), **style)
        if quantity == "chips":
            axes.xaxis.set_major_locator(FixedLocator(sorted({*x.tolist()})))
        elif x.max() < 30 * x.min():
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: _rounded(value))
        axes.minorticks_off()
        axes.margins(x=0.2, y=0.15)
        axes.set_xlabel(labels[quantity])
        axes.set_ylabel("validation bits per sample")
    return figure


def _rounded(value: int | float) -> str:
    """1.4M for 1,405,056."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if size <= value < 1000 * size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def plot_clip(clip: Clip) -> Figure:
    """Waveform above the spectrogram, over seconds."""
    figure = Figure(figsize=(4.8, 3.3), layout="constrained")
    wave_axes, frequency_axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 2])
    signal = clip.pcm.astype(np.float64) / 2**15
    seconds = np.arange(len(signal)) / clip.sample_rate
    wave_axes.plot(seconds, signal, color=_REAL if clip.is_real else _BLUE, linewidth=0.5)
    peak = max(float(np.abs(signal).max(initial=0.0)), 1e-3) * 1.1
    wave_axes.set_ylim(-peak, peak)
    wave_axes.set_ylabel("amplitude", fontsize=10)
    decibels, extent = spectrogram_db(signal, clip.sample_rate)
    frequency_axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        extent=extent,
        vmin=-80.0,
        vmax=0.0,
        interpolation="bilinear",
    )
    frequency_axes.set_xlim(0.0, max(clip.seconds, 1e-3))
    frequency_axes.set_ylabel("frequency (Hz)", fontsize=10)
    frequency_axes.set_xlabel("time (s)", fontsize=10)
    for axes in (wave_axes, frequency_axes):
        axes.tick_params(labelsize=9)
        _style_axes(axes)
    return figure


def plot_classes(
    class_names: Sequence[str],
    shares: Mapping[str, Float[np.ndarray, " k"]],
    expected: Float[np.ndarray, " k"],
) -> Figure:
    """Share of each class in sets of clips, beside a line for what is expected.

    Args:
      class_names: Names of the classes.
      shares: From a set's title to the share of each class; at most four sets.
      expected: Of the reference.
    """
    figure, axes = _wide_figure(3.2)
    places = np.arange(len(class_names))
    width = 0.8 / len(shares)
    for i, (title, share) in enumerate(shares.items()):
        color = (_BLUE, _ORANGE, _REAL, _INK)[i]
        offset = (i - (len(shares) - 1) / 2) * width
        axes.bar(places + offset, 100 * share, 0.9 * width, color=color, label=title)
    axes.hlines(
        100 * expected, places - 0.45, places + 0.45, color=_INK, linewidth=1.6, label="reference"
    )
    axes.set_xticks(places, class_names)
    axes.set_ylabel("share of the clips (%)")
    axes.set_axisbelow(True)
    _add_legend(axes, columns=len(shares) + 1)
    return figure


def plot_confusion(class_names: Sequence[str], counts: Int[np.ndarray, "k k"]) -> Figure:
    """Clips by label (rows) and predicted class (columns); the colour is the share of the row."""
    figure = Figure(figsize=(5.2, 4.6), layout="constrained")
    axes = figure.add_subplot()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    cells = np.zeros((*counts.shape, 4))
    cells[..., :3] = to_rgba(_BLUE)[:3]
    cells[..., 3] = shares  # The page shows through, whichever colour it has.
    axes.imshow(cells, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "#ffffff" if shares[row, column] > 0.6 else _INK
            axes.text(column, row, f"{count:,}", ha="center", va="center", color=color, fontsize=9)
    places = np.arange(len(class_names))
    axes.set_xticks(places, class_names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, class_names)
    axes.set_xlabel("predicted")
    axes.set_ylabel("label")
    axes.tick_params(labelsize=9, length=0)
    _style_axes(axes)
    return figure


def running_mean(values: Float[np.ndarray, " t"], window: int) -> Float[np.ndarray, " t"]:
    """Returns the mean of the last `window` finite values up to each one, fewer at the start.

    It looks back only, so a point never shows what the run did not know yet. It is NaN where no
    value in the window is finite (skipped steps may have none).
    """
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    end = np.arange(1, len(values) + 1)
    start = np.maximum(0, end - window)
    total = counts[end] - counts[start]
    return np.where(total > 0, (sums[end] - sums[start]) / np.maximum(total, 1), np.nan)


def spectrogram_db(
    signal: Float[np.ndarray, " t"], sample_rate: int
) -> tuple[Float[np.ndarray, "f k"], tuple[float, float, float, float]]:
    """Power spectrogram in dB below the loudest cell: 32 ms Hann windows, at least 4 ms apart.

    Windows of long sounds are up to 32 ms apart: a picture has not so many columns.

    Silence of half a window before and after lets the first and the last sample be in the middle
    of a window, so that the picture is as long as the sound.

    Returns:
      (power in dB, extent of the picture: first and last time in s, first and last frequency in
      Hz).
    """
    half = round(0.016 * sample_rate)
    hop = max(1, round(0.004 * sample_rate), min(len(signal) // 2_000, 2 * half))
    frequencies, times, power = scipy.signal.spectrogram(
        np.pad(signal, half),
        fs=sample_rate,
        window="hann",
        nperseg=2 * half,
        noverlap=2 * half - hop,
        detrend=False,
    )
    reference = max(float(power.max()), 1e-20)
    decibels = 10.0 * np.log10(np.maximum(power, 1e-9 * reference) / reference)
    start, end = (times[[0, -1]] - half / sample_rate).tolist()
    margin = 0.5 * hop / sample_rate
    return decibels, (start - margin, end + margin, 0.0, float(frequencies[-1]))


def _wide_figure(height: float) -> tuple[Figure, Axes]:
    """As wide as a page; height in inches."""
    figure = Figure(figsize=(9, height), layout="constrained")
    axes = figure.add_subplot()
    axes.margins(x=0.015)
    axes.grid(axis="y", color=_INK, alpha=0.2, linewidth=0.6)
    _style_axes(axes)
    return figure, axes


def _add_legend(axes: Axes, *, columns: int) -> None:
    """Above the axes."""
    style: dict[str, Any] = {"frameon": False, "labelcolor": _INK, "fontsize": 9}
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, **style)


def _label_line(
    axes: Axes,
    position: tuple[float, float],
    text: str,
    transform: Transform,
    *,
    at: Literal["lower left", "upper right"] = "lower left",
    color: str = _INK,
) -> None:
    """Writes beside an end of a line."""
    left = at == "lower left"
    axes.annotate(
        text,
        position,
        xycoords=transform,
        xytext=(-4, -4) if left else (4, 4),
        textcoords="offset points",
        ha="right" if left else "left",
        va="top" if left else "bottom",
        color=color,
        fontsize=9,
    )


def _style_axes(axes: Axes) -> None:
    axes.set_facecolor("none")
    axes.tick_params(which="both", colors=_INK)
    axes.xaxis.label.set_color(_INK)
    axes.yaxis.label.set_color(_INK)
    axes.spines[["top", "right"]].set_visible(False)
    for spine in axes.spines.values():
        spine.set_color(to_rgba(_INK, 0.5))
