"""The programs of an experiment, compiled for TPU slices that need not be there."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from poolformer_jax.aot.chips import chip_of, describe_topology, num_chips, prepare_environment
from poolformer_jax.config_checks import MAX_INT, check_range
from poolformer_jax.experiment.configuration import Experiment, replace
from poolformer_jax.experiment.errors import user_errors
from poolformer_jax.experiment.paths import local_path
from poolformer_jax.files import write_json
from poolformer_jax.layers.config import on_platform
from poolformer_jax.pages import require_matplotlib

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from poolformer_jax.aot.collectives import Collective
    from poolformer_jax.aot.report import ProgramReport

_LOG = logging.getLogger(__name__)

Scaling = Literal["weak", "strong"]
"""More chips with as many clips each, or with the same batch."""

MOST_CLIPS = 1024
"""Clips in each part of the batch, beyond which no larger batch is looked for."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CompiledProgram:
    """What compiling a program for a slice, or several, has told.

    Attributes:
      program: `training`, `evaluation` or `sampling`, one step each.
      topology: Of a slice.
      num_slices: Of that topology.
      chips: Of all slices; a sampling step is compiled for one.
      mesh: Sizes of its axes by name.
      batch: Clips over all chips.
      scaling: In which pictures it is a point.
      compile_seconds: To lower and compile.
      report: Of one chip; None if the program does not fit.
      needed_bytes: HBM that one that does not fit needs; None if the compiler does not say.
      collectives: By axes of the mesh and link.
    """

    program: str
    topology: str
    num_slices: int
    chips: int
    mesh: Mapping[str, int]
    batch: int
    scaling: tuple[Scaling, ...]
    compile_seconds: float
    report: ProgramReport | None
    needed_bytes: int | None = None
    collectives: tuple[Collective, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the program fits into the HBM of its chips."""
        return self.report is not None

    @property
    def roofline_seconds(self) -> float | None:
        """The least time of a step on one chip, links left out; None if unknown."""
        return None if self.report is None else self.report.roofline_seconds

    @property
    def collective_seconds(self) -> float | None:
        """The least time of all collectives; None if unknown."""
        if self.report is None or self.report.work is None:
            return None
        known = [one.seconds for one in self.collectives if one.seconds is not None]
        return sum(known, 0.0) if len(known) == len(self.collectives) else None

    def values(self) -> dict[str, Any]:
        """As in JSON; bytes, FLOPs and seconds are those of one chip and one step."""
        report, work = self.report, self.report and self.report.work
        return {
            "program": self.program,
            "topology": self.topology,
            "num_slices": self.num_slices,
            "chips": self.chips,
            "mesh": dict(self.mesh),
            "batch": self.batch,
            "scaling": list(self.scaling),
            "fits": self.fits,
            "usable_bytes_per_chip": chip_of(self.topology).hbm_bytes,
            "needed_bytes_per_chip": self.needed_bytes,
            "argument_bytes_per_chip": report and report.argument_bytes,
            "temp_bytes_per_chip": report and report.temp_bytes,
            "peak_bytes_per_chip": report and report.peak_bytes,
            "hbm_bytes_per_step": work and work.hbm_bytes,
            "flops_per_step": work and work.flops,
            "roofline_seconds": self.roofline_seconds,
            "bound": report and report.bound_by,
            "collective_bytes": work and sum(one.num_bytes for one in self.collectives),
            "collective_seconds": self.collective_seconds,
            "collectives": [dataclasses.asdict(one) for one in self.collectives],
            "compile_seconds": self.compile_seconds,
            "unreadable": report.unreadable if report else "",
        }


def compile_for_tpu(
    experiment: Experiment,
    topologies: Sequence[str],
    *,
    num_slices: int = 1,
    find_batch: bool = False,
    json: str | os.PathLike[str] | None = None,
    html: str | os.PathLike[str] | None = None,
) -> list[CompiledProgram]:
    """Compiles training, evaluation and sampling steps, ahead of time and without a TPU.

    All three for the first topology. For further ones the training step: with the batch grown in
    proportion to the chips (weak scaling), and with the same batch (strong scaling) as long as it
    splits over them.

    Args:
      experiment: What to train; its batch is for the first topology. Whichever its platform, it is
        compiled for a TPU.
      topologies: Such as `v5e:4x4`.
      num_slices: Slices of each topology, joined by the data-centre network.
      find_batch: Whether to look for the largest batch that fits the first topology; every batch
        that is tried is among the results.
      json: File for the results, written anew after every program.
      html: File for a page with the tables and, of several topologies, a plot.

    Raises:
      UserError: Before anything is compiled, for an unknown topology, a missing libtpu or
        Matplotlib, or an experiment that does not fit the first topology.
    """
    with user_errors():
        check_range("num_slices", num_slices, 1, MAX_INT)
        for topology in topologies:
            num_chips(topology)
        json, html = _file("json", json), _file("html", html)
        if html is not None:
            require_matplotlib()
        prepare_environment()
        experiment = dataclasses.replace(experiment, model=on_platform(experiment.model, "tpu"))
        steps = _plan(experiment, topologies, num_slices)
        if json is not None:
            write_json(json, [])  # Minutes before there is anything to write.
    results: list[CompiledProgram] = []

    def compile_step(step: _Step) -> bool:
        results.append(_compile(step))
        if json is not None:
            write_json(json, [result.values() for result in results])
        return results[-1].fits

    with _without_cache():
        if find_batch:
            _find_batch(steps.pop(0), compile_step)
        for step in steps:
            compile_step(step)
    if html is not None:
        from poolformer_jax.experiment.compilation_report import write_page

        write_page(html, results)
    return results


def _file(name: str, path: str | os.PathLike[str] | None) -> pathlib.Path | None:
    if path is None:
        return None
    found = local_path(name, path)
    if found.is_dir():
        raise ValueError(f"{name} {found} is a folder; name a file")
    return found


@dataclasses.dataclass(frozen=True)
class _Step:
    """A program that is to be compiled; `experiment` has its batch and length."""

    program: str
    topology: str
    num_slices: int
    mesh: Mesh
    experiment: Experiment
    scaling: tuple[Scaling, ...] = ()

    @property
    def batch(self) -> int:
        return self.experiment.train.batch_size


def _plan(experiment: Experiment, topologies: Sequence[str], num_slices: int) -> list[_Step]:
    """What to compile: first the training step for the first topology, with the batch as it is.

    Raises:
      ValueError: If the experiment does not fit the first topology.
    """
    from poolformer_jax import sharding
    from poolformer_jax.evals.likelihood.evaluator import choose_chunk_length
    from poolformer_jax.models.config import check_length

    train, data, model = experiment.train, experiment.data, experiment.model.build()
    parts = train.grad_accum_steps or 1

    def mesh_of(topology: str) -> Mesh:
        mesh = sharding.make_mesh(
            experiment.mesh, devices=describe_topology(topology, num_slices=num_slices)
        )
        time_parts = mesh.shape[sharding.SEQUENCE]
        check_length(model, data.training_length, what="training length", parts=time_parts)
        return mesh

    def training(topology: str, mesh: Mesh, batch: int, *scaling: Scaling) -> _Step:
        changed = replace(experiment, train={"batch_size": batch})
        return _Step("training", topology, num_slices, mesh, changed, scaling)

    first, *others = dict.fromkeys(topologies)
    mesh = mesh_of(first)
    sharding.check_batch_size("train.batch_size", train.batch_size, mesh, parts=parts)
    sharding.check_batch_size("train.eval_batch_size", train.eval_batch_size, mesh)
    scalings: tuple[Scaling, ...] = ("weak", "strong") if others else ()
    steps = [training(first, mesh, train.batch_size, *scalings)]
    for topology in others:
        try:
            larger = mesh_of(topology)
        except ValueError as error:
            raise ValueError(f"{topology}: {error}") from error
        row_parts = sharding.num_row_parts(larger)
        clips, rest = divmod(train.batch_size * row_parts, sharding.num_row_parts(mesh))
        batches: dict[int, list[Scaling]] = {}
        wanted: tuple[tuple[Scaling, int, bool], ...] = (
            ("weak", clips, not rest),
            ("strong", train.batch_size, True),
        )
        for scaling, batch, whole in wanted:
            if whole and batch % (row_parts * parts) == 0:
                batches.setdefault(batch, []).append(scaling)
            else:
                _LOG.info(
                    "%s is left out of %s scaling: the batch does not split over its %d parts%s",
                    topology,
                    scaling,
                    row_parts,
                    f" x {parts} accumulation steps" if parts > 1 else "",
                )
        steps += [training(topology, larger, batch, *names) for batch, names in batches.items()]

    # As `train` evaluates: clips in chunks of about the training length.
    chunk_length = choose_chunk_length(
        model, data.seq_len, limit=data.training_length, parts=mesh.shape[sharding.SEQUENCE]
    )
    evaluated = replace(
        experiment,
        train={"batch_size": train.eval_batch_size, "grad_accum_steps": None},
        data={"seq_len": chunk_length, "train_len": None},
    )
    # As `sample` draws: every chip its own clips.
    share = train.batch_size // sharding.num_row_parts(mesh)
    drawn = replace(experiment, train={"batch_size": share, "grad_accum_steps": None})
    single = sharding.make_mesh(devices=describe_topology(first)[:1])
    steps[1:1] = [
        _Step("evaluation", first, num_slices, mesh, evaluated),
        _Step("sampling", first, 1, single, drawn),
    ]
    return steps


def _find_batch(step: _Step, compile_step: Callable[[_Step], bool]) -> None:
    """Compiles a training step with the batches of a search for the largest that fits."""
    from poolformer_jax import sharding

    train, length = step.experiment.train, step.experiment.data.training_length
    unit = sharding.num_row_parts(step.mesh) * (train.grad_accum_steps or 1)
    most = min(MOST_CLIPS * sharding.num_row_parts(step.mesh), MAX_INT // length) // unit

    def fits(units: int) -> bool:
        changed = replace(step.experiment, train={"batch_size": units * unit})
        same = units * unit == step.batch
        return compile_step(
            dataclasses.replace(step, experiment=changed, scaling=step.scaling if same else ())
        )

    largest = largest_that_fits(fits, start=step.batch // unit, most=max(most, step.batch // unit))
    if largest is None:
        _LOG.info("no batch fits: %d clips, one in each part, are too many", unit)
    else:
        least = " at least; no larger one was tried" if largest >= most else ""
        _LOG.info("largest batch that fits %s: %d%s", step.topology, largest * unit, least)


def largest_that_fits(fits: Callable[[int], bool], *, start: int, most: int) -> int | None:
    """The largest number from 1 to `most` that fits, if all below one that fits do so too.

    It is doubled, from `start`, until one does not fit; then the gap is halved.

    Args:
      fits: Asked once for each number that is tried.
      start: First number to try.
      most: Largest one.

    Returns:
      The number; None if 1 does not fit.
    """
    low, high = 0, most + 1  # `low` fits, `high` does not.
    tried = start
    while high - low > 1:
        if fits(tried):
            low = tried
            tried = min(2 * tried, most) if high > most else (low + high) // 2
        else:
            high = tried
            tried = (low + high) // 2
    return low or None


def _compile(step: _Step) -> CompiledProgram:
    from poolformer_jax.aot.collectives import read_collectives
    from poolformer_jax.aot.compiling import HbmExceededError, compile_program

    chip = chip_of(step.topology)
    slices = f"{step.num_slices} x " if step.num_slices > 1 else ""
    where = f"{step.program} step for {slices}{step.topology}, batch {step.batch}"
    _LOG.info("compiling the %s", where)
    traced = _trace(step)
    start = time.perf_counter()
    report, needed = None, None
    collectives: tuple[Collective, ...] = ()
    try:
        report, _ = compile_program(traced, chip)
    except HbmExceededError as error:
        needed = error.needed_bytes
        _LOG.info("the %s does not fit: %s", where, error)
    seconds = time.perf_counter() - start
    if report is not None and report.work is not None:
        collectives = read_collectives(report.work.exchanges, step.mesh, chip)
    return CompiledProgram(
        program=step.program,
        topology=step.topology,
        num_slices=step.num_slices,
        chips=step.mesh.size,
        mesh=dict(step.mesh.shape),
        batch=step.batch,
        scaling=step.scaling,
        compile_seconds=seconds,
        report=report,
        needed_bytes=needed,
        collectives=collectives,
    )


def _trace(step: _Step) -> Any:
    from poolformer_jax.experiment.lowering import Programs

    programs = Programs(step.experiment, step.mesh)
    match step.program:
        case "training":
            return programs.trace_train_step()
        case "evaluation":
            return programs.trace_evaluation_step()
        case _:
            return programs.trace_sampling_step()


@contextlib.contextmanager
def _without_cache() -> Iterator[None]:
    """What is compiled for another machine cannot be loaded on this one, nor timed if it were."""
    import jax

    name = "jax_enable_compilation_cache"
    before = getattr(jax.config, name)
    jax.config.update(name, False)
    try:
        yield
    finally:
        jax.config.update(name, before)
