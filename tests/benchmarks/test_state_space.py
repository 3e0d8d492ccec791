import jax
import numpy as np

from benchmarks import state_space


def test_every_way_is_measured(tables_of):
    flags = ["--system=s4d", "--shapes=1x8x4", "--chunks=4", "--rounds=1", "--seconds=0"]
    (rows,) = tables_of(state_space, *flags).values()
    assert [(row["pass"], row["way"]) for row in rows] == [
        (one, way) for one in ("forward", "forward + backward") for way in ("chunks of 4", "fft")
    ]
    assert all(row["ms"] > 0 for row in rows)
    assert min(row["x fastest"] for row in rows) == 1


def test_the_ways_do_the_same_work():
    arguments = state_space._arguments("s4", (2, 20, 4), in_loops=False)
    ways = (("chunked", 8), ("fft", 8))
    chunked, fft = (jax.tree.leaves(state_space._program(True, *way)(*arguments)) for way in ways)
    assert len(chunked) == 11  # Outputs; gradients of the inputs, dt and the planes of A, P, B, C.
    for one, other in zip(chunked, fft, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4 * float(abs(other).max()))
