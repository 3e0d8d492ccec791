"""Between which chips a program's collectives move bytes: axes of the mesh, links, least time.

A program numbers its chips along the mesh, the last axis the fastest. One for several slices is
compiled for a single slice, and its chips are numbered within that; what goes between slices it
hands to the host.

Source: https://openxla.org/xla/operation_semantics#allreduce and the collectives after it.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Iterable
from typing import Literal

import numpy as np
from jax.sharding import Mesh

from poolformer_jax.aot.chips import Chip
from poolformer_jax.aot.hlo import Instruction

Groups = tuple[tuple[int, ...], ...]
"""Numbers of the chips that exchange with each other; none means all with all."""

Link = Literal["ICI", "DCN"]
"""Between the chips of a slice, or over the data-centre network between slices."""

_MESH = re.compile(
    r"mesh\[(?P<sizes>[^\]]*)\](?:, device_ids=\((?P<order>[^)]*\)?)\))? \{(?P<used>[^}]*)\}"
)
_IOTA = re.compile(r"\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Collectives of one kind between the same chips, all runs in one run of a program.

    Attributes:
      kind: Such as `all-reduce`.
      groups: Which chips.
      between_slices: Whether every chip exchanges with those of its number in the other slices;
        `groups` is empty then.
      count: Runs.
      num_bytes: Of the results on one chip.
    """

    kind: str
    groups: Groups
    between_slices: bool
    count: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class Collective:
    """Collectives of one kind over the same axes of a mesh, all runs in one run of a program.

    Attributes:
      kind: Such as `all-reduce`.
      axes: Of the mesh, along which the chips that exchange differ.
      link: That the bytes take.
      count: Runs.
      num_bytes: Of the results on one chip.
      seconds: The least that they can take, see `moved_share`; None if the link's rate is unknown.
    """

    kind: str
    axes: tuple[str, ...]
    link: Link
    count: int
    num_bytes: int
    seconds: float | None


def exchange_of(kind: str, instruction: Instruction, count: int, num_bytes: int) -> Exchange | None:
    """Who takes part in a collective; None for the other end of one that is counted already."""
    if "_xla_megascale_transfer_type" in instruction.attributes:
        if kind == "recv":
            return None
        (name,) = re.findall(r'_xla_megascale_transfer_type="(\w+)"', instruction.attributes)
        return Exchange(name.lower().replace("_", "-"), (), True, count, num_bytes)
    return Exchange(kind, read_groups(instruction.attributes), False, count, num_bytes)


def read_groups(attributes: str) -> Groups:
    """Reads the groups of a collective, or its pairs of source and target, in any notation.

    Raises:
      ValueError: For a notation that is not known.
    """
    match = re.search(r"\b(replica_groups|source_target_pairs)=(.*)", attributes)
    if match is None or match.group(2).startswith("{}"):
        return ()
    text = match.group(2)
    if text.startswith("{{"):  # {{0,1},{2,3}}
        inner = text[1 : text.index("}}") + 1]
        return _rows(map(_numbers, re.findall(r"\{([\d,]*)\}", inner)))
    if text.startswith("["):  # [2,4]<=[4,2]T(1,0)
        shape, _, iota = text.partition("<=")
        return _rows(_iota(iota).reshape(_numbers(shape.strip("[]"))).tolist())
    if found := _MESH.match(text):
        return _groups_of_mesh(found["sizes"], found["order"], found["used"])
    raise ValueError(f"groups of chips in an unknown notation: {text[:80]!r}")


