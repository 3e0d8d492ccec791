"""Reads the text of a compiled program: its computations, their arrays and their loops.

The text is that of `compiled.as_text()`: optimised HLO, with the layout of every array. On a TPU
the layout says how an array is tiled, and thus padded, and in which memory it lives: 0 is HBM.

Source: https://openxla.org/xla/shapes, https://openxla.org/xla/tiled_layout.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re

HBM = 0

_BITS = {"pred": 8, "token": 0, "opaque": 0}  # All others carry their width in their name.
_ARRAY = re.compile(r"\b([a-z]+\d*(?:e\d+m\d+\w*)?)\[([\d,<=]*)\](?:\{([^}]*)\})?")
_NAME = re.compile(r"%([^\s,(){}=]+)")
_INSTRUCTION = re.compile(r"\s+(ROOT )?%([^\s=]+) = ")


@dataclasses.dataclass(frozen=True)
class Array:
    """One array of an instruction's result.

    Attributes:
      dtype: Such as `bf16`.
      dims: Logical shape.
      size: Bytes of its elements.
      padded_size: Bytes it takes in its layout.
      memory: Number of the memory it lives in.
    """

    dtype: str
    dims: tuple[int, ...]
    size: int
    padded_size: int
    memory: int


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
      name: Unique in its program.
      opcode: Such as `fusion`.
      type: Text of the result's type.
      operands: Names of instructions of the same computation.
      literal: What stands in the parentheses.
      attributes: Text behind the parentheses.
      is_root: Whether its computation returns it.
    """

    name: str
    opcode: str
    type: str
    operands: tuple[str, ...]
    literal: str
    attributes: str
    is_root: bool

    @functools.cached_property
    def arrays(self) -> tuple[Array, ...]:
        """The arrays of the result, tuples flattened."""
        return parse_arrays(self.type)

    @property
    def op_name(self) -> str:
        """The operation of the source that it comes from; empty if unknown."""
        match = re.search(r'op_name="([^"]*)"', self.attributes)
        return match.group(1) if match else ""

    def called(self, role: str) -> str:
        """The computation that it calls as its `calls`, `body`, `condition` or `to_apply`."""
        match = re.search(rf"\b{role}=%([^\s,]+)", self.attributes)
        return match.group(1) if match else ""

    def branches(self) -> list[str]:
        """The computations among which a conditional chooses."""
        pattern = r"(?:branch_computations=\{([^}]*)|(?:true|false)_computation=(%[^\s,]+))"
        found = re.findall(pattern, self.attributes)
        return [name for texts in found for name in _NAME.findall(" ".join(texts))]


Computation = dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Program:
    """The computations of a program by name, and the name of the one that is run."""

    computations: dict[str, Computation]
    entry: str


def parse_program(text: str) -> Program:
    """Parses a whole program.

    Raises:
      ValueError: If the text has no ENTRY computation.
    """
    computations: dict[str, Computation] = {}
    entry, current = None, None
    for line in text.splitlines():
        if line.startswith(("%", "ENTRY")) and line.rstrip().endswith("{"):
            name = _NAME.search(line)
            assert name is not None
            current = computations.setdefault(name.group(1), {})
            if line.startswith("ENTRY"):
                entry = name.group(1)
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _parse_instruction(match, line[match.end() :])
            current[instruction.name] = instruction
    if entry is None:
        raise ValueError("the text is no HLO program: it has no ENTRY computation")
    return Program(computations, entry)


def _parse_instruction(match: re.Match[str], rest: str) -> Instruction:
    end = _closing(rest, 0) + 1 if rest.startswith("(") else rest.index(" ")
    type_text, rest = rest[:end], rest[end:].lstrip()
    start = rest.index("(")
    end = _closing(rest, start)
    opcode, literal = rest[:start], rest[start + 1 : end]
    operands = () if opcode in ("constant", "parameter") else tuple(_NAME.findall(literal))
    return Instruction(
        name=match.group(2),
        opcode=opcode,
        type=type_text,
        operands=operands,
        literal=literal,
        attributes=rest[end + 1 :],
        is_root=bool(match.group(1)),
    )


def _closing(text: str, start: int) -> int:
    """The index of the parenthesis that closes the one at `start`."""
    depth = 0
    for match in re.compile(r"[()]").finditer(text, start):
        depth += 1 if match.group() == "(" else -1
        if depth == 0:
            return match.start()
    raise ValueError(f"a parenthesis is not closed in {text[:200]!r}")


