"""One self-contained HTML page about a run: loss curve, likelihood, clips to listen to.

The page holds everything inline (styles, pictures, sounds), so that it can be mailed or kept. It
reads only the files that the other programs leave in the work directory:

| file                   | written by               | if it is missing        |
|------------------------|--------------------------|-------------------------|
| config.json            | launch.train             | an error                |
| environment.json       | launch.train             | an error                |
| metrics.jsonl          | launch.train             | an error                |
| likelihood_test.json   | launch.eval_likelihood   | the page names the command |
| samples/*.wav          | launch.sample            | the page names the command |
"""

from __future__ import annotations

import itertools
import math
import operator
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from poolformer_jax.files import write_whole
from poolformer_jax.pages import html as page
from poolformer_jax.pages.plots import plot_context, plot_loss
from poolformer_jax.pages.run_files import MAX_CLIPS, Run, as_number, load_run, train_command


def write_report(workdir: str | os.PathLike[str]) -> pathlib.Path:
    """Writes `report.html` into a run's work directory.

    Args:
      workdir: Directory of a run that `launch.train` has started.

    Returns:
      The path of the page.

    Raises:
      FileNotFoundError: If a required file is missing; the message names the command that makes it.
      ValueError: If a file is damaged.
    """
    run = load_run(workdir)
    path = run.workdir / "report.html"
    write_whole(path, render_page(run))
    return path


def render_page(run: Run) -> str:
    """Returns the whole page as HTML text."""
    model = run.config.get("model", {})
    data = run.config.get("data", {})
    title = f"Poolformer on {data['name']}" if data.get("name") else "Poolformer"
    sections = [
        _headline(run),
        page.section("Loss", _loss_section(run)),
        page.section("Likelihood", _likelihood_section(run, model) + _context_section(run, model)),
        page.section("Listen", _clips_section(run)),
        page.section("Model", page.table(_model_rows(run, model))),
        page.section("Speed and health", page.table(_training_rows(run))),
        page.section("Made with", page.table(_environment_rows(run))),
    ]
    return page.document(title, sections)


def _headline(run: Run) -> str:
    """The numbers a reader wants first."""
    tiles = []
    if run.validation:
        first, last = run.validation[0], run.validation[-1]
        best = min(run.validation, key=lambda record: _finite_or_inf(record["bits_per_sample"]))
        tiles.append(
            (
                f"{_bits(first['bits_per_sample'])} → {_bits(last['bits_per_sample'])}",
                f"validation bits per sample, step {first['step']:,} → {last['step']:,}",
            )
        )
        if best["step"] != last["step"]:
            tiles.append((_bits(best["bits_per_sample"]), f"best, at step {best['step']:,}"))
    if run.likelihood is not None:
        tiles.append((_bits(run.likelihood["bits_per_sample"]), "test bits per sample"))
    if "num_parameters" in run.environment:
        tiles.append((f"{run.environment['num_parameters']:,}", "parameters"))
    return page.tiles(tiles)


def _loss_section(run: Run) -> str:
    if not run.training and not run.validation:
        return page.hint("No step has been logged yet.", train_command(run.workdir))
    return page.picture(
        plot_loss(run),
        "Training and validation loss in bits per sample over training steps",
        caption="A training step's loss is that of its batch; validation is the whole split with "
        "the averaged (EMA) weights.",
        kind="wide",
    )


def _likelihood_section(run: Run, model: dict[str, Any]) -> str:
    num_codes = model.get("num_codes", 256)
    uniform = math.log2(num_codes)
    rows = [[f"Uniform over {num_codes} codes", _bits(uniform), "", "", ""]]
    ends = run.validation if len(run.validation) < 2 else [run.validation[0], run.validation[-1]]
    rows += [["Validation", *_likelihood_cells(record)] for record in ends]
    if run.likelihood is not None:
        split = str(run.likelihood.get("split", "test")).capitalize()
        rows.append([split, *_likelihood_cells(run.likelihood)])
    table = page.table(
        rows, header=["Split", "Bits per sample", "At step", "Clips", "Samples"], numeric=True
    )
    note = page.caption(
        "Mean over every unpadded sample of the split; lower is better. A model that knows nothing "
        f"needs {_bits(uniform)} bits."
    )
    if run.likelihood is None:
        note += page.hint(
            "The test split has not been evaluated.",
            f"python -m launch.eval_likelihood --workdir={run.workdir} --split=test",
        )
    return table + note


def _context_section(run: Run, model: dict[str, Any]) -> str:
    """How sure the mean is, and how much context helps."""
    if run.likelihood is None:
        return ""
    note = ""
    interval = run.likelihood.get("confidence_interval")
    if interval is not None:
        note = page.caption(
            f"The test split's mean lies in {_bits(interval['low'])} to {_bits(interval['high'])} "
            f"by the choice of its clips ({interval['confidence']:.0%} bootstrap interval)."
        )
    if "curve" not in run.likelihood:
        return note
    return note + page.picture(
        plot_context(run.likelihood, num_codes=model.get("num_codes", 256)),
        "Bits per sample over the position in the clip",
        caption="How much context helps: bits of the samples that have so many before them in "
        "their clip. Where clips end, fewer go on to the next point.",
        kind="wide",
    )


