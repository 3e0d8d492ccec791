"""What one instruction of a compiled program costs: bytes of HBM, FLOPs, bytes between chips.

Bytes are those of the layouts, padding included. What lives in another memory than HBM is not
counted: a TPU's compiler keeps arrays in VMEM where it can.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator

import numpy as np

from poolformer_jax.aot.hlo import HBM, Array, Computation, Instruction, Program

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
    "send",
    "recv",
)

# They move nothing: names of what is there, ends of what was started, values of the program text.
_FREE = {
    "parameter",
    "constant",
    "iota",
    "tuple",
    "get-tuple-element",
    "bitcast",
    "after-all",
    "opt-barrier",
    "add-dependency",
    "partition-id",
    "replica-id",
    "async-update",
}


def is_free(instruction: Instruction) -> bool:
    """Whether it takes no part of a device's time."""
    reserves = 'custom_call_target="AllocateBuffer"' in instruction.attributes
    return instruction.opcode in _FREE or instruction.opcode.endswith("-done") or reserves


def hbm_bytes(
    program: Program, computation: Computation, instruction: Instruction
) -> tuple[int, int]:
    """Bytes that one run of an instruction reads from HBM and writes to it.

    Slices are counted as slices, also inside of fusions, and an update in place as what it updates.
    All else reads each operand and writes its result once, kernels too.
    """
    opcode = instruction.opcode.removesuffix("-start")
    operands = [computation[name] for name in instruction.operands if name in computation]
    if opcode == "dynamic-update-slice":
        update = operands[1]
        written = update.arrays[0].padded_size if _in_hbm(instruction.arrays) else 0
        return _in_hbm(update.arrays), written
    if opcode in ("dynamic-slice", "slice", "gather"):
        result = _result(instruction)
        source = _in_hbm(operands[0].arrays)
        return min(source, result.padded_size), _in_hbm([result])
    if opcode == "copy":
        return _in_hbm(operands[0].arrays), _in_hbm([_result(instruction)])
    if opcode in ("fusion", "async"):
        called = program.computations.get(instruction.called("calls"), {})
        read = sum(
            int(min(_in_hbm(operand.arrays), used))
            for operand, used in zip(operands, _bytes_used(program, called), strict=False)
        )
        written = sum(
            size
            for size, array in zip(_written(program, called), _in_memory(instruction), strict=False)
            if array.memory == HBM
        )
        return read, written
    if opcode in COLLECTIVES:
        results = () if opcode == "send" else collective_results(instruction)
        return sum(_in_hbm(operand.arrays) for operand in operands), _in_hbm(results)
    read = sum(_in_hbm(operand.arrays) for operand in operands)
    return read, _in_hbm(instruction.arrays)


def _in_hbm(arrays: Iterable[Array]) -> int:
    return sum(array.padded_size for array in arrays if array.memory == HBM)


def _result(instruction: Instruction) -> Array:
    """What a slice or copy yields; its start has the type (destination, source, context).

    Started slices have (source, destination, context) instead.
    """
    starts_slice = instruction.opcode in ("slice-start", "dynamic-slice-start")
    return instruction.arrays[1 if starts_slice else 0]


def _in_memory(instruction: Instruction) -> tuple[Array, ...]:
    """The results of a fusion; an async-start has the type (operands, results, context)."""
    arrays = instruction.arrays
    if instruction.opcode == "async-start":
        return arrays[len(instruction.operands) :]
    return arrays


def _bytes_used(program: Program, called: Computation) -> list[float]:
    """Bytes that a fusion reads of each of its operands, as if it lay in HBM."""
    users: dict[str, list[Instruction]] = {}
    for instruction in called.values():
        for name in instruction.operands:
            users.setdefault(name, []).append(instruction)

    def used(name: str) -> float:
        if called[name].is_root:  # Whoever takes the result of the fusion reads it.
            return math.inf
        total = 0.0
        for user in users.get(name, ()):
            if user.opcode == "bitcast":
                total += used(user.name)
            elif user.opcode in ("dynamic-slice", "slice", "gather") and user.operands[0] == name:
                total += user.arrays[0].padded_size
            elif user.opcode == "dynamic-update-slice" and user.operands[0] == name:
                continue  # Updated in place.
            elif user.opcode == "fusion":
                inner = _bytes_used(program, program.computations[user.called("calls")])
                total += sum(
                    size
                    for operand, size in zip(user.operands, inner, strict=True)
                    if operand == name
                )
            else:
                return math.inf  # All of it.
        return total

    parameters = [one for one in called.values() if one.opcode == "parameter"]
    parameters.sort(key=lambda parameter: int(parameter.literal))
    return [used(parameter.name) for parameter in parameters]


