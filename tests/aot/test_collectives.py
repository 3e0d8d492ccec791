"""Which chips exchange, over which axes and links, and the least time that takes; by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from poolformer_jax import sharding
from poolformer_jax.aot.chips import CHIPS, describe_topology
from poolformer_jax.aot.collectives import Exchange, read_collectives, read_groups
from poolformer_jax.aot.report import Traffic, read_program, read_work
from poolformer_jax.mesh_config import MeshConfig

V5E = CHIPS["v5e"]  # 200 GB/s to its neighbours, 3.125 GB/s to other slices.


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, use_global_device_ids=true", ((0, 1), (2, 3))),
        ("channel_id=1, replica_groups={}, dimensions={0}", ()),
        ("dimensions={0}", ()),
        ("source_target_pairs={{0,1},{1,2}}, metadata={}", ((0, 1), (1, 2))),
        ("replica_groups=[4,2]<=[8], x", ((0, 1), (2, 3), (4, 5), (6, 7))),
        ("replica_groups=[2,4]<=[4,2]T(1,0)", ((0, 2, 4, 6), (1, 3, 5, 7))),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'c'}, x", ((0, 1), (2, 3))),
        ("replica_groups=mesh['a'=2,'b'=1,'c'=2] {'a','b'}", ((0, 2), (1, 3))),
        ("replica_groups=mesh['a'=2,'b'=2] {'a','b'}", ((0, 1, 2, 3),)),
        # Half of an axis: the chips of a 2 x 2 x 2, along its second.
        ("replica_groups=mesh['a'=8] {'a':(2)2}", ((0, 2), (1, 3), (4, 6), (5, 7))),
        (
            "replica_groups=mesh['a'=2,'b'=1,'c'=4], device_ids=([2,2,2]T(1,0,2)) {'a'}, x",
            ((0, 2), (1, 3), (4, 6), (5, 7)),
        ),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=(0,2,1,3) {'b'}", ((0, 2), (1, 3))),
    ],
)
def test_groups_are_read_in_all_notations(text, groups):
    assert read_groups(text) == groups


@pytest.mark.parametrize("text", ["replica_groups=(0,1)", "replica_groups=[2,2]<=x"])
def test_other_notations_are_refused(text):
    with pytest.raises(ValueError, match="unknown notation"):
        read_groups(text)


def mesh_of(data, fsdp, sequence):
    devices = jax.devices()[: data * fsdp * sequence]
    return sharding.make_mesh(MeshConfig(data=data, fsdp=fsdp, sequence=sequence), devices=devices)


@dataclasses.dataclass(frozen=True)
class Device:
    """What a mesh asks of a device."""

    id: int
    slice_index: int
    platform: str = "tpu"


def two_slices(chips):
    """A mesh of chips of two slices, along data."""
    devices = np.array([Device(number, number // chips) for number in range(2 * chips)])
    return Mesh(devices.reshape(-1, 1, 1), ("data", "fsdp", "sequence"))


@pytest.mark.parametrize(
    ("groups", "axes"),
    [
        ("{{0,4},{1,5},{2,6},{3,7}}", ("data",)),
        ("{{0,2},{1,3},{4,6},{5,7}}", ("fsdp",)),
        ("{{0,1},{2,3},{4,5},{6,7}}", ("sequence",)),
        ("{{0,2,4,6},{1,3,5,7}}", ("data", "fsdp")),
        ("{}", ("data", "fsdp", "sequence")),
    ],
)
def test_axes_are_those_that_vary_within_a_group(groups, axes):
    exchange = Exchange("all-gather", read_groups(f"replica_groups={groups}"), False, 3, 8_000_000)
    (found,) = read_collectives([exchange], mesh_of(2, 2, 2), V5E)
    size = 2 ** len(axes)
    assert (found.axes, found.link, found.count, found.num_bytes) == (axes, "ICI", 3, 8_000_000)
    assert found.seconds == pytest.approx((size - 1) / size * 8e6 / 200e9)


@pytest.mark.parametrize(
    ("kind", "groups", "moved"),
    [
        ("all-reduce", ((0, 1, 2, 3),), 2 * 3 / 4),
        ("all-gather", ((0, 1, 2, 3),), 3 / 4),
        ("reduce-scatter", ((0, 1, 2, 3),), 3),
        ("all-to-all", ((0, 1, 2, 3),), 3 / 4),
        ("collective-permute", ((0, 1), (1, 2), (2, 3)), 1),
    ],
)
def test_the_least_time_is_that_of_a_ring(kind, groups, moved):
    (found,) = read_collectives([Exchange(kind, groups, False, 1, 10**6)], mesh_of(4, 1, 1), V5E)
    assert found.seconds == pytest.approx(moved * 1e6 / 200e9)


def test_equal_kinds_over_equal_axes_are_added_and_single_chips_left_out():
    exchanges = [
        Exchange("all-reduce", ((0, 1, 2, 3),), False, 1, 100),
        Exchange("all-reduce", (), False, 2, 50),
        Exchange("all-reduce", ((0,), (1,), (2,), (3,)), False, 5, 10**9),
    ]
    (found,) = read_collectives(exchanges, mesh_of(4, 1, 1), V5E)
    assert (found.count, found.num_bytes) == (3, 150)


def test_what_goes_between_slices_takes_the_slower_link():
    between = Exchange("all-reduce", (), True, 1, 1_000_000)
    across = Exchange("all-gather", ((0, 2), (1, 3)), False, 1, 1_000_000)
    within = Exchange("all-gather", ((0, 1),), False, 1, 1_000_000)
    found = read_collectives([between, across, within], two_slices(2), V5E)
    assert [(one.kind, one.link) for one in found] == [
        ("all-gather", "DCN"),
        ("all-gather", "ICI"),
        ("all-reduce", "DCN"),
    ]
    assert {one.axes for one in found} == {("data",)}
    times = [0.5e6 / 3.125e9, 0.5e6 / 200e9, 1e6 / 3.125e9]
    assert [one.seconds for one in found] == pytest.approx(times)
    unknown = read_collectives([between], two_slices(2), CHIPS["v4"])
    assert [one.seconds for one in unknown] == [None]


def test_both_ends_of_a_sum_over_slices_count_once():
    sum_over_slices = 'frontend_attributes={_xla_megascale_transfer_type="ALL_REDUCE"}'
    work = read_work(f"""
