"""TPU programs, compiled ahead of time on a machine that has no TPU, and what they cost.

    from poolformer_jax.aot.chips import chip_of, describe_topology, prepare_environment
    from poolformer_jax.aot.report import read_program

    prepare_environment()  # Before JAX starts.
    devices = describe_topology("v5e:2x2")
    compiled = jax.jit(step).lower(...).compile()  # With shardings that name these devices.
    print(read_program(compiled, chip_of("v5e:2x2")))

It proves that a program compiles, how much memory it takes, how many bytes it moves and between
which chips. It does not prove speed: a roofline is a lower bound of the time.
"""