def _written(program: Program, called: Computation) -> list[int]:
    """Bytes that a fusion writes of each of its results, as if it lay in HBM."""
    root = next((one for one in called.values() if one.is_root), None)
    if root is None:
        return []
    sizes: list[int] = []
    for name in root.operands if root.opcode == "tuple" else (root.name,):
        result = called[name]
        while result.opcode == "bitcast":
            result = called[result.operands[0]]
        if result.opcode == "dynamic-update-slice":
            sizes.append(called[result.operands[1]].arrays[0].padded_size)
        elif result.opcode == "fusion":
            sizes += _written(program, program.computations[result.called("calls")])
        else:
            sizes += [array.padded_size for array in called[name].arrays]
    return sizes


def collective_of(instruction: Instruction) -> str | None:
    """The kind of a collective, started or not; None if it is none."""
    kind = instruction.opcode.removesuffix("-start")
    return kind if kind in COLLECTIVES else None


def collective_results(instruction: Instruction) -> tuple[Array, ...]:
    """The arrays that a collective yields on a chip; some starts carry their operands too."""
    arrays = instruction.arrays
    if instruction.opcode == "all-gather-start":
        return arrays[len(instruction.operands) :]
    if instruction.opcode == "collective-permute-start":
        return arrays[len(instruction.operands) : 2 * len(instruction.operands)]
    if instruction.opcode in ("send", "recv"):  # (what is sent, context, token)
        return arrays[:1]
    return arrays


def matmul_flops(program: Program, computation: Computation, instruction: Instruction) -> int:
    """FLOPs of an instruction's matrix products and convolutions, two a multiply-add.

    Those of kernels are not seen. Taps of a convolution that fall on padding are not counted:
    a TPU's compiler writes batched products as such convolutions.
    """
    return sum(
        _dot_flops(within, product)
        if product.opcode == "dot"
        else _convolution_flops(within, product)
        for within, product in _products(program, computation, instruction)
    )


def _products(
    program: Program, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    if instruction.opcode in ("dot", "convolution"):
        yield computation, instruction
    elif instruction.opcode in ("fusion", "async-start"):
        called = program.computations.get(instruction.called("calls"), {})
        for inner in called.values():
            yield from _products(program, called, inner)


def _dot_flops(computation: Computation, dot: Instruction) -> int:
    left = computation[dot.operands[0]].arrays[0]
    match = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", dot.attributes)
    axes = [int(axis) for axis in match.group(1).split(",") if axis] if match else []
    return 2 * math.prod(dot.arrays[0].dims) * math.prod(left.dims[axis] for axis in axes)


def _convolution_flops(computation: Computation, convolution: Instruction) -> int:
    match = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", convolution.attributes)
    assert match is not None, convolution.attributes
    inputs, kernel, result = (
        dict(zip(labels, array.dims, strict=True))
        for labels, array in zip(
            match.groups(),
            [
                *(computation[name].arrays[0] for name in convolution.operands[:2]),
                convolution.arrays[0],
            ],
            strict=True,
        )
    )
    window = dict(re.findall(r"(\w+)=(\S+)", _window(convolution)))
    spatial = sorted(label for label in kernel if label.isdigit())
    taps = 1
    for axis, label in enumerate(spatial):

        def numbers(name: str, default: str, axis: int = axis) -> list[int]:
            values = window.get(name)
            text = values.split("x")[axis] if values else default
            return [int(value) for value in text.split("_")]

        (stride,), (spread,), (gap,) = (
            numbers(name, "1") for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        low, *_ = numbers("pad", "0_0")
        starts = np.arange(result[label])[:, None] * stride - low
        positions = starts + np.arange(kernel[label]) * gap
        inside = (positions >= 0) & (positions <= (inputs[label] - 1) * spread)
        taps *= int(np.count_nonzero(inside & (positions % spread == 0)))
    return 2 * taps * result["b"] * result["f"] * kernel["i"]


def _window(convolution: Instruction) -> str:
    match = re.search(r"window=\{([^}]*)\}", convolution.attributes)
    return match.group(1) if match else ""