def _groups_of_mesh(sizes: str, order: str | None, used: str) -> Groups:
    """Groups along axes of a mesh of the compiler's: mesh['a'=2,'b'=4] {'a','b':(2)2}.

    With device_ids=([4,2]T(1,0)) or (0,2,1,3) the mesh's chips are not in their order. An axis with
    (m)k is a part of one: that of size k below a part of size m.
    """
    axes = {name: int(size) for name, size in re.findall(r"'([^']*)'=(\d+)", sizes)}
    ids = np.arange(math.prod(axes.values()))
    if order is not None:
        ids = _iota(order) if order.startswith("[") else np.asarray(_numbers(order))
    shape: list[int] = []
    varying: list[int] = []
    parts = {
        name: (int(before), int(size)) if size else (1, axes[name])
        for name, before, size in re.findall(r"'([^']*)'(?::\((\d+)\)(\d+))?", used)
    }
    for name, size in axes.items():
        before, part = parts.get(name, (size, 1))
        varying.append(len(shape) + 1)
        shape += [before, part, size // (before * part)]
    fixed = [axis for axis in range(len(shape)) if axis not in varying]
    group = math.prod(shape[axis] for axis in varying)
    return _rows(ids.reshape(shape).transpose(fixed + varying).reshape(-1, group).tolist())


def _iota(text: str) -> np.ndarray:
    """[2,4]T(1,0): the numbers from 0 in that shape, transposed, in a row."""
    match = _IOTA.match(text)
    if match is None:
        raise ValueError(f"groups of chips in an unknown notation: {text[:80]!r}")
    shape = _numbers(match.group(1))
    order = _numbers(match.group(2)) if match.group(2) else tuple(range(len(shape)))
    return np.arange(math.prod(shape)).reshape(shape).transpose(order).ravel()


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in text.split(",") if number)


def _rows(rows: Iterable[Iterable[int]]) -> Groups:
    return tuple(tuple(row) for row in rows)


def moved_share(kind: str, group_size: int) -> float:
    """Bytes that a chip has to send in a collective, for each byte of its result, at least.

    A ring gets by with that, and so does every other algorithm that is optimal in bandwidth.

    Source: Thakur, Rabenseifner and Gropp 2005, doi:10.1177/1094342005051521, section 4.
    """
    others = (group_size - 1) / group_size
    match kind:
        case "all-reduce":
            return 2 * others
        case "all-gather" | "all-to-all" | "ragged-all-to-all":
            return others
        case "reduce-scatter":  # Its operand is as many times as large.
            return group_size - 1.0
        case _:
            return 1.0


def read_collectives(
    exchanges: Iterable[Exchange], mesh: Mesh, chip: Chip
) -> tuple[Collective, ...]:
    """Says over which axes of the mesh and which link the bytes go, and the least time it takes.

    Groups of one chip exchange nothing and are left out.

    Args:
      exchanges: Of a program compiled for the mesh.
      mesh: Its slices, if there are several, are equal parts one after the other.
      chip: Of the mesh.
    """
    slices = np.vectorize(lambda device: getattr(device, "slice_index", None) or 0)(mesh.devices)
    num_slices = len(np.unique(slices))
    per_slice = mesh.size // num_slices
    found: dict[tuple[str, tuple[str, ...], Link], list[tuple[int, int, float]]] = {}
    for exchange in exchanges:
        groups = exchange.groups or (tuple(range(per_slice)),)
        if exchange.between_slices:
            groups = tuple(
                tuple(range(number, mesh.size, per_slice)) for number in range(per_slice)
            )
        if max(map(len, groups)) == 1:
            continue
        axes = _varying_axes(groups, mesh)
        crosses = any(len(set(slices.flat[list(group)])) > 1 for group in groups)
        share = moved_share(exchange.kind, len(groups[0]))
        key: tuple[str, tuple[str, ...], Link] = (exchange.kind, axes, "DCN" if crosses else "ICI")
        found.setdefault(key, []).append(
            (exchange.count, exchange.num_bytes, share * exchange.num_bytes)
        )
    rates = {"ICI": chip.ici_bytes_per_second, "DCN": chip.dcn_bytes_per_second}
    collectives = []
    for (kind, axes, link), parts in sorted(found.items()):
        counts, sizes, moved = zip(*parts, strict=True)
        rate = rates[link]
        seconds = None if rate is None else sum(moved) / rate
        collectives.append(Collective(kind, axes, link, sum(counts), sum(sizes), seconds))
    return tuple(collectives)


def _varying_axes(groups: Groups, mesh: Mesh) -> tuple[str, ...]:
    varies = {
        axis
        for group in groups
        for first, other in itertools.pairwise(group)
        for axis, (a, b) in enumerate(
            zip(*(np.unravel_index(i, mesh.devices.shape) for i in (first, other)), strict=True)
        )
        if a != b
    }
    return tuple(name for axis, name in enumerate(mesh.axis_names) if axis in varies)
