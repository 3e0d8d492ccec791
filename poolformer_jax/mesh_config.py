"""How the devices of a run are arranged. Nothing here loads JAX."""

from __future__ import annotations

import dataclasses
import math

from poolformer_jax.config_checks import check_types

REST = -1
"""Size of an axis that takes the devices which the others leave."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Sizes of the mesh's axes; their product is the number of devices.

    Attributes:
      data: Parts that a batch is split into; the parameters are the same on each. Several slices of
        a pod are parts of this axis, so only sums of gradients go between slices.
      fsdp: Parts that the parameters and the optimiser's state are split into between steps, and
        each part of a batch once more. A step gathers the parameters, and has whole gradients.
      sequence: Parts that each clip is split into along time.

    One of them may be -1: the devices that are left.

    Raises:
      ValueError: On construction, for sizes that cannot work.
    """

    data: int = REST
    fsdp: int = 1
    sequence: int = 1

    def __post_init__(self):
        check_types(self)
        values = dataclasses.asdict(self)
        for name, value in values.items():
            if value < 1 and value != REST:
                raise ValueError(
                    f"{name} {value} must be at least 1, or -1 for the devices that are left"
                )
        if list(values.values()).count(REST) > 1:
            raise ValueError(
                f"{self.text} has -1 more than once; give all axes but one a number of devices"
            )

    @property
    def text(self) -> str:
        """As in messages: `data -1 x fsdp 1 x sequence 4`."""
        return " x ".join(f"{name} {size}" for name, size in dataclasses.asdict(self).items())

    def sizes(self, num_devices: int) -> tuple[int, int, int]:
        """(data, fsdp, sequence) for so many devices.

        Raises:
          ValueError: If they are not as many devices as that.
        """
        sizes = [self.data, self.fsdp, self.sequence]
        known = math.prod(size for size in sizes if size != REST)
        rest = num_devices // known if REST in sizes else 1
        if known * rest != num_devices:
            raise ValueError(
                f"mesh {self.text} does not fit {num_devices} devices; the product must be "
                f"{num_devices}, or a divisor of it beside a -1"
            )
        data, fsdp, sequence = (rest if size == REST else size for size in sizes)
        return data, fsdp, sequence

    def for_reading(self, num_devices: int) -> MeshConfig:
        """For evaluation on any number of devices: the parameters split as far as that divides.

        Clips are split by rows alone.
        """
        fsdp = 1 if self.fsdp == REST else math.gcd(self.fsdp, num_devices)
        return MeshConfig(fsdp=fsdp)
