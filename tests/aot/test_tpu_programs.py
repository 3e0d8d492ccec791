"""Programs for a TPU whose bytes, FLOPs and collectives are known without compiling them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from poolformer_jax.aot.chips import CHIPS, chip_of, describe_topology
from poolformer_jax.aot.report import Traffic, Work, read_program

pytestmark = [pytest.mark.tpu_backend, pytest.mark.usefixtures("tpu_compiler")]


def work_of(compiled) -> Work:
    report = read_program(compiled, CHIPS["v5e"])
    assert report.work is not None, report.unreadable
    return report.work


def on_one_chip(*shapes: tuple[int, ...]) -> list[jax.ShapeDtypeStruct]:
    sharding = SingleDeviceSharding(describe_topology("v5e:1x1")[0])
    return [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=sharding) for shape in shapes]


@pytest.mark.parametrize(
    ("name", "size"),
    [("v4:2x2x1", 4), ("v5e:1x1", 1), ("v5e:2x2", 4), ("v5p:2x2x1", 4), ("v6e:1x1", 1)],
)
def test_topologies_have_a_device_for_each_chip(name, size):
    devices = describe_topology(name)
    assert len(devices) == size
    # The table's usable memory is the compiler's.
    too_much = jax.ShapeDtypeStruct(
        (2**28, 128), jnp.float32, sharding=SingleDeviceSharding(devices[0])
    )
    with pytest.raises(RuntimeError, match="available HBM") as error:
        jax.jit(jnp.sin).lower(too_much).compile()
    assert f"{chip_of(name).hbm_bytes / 2**30:.2f}G" in str(error.value)


def test_slices_multiply_a_topology():
    assert len(describe_topology("v5e:2x2", num_slices=2)) == 8


def test_a_topology_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"no topology 'v5e:5x7'.*such as v5e:1x1"):
        describe_topology("v5e:5x7")


def test_an_elementwise_program_reads_and_writes_once():
    program = jax.jit(lambda x: jnp.sin(x) * x + 1.0)
    work = work_of(program.lower(*on_one_chip((4001, 4001))).compile())
    padded = 4 * 4008 * 4096  # Whole tiles of 8 x 128, whichever axis is the lanes'.
    assert (work.read, work.written, work.flops) == (padded, padded, 0)
    assert work.instructions == 1


@pytest.mark.parametrize("turns", [3, 17])
def test_products_in_a_scan_are_counted_for_every_turn(turns):
    rows, width = 65_536, 256

    def f(x, matrices):
        return jax.lax.scan(lambda x, matrix: (jnp.tanh(x @ matrix), None), x, matrices)[0]

    arguments = on_one_chip((rows, width), (turns, width, width))
    work = work_of(jax.jit(f).lower(*arguments).compile())
    assert work.unknown_loops == 0
    assert work.flops == turns * 2 * rows * width**2
    # Too large for VMEM, so that every turn reads and writes all of x, and its own matrix. The
    # rest is a copy, since the argument may not be overwritten, and the loop's counter.
    least = turns * (2 * rows * width + width**2) * 4
    assert least <= work.hbm_bytes <= least + 2 * rows * width * 4 + turns * 10_000


def test_a_sum_over_chips_is_an_all_reduce_of_its_bytes():
    mesh = Mesh(np.asarray(describe_topology("v5e:2x2")), ("data",))
    x = jax.ShapeDtypeStruct((4096, 512), jnp.float32, sharding=NamedSharding(mesh, P("data")))
    summed = jax.shard_map(
        lambda x: jax.lax.psum(x, "data"), mesh=mesh, in_specs=P("data"), out_specs=P()
    )
    work = work_of(jax.jit(summed).lower(x).compile())
    assert work.collectives == {"all-reduce": Traffic(1, 1024 * 512 * 4)}
