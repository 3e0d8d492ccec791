"""What a compiled TPU program takes: memory, bytes, FLOPs and collectives; and what binds it."""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Iterator
from typing import Any

from poolformer_jax.aot.chips import Chip
from poolformer_jax.aot.collectives import Exchange, Groups, exchange_of
from poolformer_jax.aot.cost import (
    collective_of,
    collective_results,
    hbm_bytes,
    is_free,
    matmul_flops,
)
from poolformer_jax.aot.hlo import Computation, Instruction, Program, parse_program, trip_count


@dataclasses.dataclass(frozen=True)
class Consumer:
    """Instructions of one name that come from one operation of the source.

    Attributes:
      operation: Name of the instruction without its number.
      source: Path of the operation that was traced.
      count: Runs in one run of the program.
      hbm_bytes: Read and written, of all runs.
    """

    operation: str
    source: str
    count: int
    hbm_bytes: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Count and bytes of some instructions, all runs of them in one run of the program."""

    count: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Work:
    """What one run of a program does on one chip, turns of loops included.

    Attributes:
      read: Bytes read from HBM.
      written: Bytes written to HBM.
      flops: Of matrix products; those inside of kernels are not seen.
      instructions: Runs of instructions that take time.
      unknown_loops: Loops whose number of turns the text does not tell; counted as one turn.
      exchanges: Collectives, by kind and who takes part.
      kernels: Pallas calls, by name; bytes of HBM, operands and results once.
      consumers: All that moves bytes, the largest first.
    """

    read: int
    written: int
    flops: int
    instructions: int
    unknown_loops: int
    exchanges: tuple[Exchange, ...]
    kernels: dict[str, Traffic]
    consumers: tuple[Consumer, ...]

    @property
    def hbm_bytes(self) -> int:
        """Bytes read and written."""
        return self.read + self.written

    @property
    def collectives(self) -> dict[str, Traffic]:
        """By kind; the bytes are those of the results on one chip."""
        kinds: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
        for one in self.exchanges:
            kinds[one.kind].append((one.count, one.num_bytes))
        return {kind: _sum(moved) for kind, moved in sorted(kinds.items())}


@dataclasses.dataclass(frozen=True)
class ProgramReport:
    """A compiled program on a chip.

    Attributes:
      chip: That it was compiled for.
      argument_bytes: HBM of one chip that the arguments take.
      output_bytes: That the results take, apart from those that reuse arguments.
      temp_bytes: That it takes beside them.
      peak_bytes: The most that is in use at one time, as the compiler says; 0 if it does not.
      code_bytes: Of the program itself.
      work: What a run does; None if the program's text cannot be had.
      unreadable: Why not.
    """

    chip: Chip
    argument_bytes: int
    output_bytes: int
    temp_bytes: int
    peak_bytes: int
    code_bytes: int
    work: Work | None
    unreadable: str = ""

    @property
    def memory_seconds(self) -> float | None:
        """A lower bound: all bytes of HBM at the peak rate."""
        return None if self.work is None else self.work.hbm_bytes / self.chip.hbm_bytes_per_second

    @property
    def compute_seconds(self) -> float | None:
        """A lower bound: all matrix products at the peak rate in bfloat16."""
        return None if self.work is None else self.work.flops / self.chip.flops_per_second

    @property
    def roofline_seconds(self) -> float | None:
        """The larger of the two."""
        if self.memory_seconds is None or self.compute_seconds is None:
            return None
        return max(self.memory_seconds, self.compute_seconds)

    @property
    def bound_by(self) -> str | None:
        """`memory` or `compute`: which of the two."""
        if self.memory_seconds is None or self.compute_seconds is None:
            return None
        return "memory" if self.memory_seconds >= self.compute_seconds else "compute"


def read_program(compiled: Any, chip: Chip) -> ProgramReport:
    """Reads a program of `jax.jit(...).lower(...).compile()`."""
    memory = compiled.memory_analysis()
    try:
        work, unreadable = read_work(compiled.as_text()), ""
    except RuntimeError as error:
        # Some programs fail a check of XLA when they are turned to text; all else of them works.
        work, unreadable = None, str(error).splitlines()[0]
    return ProgramReport(
        chip=chip,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=memory.output_size_in_bytes - memory.alias_size_in_bytes,
        temp_bytes=memory.temp_size_in_bytes,
        peak_bytes=getattr(memory, "peak_memory_in_bytes", 0),
        code_bytes=memory.generated_code_size_in_bytes,
        work=work,
        unreadable=unreadable,
    )


@dataclasses.dataclass(frozen=True)
class _Run:
    """An instruction with its costs and how often it is run."""

    instruction: Instruction
    source: str
    count: int
    read: int
    written: int
    flops: int
    collectives: tuple[Instruction, ...]


def read_work(text: str) -> Work:
    """Reads the text of a compiled program."""
    program = parse_program(text)
    unknown: list[str] = []
    runs = list(_runs(program, program.entry, 1, unknown))
    exchanges: dict[tuple[str, Groups, bool], list[tuple[int, int]]]
    exchanges = collections.defaultdict(list)
    kernels: dict[str, list[tuple[int, int]]] = collections.defaultdict(list)
    consumers: dict[tuple[str, str], list[tuple[int, int]]] = collections.defaultdict(list)
    for run in runs:
        moved = run.count, run.count * (run.read + run.written)
        operation = re.sub(r"(\.(\d+|clone))+$", "", run.instruction.name)
        for collective in run.collectives:
            size = sum(array.size for array in collective_results(collective))
            kind = collective_of(collective)
            assert kind is not None
            if one := exchange_of(kind, collective, run.count, run.count * size):
                key = one.kind, one.groups, one.between_slices
                exchanges[key].append((one.count, one.num_bytes))
        if 'custom_call_target="tpu_custom_call"' in run.instruction.attributes:
            kernels[operation].append(moved)
        if moved[1]:
            consumers[operation, run.source].append(moved)
    return Work(
        read=sum(run.count * run.read for run in runs),
        written=sum(run.count * run.written for run in runs),
        flops=sum(run.count * run.flops for run in runs),
        instructions=sum(run.count for run in runs),
        unknown_loops=len(unknown),
        exchanges=tuple(
            Exchange(*key, total.count, total.num_bytes)
            for key, moved in sorted(exchanges.items())
            for total in [_sum(moved)]
        ),
        kernels={name: _sum(moved) for name, moved in sorted(kernels.items())},
        consumers=tuple(
            sorted(
                (
                    Consumer(*names, total.count, total.num_bytes)
                    for names, moved in consumers.items()
                    for total in [_sum(moved)]
                ),
                key=lambda consumer: -consumer.hbm_bytes,
            )
        ),
    )


def _sum(moved: list[tuple[int, int]]) -> Traffic:
    return Traffic(sum(count for count, _ in moved), sum(size for _, size in moved))


def _runs(program: Program, name: str, count: int, unknown: list[str]) -> Iterator[_Run]:
    """Everything that takes time in a computation that is run `count` times."""
    computation = program.computations[name]
    for instruction in computation.values():
        if instruction.opcode == "while":
            turns = trip_count(program, computation, instruction)
            if turns is None:
                unknown.append(instruction.name)
                turns = 1
            yield from _runs(program, instruction.called("body"), count * turns, unknown)
        elif instruction.opcode == "call":
            yield from _runs(program, instruction.called("to_apply"), count, unknown)
        elif instruction.opcode == "conditional":
            branches = [
                list(_runs(program, branch, count, unknown)) for branch in instruction.branches()
            ]
            yield from max(branches, key=_bytes, default=[])  # The most that it may take.
        elif not is_free(instruction):
            yield _Run(
                instruction,
                _source(computation, instruction),
                count,
                *hbm_bytes(program, computation, instruction),
                matmul_flops(program, computation, instruction),
                tuple(_collectives(program, instruction)),
            )


def _source(computation: Computation, instruction: Instruction) -> str:
    """Where an instruction comes from; copies that the compiler adds: where their operand does."""
    operands = (computation[name] for name in instruction.operands if name in computation)
    return next((one.op_name for one in (instruction, *operands) if one.op_name), "")


def _bytes(runs: list[_Run]) -> int:
    return sum(run.count * (run.read + run.written) for run in runs)


def _collectives(program: Program, instruction: Instruction) -> Iterator[Instruction]:
    """The instruction if it is a collective, or those that are fused into it."""
    if collective_of(instruction):
        yield instruction
    elif instruction.opcode in ("fusion", "async-start"):
        called: Computation = program.computations.get(instruction.called("calls"), {})
        for inner in called.values():
            yield from _collectives(program, inner)
