import jax
import jax.numpy as jnp

from poolformer_jax.ops.one_kernel import one_kernel


@one_kernel
def power(x):
    def step(state):
        return state[0] + 1, state[1] * x

    return jax.lax.while_loop(lambda state: state[0] < 10, step, (0, jnp.ones_like(x)))[1]


def test_only_the_call_is_marked_and_only_for_a_cpu():
    traced = jax.jit(lambda x: power(x) + 1.0).trace(jnp.ones(3))
    program = traced.lower(lowering_platforms=("cpu",)).as_text()
    calls = [line for line in program.splitlines() if "call @" in line]
    assert len(calls) == 1 and "xla_cpu_small_call" in calls[0]
    assert "xla_cpu_small_call" not in traced.lower(lowering_platforms=("tpu",)).as_text()


def test_value_is_the_functions():
    assert jax.jit(power)(jnp.float32(2.0)) == 1024.0


def test_the_compiler_keeps_the_kernel():
    program = jax.jit(lambda x: power(x) + 1.0).lower(jnp.ones(3)).compile().as_text()
    entry = program[program.index("ENTRY") :]
    assert " while(" not in entry and " call(" in entry
