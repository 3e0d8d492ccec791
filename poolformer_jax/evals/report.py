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

import base64
import html
import io
import itertools
import math
import operator
import os
import pathlib
import statistics
from collections.abc import Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from poolformer_jax.evals.report_plots import plot_clip, plot_context, plot_loss
from poolformer_jax.evals.run_files import Clip, Run, as_number, load_run, train_command


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
    # Replaced in one go: a browser that reloads never sees half a page.
    partial = path.with_suffix(".html.part")
    partial.write_text(render_page(run), encoding="utf-8")
    partial.replace(path)
    return path


def render_page(run: Run) -> str:
    """Returns the whole page as HTML text."""
    model = run.config.get("model", {})
    data = run.config.get("data", {})
    title = f"Poolformer on {data['name']}" if data.get("name") else "Poolformer"
    sections = [
        _headline(run),
        _section("Loss", _loss_section(run)),
        _section("Likelihood", _likelihood_section(run, model) + _context_section(run, model)),
        _section("Listen", _clips_section(run)),
        _section("Model", _table(_model_rows(run, model))),
        _section("Speed and health", _table(_training_rows(run))),
        _section("Made with", _table(_environment_rows(run))),
    ]
    return _PAGE.format(title=html.escape(title), style=_STYLE, body="\n".join(sections))


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
    cells = "".join(
        f"<div class='tile'><strong>{html.escape(value)}</strong>"
        f"<span>{html.escape(label)}</span></div>"
        for value, label in tiles
    )
    return f"<div class='tiles'>{cells}</div>"


def _loss_section(run: Run) -> str:
    if not run.training and not run.validation:
        return _hint("No step has been logged yet.", train_command(run.workdir))
    return _picture(
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
    table = _table(
        rows, header=["Split", "Bits per sample", "At step", "Clips", "Samples"], numeric=True
    )
    note = (
        "<p class='caption'>Mean over every unpadded sample of the split; lower is better. "
        "A model that knows nothing needs "
        f"{_bits(uniform)} bits.</p>"
    )
    if run.likelihood is None:
        note += _hint(
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
        note = (
            f"<p class='caption'>The test split's mean lies in {_bits(interval['low'])} to "
            f"{_bits(interval['high'])} by the choice of its clips "
            f"({interval['level']:.0%} bootstrap interval).</p>"
        )
    if "curve" not in run.likelihood:
        return note
    return note + _picture(
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
    hint = _hint(
        "No clips have been generated.",
        f"python -m launch.sample --workdir={run.workdir} --num_samples=4",
    )
    parts = [] if any(not clip.is_real for clip in run.clips) else [hint]
    for is_real, clips in itertools.groupby(run.clips, key=lambda clip: clip.is_real):
        heading = "Real clips, for comparison" if is_real else "Generated"
        cards = "".join(_clip_card(clip) for clip in clips)
        parts.append(f"<h3>{heading}</h3><div class='clips'>{cards}</div>")
    return "".join(parts)


def _clip_card(clip: Clip) -> str:
    sound = base64.b64encode(clip.encoded).decode("ascii")
    name = html.escape(clip.name)
    seconds = len(clip.pcm) / clip.sample_rate
    picture = _picture(plot_clip(clip), f"Waveform and spectrogram of {clip.name}")
    return (
        f"<article><header><b>{name}</b><span>{seconds:.2f} s · {clip.sample_rate / 1000:g} kHz"
        f"</span></header><audio controls preload='metadata' aria-label='{name}' "
        f"src='data:audio/wav;base64,{sound}'></audio>{picture}</article>"
    )


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


def _picture(figure: Figure, description: str, *, caption: str = "", kind: str = "") -> str:
    """Inlines a figure as a transparent PNG at twice the screen's density."""
    FigureCanvasAgg(figure)
    buffer = io.BytesIO()
    # Without metadata, which holds a web address.
    figure.savefig(buffer, format="png", dpi=180, transparent=True, metadata={"Software": None})
    encoded = base64.b64encode(buffer.getvalue()).decode("ascii")
    image = f"<img alt='{html.escape(description)}' src='data:image/png;base64,{encoded}'>"
    return (
        f"<figure><div class='scroll {kind}'>{image}</div>"
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _section(heading: str, content: str) -> str:
    return f"<section><h2>{html.escape(heading)}</h2>{content}</section>"


def _table(
    rows: Sequence[Sequence[str]], *, header: Sequence[str] = (), numeric: bool = False
) -> str:
    head = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f"<tr><th scope='row'>{html.escape(row[0])}</th>"
        + "".join(f"<td>{html.escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    head = f"<thead><tr>{head}</tr></thead>" if head else ""
    kind = "numbers" if numeric else "facts"
    return f"<div class='scroll'><table class='{kind}'>{head}<tbody>{body}</tbody></table></div>"


def _hint(text: str, command: str) -> str:
    return f"<p class='hint'>{html.escape(text)} Run <code>{html.escape(command)}</code></p>"


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


_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>{title}</h1>
{body}
</main>
</body>
</html>
"""


_STYLE = """
:root {
  color-scheme: light dark;
  --ink: #1c2129; --soft: #59616d; --line: #dfe3e8; --page: #ffffff; --card: #f6f7f9;
  --accent: #2864c7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ink: #e4e7eb; --soft: #9aa3ae; --line: #2c323a; --page: #111418; --card: #191d23;
    --accent: #7fb0ff;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main { max-width: 1080px; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .75rem; padding-bottom: .35rem;
  border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; font-weight: 600; margin: 1.5rem 0 .6rem; color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(13rem, 1fr)); gap: .75rem; }
.tile { background: var(--card); border-radius: 10px; padding: .9rem 1.1rem; }
.tile strong { display: block; font-size: 1.5rem; line-height: 1.25;
  font-variant-numeric: tabular-nums; }
.tile span, .caption, figcaption { color: var(--soft); font-size: .875rem; }
figure { margin: 0; }
figcaption:empty { display: none; }
img { display: block; width: 100%; height: auto; }
.clips { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 26rem), 1fr));
  gap: 1rem; }
article { background: var(--card); border-radius: 10px; padding: .9rem; min-width: 0; }
article header { display: flex; justify-content: space-between; gap: 1rem; margin-bottom: .5rem; }
article header b { overflow-wrap: anywhere; }
article header span { color: var(--soft); font-size: .875rem; white-space: nowrap; }
audio { width: 100%; height: 2.5rem; margin-bottom: .5rem; }
.scroll { overflow-x: auto; }
.wide img { min-width: 38rem; }
table { border-collapse: collapse; font-size: .95rem; }
table.numbers { width: 100%; }
th, td { text-align: left; font-weight: 400; padding: .4rem 1.5rem .4rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); font-variant-numeric: tabular-nums; }
tbody th, thead th { color: var(--soft); }
tbody th { white-space: nowrap; }
.facts td { overflow-wrap: anywhere; }
.numbers td, .numbers th { white-space: nowrap; }
th:last-child, td:last-child { padding-right: 0; }
.numbers td, .numbers thead th:not(:first-child) { text-align: right; }
.hint { background: var(--card); border-left: 3px solid var(--accent); border-radius: 4px;
  padding: .7rem 1rem; }
code { font: .9em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
  overflow-wrap: anywhere; color: var(--accent); }
"""
