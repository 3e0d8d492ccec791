"""The kernels compile for TPUs, and move the bytes that they must: inputs and outputs once."""

import math

import jax
import jax.numpy as jnp
import pytest

from poolformer_jax.aot.chips import chip_of, describe_topology
from poolformer_jax.aot.report import read_program
from poolformer_jax.layers.config import ExecutionConfig
from poolformer_jax.layers.mixer_config import MIXERS
from poolformer_jax.ops import rg_lru_pallas_tpu, scan_pallas_tpu, selective_scan_pallas_tpu
from poolformer_jax.typing import Planes

pytestmark = [pytest.mark.tpu_backend, pytest.mark.usefixtures("tpu_compiler")]

CHIPS = (
    ("v5e:1x1", "float32"),
    ("v5e:1x1", "bfloat16"),
    ("v6e:1x1", "bfloat16"),
    *(
        pytest.param(*case, marks=pytest.mark.nightly)
        for case in (
            ("v4:2x2x1", "float32"),
            ("v4:2x2x1", "bfloat16"),
            ("v5p:2x2x1", "float32"),
            ("v5p:2x2x1", "bfloat16"),
            ("v6e:1x1", "float32"),
        )
    ),
)
BASELINE = (4, 16_000, 128)


def compile_kernel(function, shape, dtype, topology, *, kind="complex"):
    """Compiles values and gradients of a kernel for one chip; returns what the program takes."""
    b, t, c = shape
    device = jax.sharding.SingleDeviceSharding(describe_topology(topology)[0])

    def array(*shape, dtype=dtype):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=device)

    def number(*shape, dtype=dtype):
        plane = array(*shape, dtype=dtype)
        return Planes(plane, plane) if kind == "complex" else plane

    h0, parameter = number(b, c, dtype=jnp.float32), array(c, dtype=jnp.float32)
    if function is scan_pallas_tpu.scan:
        x = number(b, t, c)
        inputs = (x, x, h0)
    else:
        theta = parameter if kind == "complex" else None
        x = array(b, t, len(jax.tree.leaves(h0)) * c)
        inputs = (x, array(b, t, 2 * c), parameter, theta, h0)

    def both(inputs, cotangents):
        outputs, vjp = jax.vjp(function, *inputs)
        return outputs, vjp(cotangents)

    compiled = jax.jit(both).lower(inputs, (x, h0)).compile()
    return read_program(compiled, chip_of(topology))


FUNCTIONS = pytest.mark.parametrize(
    "function", [scan_pallas_tpu.scan, rg_lru_pallas_tpu.rg_lru], ids=["scan", "rg_lru"]
)


@FUNCTIONS
@pytest.mark.parametrize(("topology", "dtype"), CHIPS)
def test_kernels_compile_for_every_chip(function, dtype, topology):
    report = compile_kernel(function, BASELINE, dtype, topology)
    assert report.work is not None
    plane = math.prod(BASELINE) * jnp.dtype(dtype).itemsize
    # 6 planes forward (two numbers in, one out), and 10 backward; the gates are real. Everything
    # beyond is states and parameters, and the rows before each block. Other chips have so much VMEM
    # that the compiler moves whole arrays there and back, with nothing else to do.
    if topology.startswith("v5e"):
        assert report.work.hbm_bytes <= 1.01 * 16 * plane and report.temp_bytes <= 0.01 * plane


@FUNCTIONS
@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((1, 1520, 256), "float32"),  # Blocks as long as they get: VMEM is full.
        ((1, 33, 1), "bfloat16"),
        pytest.param((2, 500, 256), "float32", marks=pytest.mark.nightly),
        pytest.param((2, 100, 512), "bfloat16", marks=pytest.mark.nightly),
        pytest.param((3, 8000, 32), "float32", marks=pytest.mark.nightly),
    ],
)
def test_kernels_of_other_shapes_compile(function, kind, shape, dtype):
    compile_kernel(function, shape, dtype, "v5e:1x1", kind=kind)


@pytest.mark.parametrize(
    ("topology", "shape", "states", "dtype", "kind"),
    [
        ("v5e:1x1", BASELINE, 16, "float32", "real"),
        ("v6e:1x1", (4, 1000, 512), 16, "bfloat16", "real"),  # Several groups of channels.
        ("v5e:1x1", (4, 4000, 256), 16, "float32", "complex"),
        ("v5e:1x1", (1, 33, 1), 64, "float32", "real"),  # All lanes of the maps.
    ],
)
def test_selective_scan_compiles(topology, shape, states, dtype, kind):
    b, t, e = shape
    device = jax.sharding.SingleDeviceSharding(describe_topology(topology)[0])

    def array(*shape, dtype="float32"):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=device)

    def number(*shape):
        return Planes(array(*shape), array(*shape)) if kind == "complex" else array(*shape)

    x, h0 = array(b, t, e, dtype=dtype), number(b, states, e)
    columns = 2 * states * len(jax.tree.leaves(h0))
    inputs = (x, array(b, t, e), array(b, t, columns, dtype=dtype), number(states, e), h0)

    def both(inputs, cotangents):
        outputs, vjp = jax.vjp(selective_scan_pallas_tpu.selective_scan, *inputs)
        return outputs, vjp(cotangents)

    compiled = jax.jit(both).lower(inputs, (x, h0)).compile()
    report = read_program(compiled, chip_of(topology))
    assert report.work is not None
    if shape == BASELINE:
        # 3 planes of steps forward, 5 backward; 3 of maps, which fill as much memory; states
        # before each block.
        plane = 4 * math.prod(shape)
        assert report.work.hbm_bytes <= 1.02 * 11 * plane and report.temp_bytes <= 0.01 * plane


@pytest.mark.parametrize(
    ("kind", "steps"), [pytest.param("s4", 6400, marks=pytest.mark.nightly), ("s4d", 1600)]
)
def test_state_spaces_compile(kind, steps):
    """A layer of SaShiMi, forward and backward: chunks go through no array of all steps' states.

    That of S4 is long: the powers of its matrices take 13 MB whatever the length.
    """
    d = 64
    mixer = MIXERS[kind]().build(ExecutionConfig(platform="tpu"))
    x, state = jnp.zeros((1, steps, d)), mixer.init_state(1, d)
    device = jax.sharding.SingleDeviceSharding(describe_topology("v5e:1x1")[0])

    def loss(params, x):
        return jnp.sum(mixer.apply(params, x, jnp.zeros_like(state))[0] ** 2)

    shapes = jax.eval_shape(mixer.init, jax.random.key(0), x, state), x
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device), shapes
    )
    compiled = jax.jit(jax.value_and_grad(loss, argnums=(0, 1))).lower(*arguments).compile()
    report = read_program(compiled, chip_of("v5e:1x1"))
    print(kind, report)
    assert report.temp_bytes < 4 * steps * state.size / 4  # Of float32 states.