def parse_arrays(text: str) -> tuple[Array, ...]:
    """The arrays of a type such as `(f32[8]{0:T(256)S(1)}, s32[])`."""
    return tuple(_parse_array(*found) for found in _ARRAY.findall(text))


@functools.lru_cache(maxsize=4096)
def _parse_array(dtype: str, shape: str, layout: str) -> Array:
    dims = tuple(int(dim.replace("<=", "")) for dim in shape.split(",") if dim)
    bits = _BITS.get(dtype)
    if bits is None:
        width = re.search(r"\d+", dtype)
        bits = int(width.group()) if width else 0
    order, _, rest = layout.partition(":")
    minor_to_major = [int(axis) for axis in order.split(",") if axis.strip().isdigit()]
    # Axes as they lie in memory, the outermost first.
    physical = [dims[axis] for axis in reversed(minor_to_major)]
    if len(physical) != len(dims):
        physical = list(dims)
    if tile_text := re.search(r"T\(([\d,]+)\)", rest):  # The first tiling is the one that pads.
        tile = [int(size) for size in tile_text.group(1).split(",")]
        physical = [1] * (len(tile) - len(physical)) + physical
        for axis, size in enumerate(reversed(tile), start=1):
            physical[-axis] = -(-physical[-axis] // size) * size
    memory = re.search(r"S\((\d+)\)", rest)
    return Array(
        dtype=dtype,
        dims=dims,
        size=math.prod(dims) * bits // 8,
        padded_size=math.prod(physical) * bits // 8,
        memory=int(memory.group(1)) if memory else HBM,
    )


def trip_count(program: Program, computation: Computation, loop: Instruction) -> int | None:
    """How often a `while` runs its body; None if the text does not tell.

    The compiler may have written it down. Else the condition has to compare a counter, which
    starts at a constant and grows by one, with a constant bound.
    """
    if match := re.search(r"known_trip_count\D*(\d+)", loop.attributes):
        return int(match.group(1))
    condition = program.computations[loop.called("condition")]
    body = program.computations[loop.called("body")]
    initial = computation.get(loop.operands[0])
    comparison, within = _root(condition), condition
    outer_names: dict[str, str] = {}
    if comparison.opcode == "fusion":
        fusion, within = comparison, program.computations[comparison.called("calls")]
        comparison = _root(within)
        for instruction in within.values():
            if instruction.opcode == "parameter":
                outer_names[instruction.name] = fusion.operands[int(instruction.literal)]
    if comparison.opcode != "compare":
        return None

    def index_and_value(name: str) -> tuple[int | None, int | None]:
        """Which element of the loop's tuple a side of the comparison is, and its first value."""
        value = _constant(within, name)
        if value is None:
            name = outer_names.get(name, name)
            value = _constant(condition, name)
        element = condition.get(name)
        if value is not None or element is None or element.opcode != "get-tuple-element":
            return None, value
        match = re.search(r"index=(\d+)", element.attributes)
        assert match is not None
        index = int(match.group(1))
        if initial is None or initial.opcode != "tuple":
            return index, None
        return index, _constant(computation, initial.operands[index])

    (index, first), (_, last) = map(index_and_value, comparison.operands)
    if index is None or first is None or last is None:
        return None
    step = _step(body, index)
    match = re.search(r"direction=(\w+)", comparison.attributes)
    direction = match.group(1) if match else ""
    if step is None or direction not in ("LT", "LE", "GT", "GE", "NE"):
        return None
    distance = (last - first) * (1 if step > 0 else -1)
    if direction in ("LE", "GE"):
        distance += 1
    return max(0, -(-distance // abs(step)))


def _root(computation: Computation) -> Instruction:
    return next(instruction for instruction in computation.values() if instruction.is_root)


def _constant(computation: Computation, name: str) -> int | None:
    """The integer that an instruction is, perhaps copied or converted."""
    instruction = computation.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "convert"):
        instruction = computation.get(instruction.operands[0])
    if instruction is None or instruction.opcode != "constant":
        return None
    return int(instruction.literal) if re.fullmatch(r"-?\d+", instruction.literal) else None


def _step(body: Computation, index: int) -> int | None:
    """What the body adds to an element of its tuple; 1 if the addition is out of sight."""
    root = _root(body)
    if root.opcode != "tuple":
        return None
    update = body.get(root.operands[index])
    if update is None or update.opcode != "add":
        return 1
    steps = [_constant(body, name) for name in update.operands]
    return next((step for step in steps if step), 1)
