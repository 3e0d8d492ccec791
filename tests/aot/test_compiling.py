"""Programs that do not fit, and those that fail for another reason."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import SingleDeviceSharding

from poolformer_jax.aot.chips import CHIPS, describe_topology
from poolformer_jax.aot.compiling import HbmExceededError, compile_program, needed_hbm

V5E = CHIPS["v5e"]
TEMPORARIES = (
    "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries "
    "(40.00G) exceeds available HBM (15.75G)."
)
ALL = (
    "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. "
    "Used 16.50G of 15.75G hbm. Exceeded hbm capacity by 768.00M."
)
VMEM = "RESOURCE_EXHAUSTED: Ran out of memory in memory space vmem. Used 19.7M of 16.0M vmem."


class Failing:
    """What was traced and cannot be compiled."""

    def __init__(self, message: str):
        self.message = message

    def lower(self):
        return self

    def compile(self):
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (TEMPORARIES, 40 * 2**30),
        (ALL, int(16.5 * 2**30)),
        ("Ran out of memory on HBM", None),
        (VMEM, None),
    ],
)
def test_the_memory_that_is_needed_is_read(message, needed):
    assert needed_hbm(message) == needed


def test_too_much_hbm_is_told_apart_from_other_errors():
    with pytest.raises(HbmExceededError, match=r"40\.00G") as error:
        compile_program(Failing(f"{TEMPORARIES}\nand a long list"), V5E)
    assert error.value.needed_bytes == 40 * 2**30 and "list" not in str(error.value)
    for message in (VMEM, "INTERNAL: hbm"):
        with pytest.raises(RuntimeError) as other:
            compile_program(Failing(message), V5E)
        assert not isinstance(other.value, HbmExceededError)


@pytest.mark.tpu_backend
def test_a_program_that_is_too_large_says_by_how_much(tpu_compiler):
    place = SingleDeviceSharding(describe_topology("v5e:1x1")[0])
    x = jax.ShapeDtypeStruct((2**25, 256), jnp.float32, sharding=place)  # 32 GiB
    with pytest.raises(HbmExceededError) as error:
        compile_program(jax.jit(lambda x: jnp.sort(x, axis=1)).trace(x), V5E)
    assert error.value.needed_bytes >= 64 * 2**30
