"""One page about a run: loss curve, likelihood, clips to listen to.

It reads only the files that the other programs leave in the work directory:

| file                   | written by               | if it is missing           |
|------------------------|--------------------------|----------------------------|
| config.json            | launch.train             | an error                   |
| environment.json       | launch.train             | an error                   |
| metrics.jsonl          | launch.train             | an error                   |
| likelihood_test.json   | launch.eval_likelihood   | the page names the command |
| samples/*.wav          | launch.sample            | the page names the command |
| pretrained/*.wav       | launch.sample            | nothing                    |
"""

from __future__ import annotations

import itertools
import math
import operator
import os

import numpy as np

from poolformer_jax import own_files
from poolformer_jax.buckets import AnyPath
from poolformer_jax.files import write_whole
from poolformer_jax.pages import html as page
from poolformer_jax.pages.plots import plot_context, plot_loss
from poolformer_jax.pages.run_files import MAX_CLIPS, Run, load_run, read_numbers, train_command


def write_report(workdir: str | os.PathLike[str]) -> AnyPath:
    """Writes `report.html` into a run's work directory.

    Args:
      workdir: Directory of a run that `launch.train` has started.

    Returns:
      The path of the page.

    Raises:
      FileExistsError: If somebody else's report.html is there.
      FileNotFoundError: If a required file is missing; the message names the command that makes it.
      ValueError: If a file is damaged, or the run is of a classifier.
    """
    run = load_run(workdir)
    path = run.workdir / "report.html"
    own_files.claim(run.workdir, [path.name], own=[path.name] if page.is_document(path) else [])
    write_whole(path, render_page(run))
    return path


def render_page(run: Run) -> str:
    """Returns the whole page as HTML text."""
    model, data = (run.config.get(name, {}) for name in ("model", "data"))
    title = f"{model.get('kind', 'model').capitalize()} on {data.get('name', 'audio')}"
    made_with = {**run.environment, "work_directory": run.workdir}
    sections = [
        page.tiles(_headline(run)),
        *_pretrained(run),
        page.section("Loss", _loss(run)),
        page.section("Likelihood", _likelihood(run) + _context(run)),
        page.section("Listen", _clips(run)),
        page.section("Model", page.table(_model_rows(run))),
        page.section("Training", page.table(page.facts(run.config.get("train", {})))),
        page.section("Speed and health", page.table(_training_rows(run))),
        page.section("Made with", page.table(page.facts(made_with))),
    ]
    return page.document(title, sections)


def _headline(run: Run) -> list[tuple[str, str]]:
    """The numbers a reader wants first."""
    tiles = []
    if run.validation:
        bits = read_numbers(run.validation, "bits_per_sample")
        first, last = (run.validation[i]["step"] for i in (0, -1))
        change = f"{_bits(bits[0])} → {_bits(bits[-1])}"
        tiles.append((change, f"validation bits per sample, step {first:,} → {last:,}"))
        best = int(np.where(np.isfinite(bits), bits, np.inf).argmin())
        if best != len(bits) - 1:
            tiles.append((_bits(bits[best]), f"best, at step {run.validation[best]['step']:,}"))
    if run.likelihood is not None:
        tiles.append((_bits(run.likelihood["bits_per_sample"]), "test bits per sample"))
    if "num_parameters" in run.environment:
        tiles.append((f"{run.environment['num_parameters']:,}", "parameters"))
    return tiles


def _loss(run: Run) -> str:
    if not run.training and not run.validation:
        return page.hint("No step has been logged yet.", train_command(run.workdir))
    return page.picture(
        plot_loss(run),
        "Training and validation loss in bits per sample over training steps",
        caption="Training: the batch of each step. Validation: its clips, with the averaged "
        "(EMA) weights.",
        kind="wide",
    )


