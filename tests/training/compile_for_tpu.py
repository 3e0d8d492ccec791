"""Compiles the digits training step for v5e:2x2 without a TPU; prints what it takes as JSON.

Run in a process of its own: libtpu reads its environment when jax is imported.
"""

import os

os.environ |= {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",  # As the tests have it.
}

import functools
import json
import math
import re
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from configs.digits import get_config
from poolformer_jax import sharding
from poolformer_jax.experiment import make_experiment
from poolformer_jax.training.sequence_objective import SequenceObjective
from poolformer_jax.training.state import init_train_state
from poolformer_jax.training.step import make_train_step

BYTES = {"f32": 4, "s32": 4, "u32": 4, "bf16": 2, "pred": 1}


def main():
    config = get_config()
    config.model.platform = "tpu"
    config.data.train_len = 8_000
    experiment = make_experiment(config.to_dict())
    train = experiment.train
    objective = SequenceObjective(experiment.model.build(), lambda params, should_stop: None)
    topology = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    mesh = sharding.make_mesh(topology.devices)
    state = sharding.abstract_state(mesh, functools.partial(init_train_state, objective, train))
    rows = sharding.batch_sharding(mesh)
    length = experiment.data.training_length
    batch = {
        "tokens": jax.ShapeDtypeStruct((train.batch_size, length), jnp.int32, sharding=rows),
        "lengths": jax.ShapeDtypeStruct((train.batch_size,), jnp.int32, sharding=rows),
    }
    step = sharding.jit_train_step(make_train_step(objective, train), mesh, state)
    start = time.monotonic()
    compiled = step.lower(state, batch).compile()
    memory = compiled.memory_analysis()
    result = {
        "seconds": time.monotonic() - start,
        "devices": mesh.size,
        "temp_bytes": memory.temp_size_in_bytes,
        "argument_bytes": memory.argument_size_in_bytes,
        "parameter_bytes": 4 * sum(leaf.size for leaf in jax.tree.leaves(state.params)),
        **all_reduces(compiled.as_text()),
    }
    json.dump(result, sys.stdout)


def all_reduces(hlo: str) -> dict[str, int]:
    """Bytes of all all-reduce results: outside of loops, and of one turn of every loop."""
    outside = inside = 0
    computation = ""
    for line in hlo.splitlines():
        if line.startswith(("%", "ENTRY")):
            computation = line.split(" ")[0]
        match = re.match(r"\s+(?:ROOT )?%\S+ = (.*?) all-reduce(?:-start)?\(", line)
        if match:
            for dtype, dims in re.findall(r"(\w+)\[([\d,]*)\]", match.group(1)):
                size = BYTES[dtype] * math.prod(int(dim) for dim in dims.split(",") if dim)
                outside += size if computation == "ENTRY" else 0
                inside += size if computation != "ENTRY" else 0
    return {"all_reduce_bytes": outside, "all_reduce_bytes_in_loops": inside}


if __name__ == "__main__":
    main()
