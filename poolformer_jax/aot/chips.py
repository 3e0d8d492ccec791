"""TPU chips and topologies to compile for, and the environment that libtpu needs for it."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax

ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",  # There is no metadata server to ask.
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # Any; the topology says which chips are meant.
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # Several processes may compile at the same time.
}


@dataclasses.dataclass(frozen=True)
class Chip:
    """What bounds a program on one JAX device: a chip, on v4 and v5p with both of its cores.

    Attributes:
      name: As topologies name it.
      hbm_bytes: That a program may use; the compiler says so when it has more.
      hbm_bytes_per_second: Peak.
      flops_per_second: Peak of matrix products in bfloat16.
      ici_bytes_per_second: That it can send to its neighbours in a slice, all links together. Chips
        at the border of a slice that is no torus have half of the links, at the worst.
      dcn_bytes_per_second: Its share of what its host, or its pod, can send to other slices; None
        if that is not published.
      topologies: Some that exist.
      source: Of the peaks.
    """

    name: str
    hbm_bytes: int
    hbm_bytes_per_second: float
    flops_per_second: float
    ici_bytes_per_second: float
    dcn_bytes_per_second: float | None
    topologies: tuple[str, ...]
    source: str


def _chip(
    name: str,
    usable_gib: float,
    hbm: float,
    flops: float,
    ici: float,
    dcn: float | None,
    shapes: str,
) -> Chip:
    topologies = tuple(f"{name}:{shape}" for shape in shapes.split())
    source = f"https://cloud.google.com/tpu/docs/{name}"
    return Chip(name, int(usable_gib * 2**30), hbm, flops, ici, dcn, topologies, source)


_SQUARES = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBES = "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4"

# The pages give the links in both directions together: 400, 1200 and 800 GB/s. That of v4 gives
# 1.1 PB/s of all-reduce for 4096 chips; its six links of 50 GB/s each way are in arXiv:2304.01433.
# To other slices: 6.4 and 25.6 Tbit/s for a pod of 256 v5e or v6e, 50 Gbit/s for each v5p.
CHIPS = {
    chip.name: chip
    for chip in (
        _chip("v4", 30.75, 1.200e12, 275e12, 300e9, None, _CUBES),
        _chip("v5e", 15.75, 0.819e12, 197e12, 200e9, 3.125e9, _SQUARES),
        _chip("v5p", 95.74, 2.765e12, 459e12, 600e9, 6.25e9, _CUBES),
        _chip("v6e", 31.25, 1.638e12, 918e12, 400e9, 12.5e9, _SQUARES),
    )
}


def describe_chips() -> str:
    """The known chips, as a table."""
    lines = ["chip  HBM, GiB  HBM, GB/s  bfloat16, TFLOP/s  ICI, GB/s  topologies, source"]
    for chip in CHIPS.values():
        lines.append(
            f"{chip.name:4}  {chip.hbm_bytes / 2**30:8.2f}  {chip.hbm_bytes_per_second / 1e9:9,.0f}"
            f"  {chip.flops_per_second / 1e12:17.0f}  {chip.ici_bytes_per_second / 1e9:9.0f}  "
            f"{' '.join(chip.topologies)}, {chip.source}"
        )
    return "\n".join(lines)


_EXAMPLES = "write the chip and its shape, such as v5e:1x1, v5e:2x4, v6e:4x4, v4:2x2x1 or v5p:2x2x2"


def chip_of(topology: str) -> Chip:
    """The chip of a topology such as `v5e:2x2`, or of the name of a chip alone.

    Raises:
      ValueError: For an unknown one.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ValueError(
            f"no TPU chip {name!r} in {topology!r}; known: {', '.join(CHIPS)}\n{describe_chips()}"
        )
    return CHIPS[name]


def num_chips(topology: str) -> int:
    """How many chips a topology such as `v5e:2x4` has.

    Raises:
      ValueError: If it is none.
    """
    chip_of(topology)
    shape = topology.partition(":")[2]
    if not re.fullmatch(r"\d+(x\d+)*", shape):
        raise ValueError(f"no topology {topology!r}; {_EXAMPLES}\n{describe_chips()}")
    return math.prod(map(int, shape.split("x")))


def prepare_environment() -> None:
    """Lets libtpu compile where no TPU is: sets variables that are not set yet.

    Call it before JAX computes anything, best before it is imported. JAX itself runs on the CPU.

    Raises:
      ImportError: If libtpu is not installed.
      RuntimeError: If this process has started libtpu without them, or JAX on a TPU.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise ImportError("compiling for a TPU needs libtpu: pip install -e '.[tpu]'")
    missing = ENVIRONMENT.keys() - os.environ.keys()
    if missing and _libtpu_is_started():
        raise RuntimeError(
            "libtpu was started without "
            f"{', '.join(sorted(missing))}; call prepare_environment() before JAX is used"
        )
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    if "jax" in sys.modules:  # It read the variable when it was imported.
        import jax

        if not jax.config.jax_platforms:  # type: ignore[attr-defined]
            jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])


def _libtpu_is_started() -> bool:
    if "jaxlib.xla_client" not in sys.modules:
        return False
    from jaxlib import xla_client

    loaded = xla_client.pjrt_plugin_loaded("tpu")
    return loaded and xla_client.pjrt_plugin_initialized("tpu")


def describe_topology(name: str, *, num_slices: int = 1) -> list[jax.Device]:
    """The devices of a topology that need not be there; programs can be compiled for them.

    Args:
      name: A chip and how many along each axis: `v5e:2x4`, `v5p:2x2x1`. v5e:1x1 and v6e:1x1 are
        single chips.
      num_slices: Slices of that topology, joined by the data-centre network.

    Raises:
      ValueError: For an unknown chip or a topology that libtpu does not know.
    """
    from jax.experimental import topologies

    chip = chip_of(name)
    options: dict[str, Any] = {}
    if num_slices > 1:
        options["num_slices"] = num_slices
    if chip.name == "v4":
        options["chip_config_name"] = "megacore"  # Else each core is a device of its own.
    if re.fullmatch(r"\w+:1x1", name):
        options["chips_per_host_bounds"] = [1, 1, 1]
    try:
        topology = topologies.get_topology_desc(name, "tpu", **options)
    except Exception as error:
        raise ValueError(
            f"no topology {name!r}: {error}; {_EXAMPLES}\n{describe_chips()}"
        ) from error
    return list(topology.devices)