def _likelihood(run: Run) -> str:
    num_codes = _num_codes(run)
    uniform = _bits(math.log2(num_codes))
    rows = [[f"Uniform over {num_codes} codes", uniform, "", "", ""]]
    ends = run.validation if len(run.validation) < 2 else [run.validation[0], run.validation[-1]]
    results = [("Validation", record) for record in ends]
    if run.likelihood is not None:
        results.append((str(run.likelihood.get("split", "test")).capitalize(), run.likelihood))
    for split, record in results:
        counts = [record.get(key) for key in ("step", "num_clips", "num_samples")]
        cells = ["" if count is None else f"{count:,}" for count in counts]
        rows.append([split, _bits(record["bits_per_sample"]), *cells])
    header = ["Split", "Bits per sample", "At step", "Clips", "Samples"]
    content = page.table(rows, header=header, numeric=True) + page.caption(
        "Mean over every unpadded sample of these clips; lower is better. A model that knows "
        f"nothing needs {uniform} bits."
    )
    if run.likelihood is None:
        content += page.hint(
            "The test split has not been evaluated.",
            f"python -m launch.eval_likelihood --workdir={run.workdir} --split=test",
        )
    return content


def _context(run: Run) -> str:
    """How sure the mean is, and how much context helps."""
    content = ""
    likelihood = run.likelihood or {}
    if interval := likelihood.get("confidence_interval"):
        content += page.caption(
            f"The {interval['confidence']:.0%} bootstrap interval of the test split's mean, over "
            f"the choice of its clips, is {_bits(interval['low'])} to {_bits(interval['high'])}."
        )
    if "curve" in likelihood:
        content += page.picture(
            plot_context(likelihood, num_codes=_num_codes(run)),
            "Bits per sample over the position in the clip",
            caption="How much context helps: mean bits of the samples at each position, which have "
            "all earlier ones of their clip as context. Late positions exist in long clips only.",
            kind="wide",
        )
    return content


def _clips(run: Run) -> str:
    hint = page.hint(
        "No clips have been generated.",
        f"python -m launch.sample --workdir={run.workdir} --num_samples=4",
    )
    parts = [] if run.num_generated else [hint]
    for is_real, clips in itertools.groupby(run.clips, key=lambda clip: clip.is_real):
        heading = "Real clips, for comparison" if is_real else "Generated by this run"
        if not is_real and run.num_generated > MAX_CLIPS:
            heading = f"{MAX_CLIPS} of {run.num_generated:,} generated clips"
        parts.append(page.group(heading, page.players(list(clips))))
    return "".join(parts)


def _pretrained(run: Run) -> list[str]:
    if not run.pretrained:
        return []
    caption = page.caption("Not of this run: drawn by the model that comes with the package.")
    clips = page.players(run.pretrained)
    return [page.section("A trained model, for comparison", caption + clips)]


def _model_rows(run: Run) -> list[list[str]]:
    model = run.config.get("model", {})
    rows = page.facts(model)
    if factors := model.get("pool_factors"):
        rate = run.clips[0].sample_rate if run.clips else 16_000
        divisors = [1, *itertools.accumulate(factors, operator.mul)]
        rates = " → ".join(f"{rate / divisor:,.6g}" for divisor in divisors)
        rows.append(["Total pooling factor", f"{divisors[-1]:,}"])
        rows.append(["Steps per second at each level", rates])
    return rows


def _training_rows(run: Run) -> list[list[str]]:
    if not run.training:
        return [["Steps", "0"]]
    last = run.training[-1]
    rows = [["Steps", f"{last['step']:,}"]]
    for key, label, extreme in (
        ("clips_per_second", "Clips per second", "best"),
        ("samples_per_second", "Samples per second", "best"),
        ("grad_norm", "Gradient norm", "greatest"),
    ):
        numbers = read_numbers(run.training, key)
        numbers = numbers[np.isfinite(numbers)]
        if len(numbers):
            median, highest = (
                f"{number:,.0f}" if number >= 100 else f"{number:.3g}"
                for number in (np.median(numbers), numbers.max())
            )
            rows.append([label, f"{median} median, {highest} {extreme}"])
    if "skipped_steps" in last:
        rows.append(["Skipped steps", f"{last['skipped_steps']:,}"])
    if "learning_rate" in last:
        rows.append(["Learning rate at the end", f"{last['learning_rate']:.3g}"])
    return rows


def _num_codes(run: Run) -> int:
    return run.config.get("model", {}).get("num_codes", 256)


def _bits(value: float | None) -> str:
    return f"{value:.3f}" if value is not None and math.isfinite(value) else "not finite"