def _likelihood_cells(record: dict[str, Any]) -> list[str]:
    counts = [record.get(key) for key in ("step", "num_clips", "num_samples")]
    return [
        _bits(record["bits_per_sample"]),
        *("" if count is None else f"{count:,}" for count in counts),
    ]


def _clips_section(run: Run) -> str:
    hint = page.hint(
        "No clips have been generated.",
        f"python -m launch.sample --workdir={run.workdir} --num_samples=4 --length=1s",
    )
    parts = [] if any(not clip.is_real for clip in run.clips) else [hint]
    for is_real, clips in itertools.groupby(run.clips, key=lambda clip: clip.is_real):
        heading = "Real clips, for comparison" if is_real else "Generated"
        if not is_real and run.num_generated > MAX_CLIPS:
            heading = f"{MAX_CLIPS} of {run.num_generated:,} generated clips"
        parts.append(f"<h3>{heading}</h3>{page.clip_cards(list(clips))}")
    return "".join(parts)


def _model_rows(run: Run, model: dict[str, Any]) -> list[list[str]]:
    rows = []
    if "num_parameters" in run.environment:
        rows.append(["Parameters", f"{run.environment['num_parameters']:,}"])
    factors = model.get("pool_factors")
    if factors is not None:
        total = math.prod(factors)
        chain = " × ".join(map(str, factors)) + f" = {total}" if factors else "none"
        rows.append(["Pooling factors", chain])
        rate = run.clips[0].sample_rate if run.clips else 16_000
        divisors = itertools.accumulate([1, *factors], operator.mul)
        rates = " → ".join(f"{rate / divisor:,.6g}" for divisor in divisors)
        rows.append(["Steps per second at each level", rates])
    labels = {
        "layers": "Layers at each level",
        "width": "Model width",
        "recurrent_width": "Recurrent width",
        "complex_recurrence": "Complex recurrence",
        "num_gate_blocks": "Gate blocks",
        "gating": "Gated residual blocks",
        "dropout": "Dropout",
        "dtype": "Activations",
    }
    rows += [[label, _text(model[key])] for key, label in labels.items() if key in model]
    train = run.config.get("train", {})
    labels = {
        "batch_size": "Batch size (clips)",
        "learning_rate": "Learning rate",
        "ema_decay": "EMA decay",
        "seed": "Seed",
    }
    rows += [[label, _text(train[key])] for key, label in labels.items() if key in train]
    return rows


def _training_rows(run: Run) -> list[list[str]]:
    if not run.training:
        return [["Steps", "0"]]
    last = run.training[-1]
    rows = [["Steps", f"{last['step']:,}"]]
    for key, label in (
        ("clips_per_second", "Clips per second"),
        ("samples_per_second", "Samples per second"),
    ):
        speeds = _finite(run.training, key)
        if speeds:
            rows.append(
                [label, f"{_speed(statistics.median(speeds))} median, {_speed(max(speeds))} best"]
            )
    norms = _finite(run.training, "grad_norm")
    if norms:
        rows.append(
            ["Gradient norm", f"{statistics.median(norms):.3g} median, {max(norms):.3g} greatest"]
        )
    if "skipped_steps" in last:
        rows.append(["Skipped steps", f"{last['skipped_steps']:,}"])
    if "learning_rate" in last:
        rows.append(["Learning rate at the end", f"{last['learning_rate']:.3g}"])
    return rows


def _environment_rows(run: Run) -> list[list[str]]:
    rows = []
    for key, value in run.environment.items():
        if key == "num_parameters":
            continue
        if isinstance(value, dict):
            value = ", ".join(f"{name} {version}" for name, version in value.items())
        rows.append([key.replace("_", " ").capitalize(), _text(value)])
    rows.append(["Work directory", str(run.workdir)])
    return rows


def _text(value: Any) -> str:
    match value:
        case None:
            return "none"
        case bool():
            return "yes" if value else "no"
        case list() | tuple():
            return ", ".join(map(str, value))
        case _:
            return str(value)


def _bits(value: float | None) -> str:
    value = as_number(value)
    return f"{value:.3f}" if math.isfinite(value) else "not finite"


def _speed(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _finite_or_inf(value: float | None) -> float:
    number = as_number(value)
    return number if math.isfinite(number) else math.inf


def _finite(records: Sequence[dict[str, Any]], key: str) -> list[float]:
    numbers = [as_number(record[key]) for record in records if key in record]
    return [number for number in numbers if math.isfinite(number)]