ENTRY %main (x: f32[8,128]) -> f32[8,128] {{
  %x = f32[8,128]{{1,0:T(8,128)}} parameter(0)
  %t = token[] after-all()
  %s = (f32[8,128]{{1,0:T(8,128)}}, u32[], token[]) send(%x, %t), {sum_over_slices}
  %r = (f32[8,128]{{1,0:T(8,128)}}, u32[], token[]) recv(%t), {sum_over_slices}
  %e = token[] send-done(%s)
  %d = (f32[8,128]{{1,0:T(8,128)}}, token[]) recv-done(%r)
  ROOT %y = f32[8,128]{{1,0:T(8,128)}} get-tuple-element(%d), index=0
}}""")
    assert work.exchanges == (Exchange("all-reduce", (), True, 1, 4096),)
    assert work.collectives == {"all-reduce": Traffic(1, 4096)}
    assert (work.read, work.written) == (4096, 4096)


@pytest.mark.tpu_backend
def test_a_sum_over_two_slices_is_scattered_summed_and_gathered(tpu_compiler):
    mesh = sharding.make_mesh(devices=describe_topology("v5e:2x2", num_slices=2))
    place = NamedSharding(mesh, P("data"))
    x = jax.ShapeDtypeStruct((8, 1024, 512), jnp.float32, sharding=place)
    program = jax.jit(lambda x: x.sum(axis=0), out_shardings=NamedSharding(mesh, P()))
    work = read_program(program.lower(x).compile(), V5E).work
    assert work is not None
    size = 1024 * 512 * 4
    found = read_collectives(work.exchanges, mesh, V5E)
    assert {(one.kind, one.axes, one.link, one.num_bytes) for one in found} == {
        ("reduce-scatter", ("data",), "ICI", size // 4),
        ("all-reduce", ("data",), "DCN", size // 4),
        ("all-gather", ("data",), "ICI", size),
    }


@pytest.mark.tpu_backend
def test_axes_of_a_compiled_program_are_those_of_its_mesh(tpu_compiler):
    config = MeshConfig(data=2, fsdp=2, sequence=2)
    mesh = sharding.make_mesh(config, devices=describe_topology("v5e:2x4"))
    place = NamedSharding(mesh, P("data", "fsdp", "sequence"))
    x = jax.ShapeDtypeStruct((64, 256, 512), jnp.float32, sharding=place)

    def sums(x):
        return x.sum(axis=0), x.sum(axis=(1, 2))

    work = read_program(jax.jit(sums).lower(x).compile(), V5E).work
    assert work is not None
    found = read_collectives(work.exchanges, mesh, V5E)
    summed = {one.axes for one in found if one.kind in ("all-reduce", "reduce-scatter")}
    assert summed == {("data",), ("fsdp", "sequence")}
