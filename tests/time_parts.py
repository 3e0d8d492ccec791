"""Functions of steps that are split over devices along time."""

import jax

from poolformer_jax import sharding
from poolformer_jax.mesh_config import MeshConfig


def split(function, sequence):
    """The function of (steps [b, t, ...], shared), on 8 devices, `sequence` of them along time."""
    mesh = sharding.make_mesh(MeshConfig(sequence=sequence, fsdp=1 if sequence == 8 else 2))

    def on_parts(steps, shared):
        return sharding.map_time(lambda steps, shared: function(*steps, *shared), steps, shared)

    compiled = jax.jit(sharding.on_mesh(mesh, on_parts))
    return lambda *inputs: compiled(*jax.device_put(inputs, sharding.replicated(mesh)))
