"""Writes golden_small.npz, a golden file that comes with the tests.

    python -m tests.models.poolformer.make_golden

Parameters are random; logits, loss and gradients are those of `tests.oracle`, NumPy in float64,
which shares no code with the package and no derivative with JAX. Parameters are stored in float32,
in which they are exact; logits in float64, exact to about 1e-13. Gradients are differences of the
loss at four points: (8 (L(h) - L(-h)) - (L(2h) - L(-2h))) / 12 h with h = 1e-3 is off by about
h^4 = 1e-12 times the fifth derivative, plus 1e-15 / h = 1e-12 of rounding.
"""

import pathlib

import numpy as np

from tests import oracle
from tests.models.poolformer.golden import convert, read_config

PATH = pathlib.Path(__file__).parent / "golden_small.npz"

WIDTH, RECURRENT, BLOCKS, CODES = 4, 8, 2, 16
POOLS, LAYERS = (3, 2), (1, 0, 2)
CHANNELS = RECURRENT // 2


def make_shapes():
    """The shape of every parameter by its name in the file."""
    merge = {"side_w": (WIDTH, WIDTH), "side_b": (WIDTH,)}
    merge |= {"merge_w": (WIDTH, WIDTH), "merge_b": (WIDTH,)}
    norm = {"norm_scale": (WIDTH,), "norm_bias": (WIDTH,)}
    mix = {"in_w": (WIDTH, RECURRENT), "in_b": (RECURRENT,)}
    for gate in ("input_gate", "decay_gate"):
        mix[f"{gate}_w"] = (BLOCKS, RECURRENT // BLOCKS, CHANNELS // BLOCKS)
        mix[f"{gate}_b"] = (BLOCKS, CHANNELS // BLOCKS)
    mix |= {"decay_raw": (CHANNELS,), "phase_raw": (CHANNELS,)}
    mix |= {"state_out_w": (RECURRENT, WIDTH), "state_out_b": (WIDTH,)}
    inner = 2 * WIDTH
    mlp = {"value_w": (WIDTH, inner), "value_b": (inner,)}
    mlp |= {"side_w": (WIDTH, inner), "side_b": (inner,), "merge_w": (inner, WIDTH)}

    shapes = {}
    for level, count in enumerate(LAYERS):
        for part in ("mid",) if level == len(POOLS) else ("pre", "post"):
            for i in range(count):
                for kind, fields in (("mix", norm | merge | mix), ("mlp", norm | merge | mlp)):
                    for name, shape in fields.items():
                        shapes[f"level{level}.{part}{i}.{kind}.{name}"] = shape
    for level, factor in enumerate(POOLS):
        for direction in ("down", "up"):
            shapes[f"level{level}.{direction}.taps"] = (factor, WIDTH)
            shapes[f"level{level}.{direction}.bias"] = (WIDTH,)
    shapes |= {"final_norm.scale": (WIDTH,), "final_norm.bias": (WIDTH,)}
    return shapes | {"head.weight": (WIDTH, CODES), "head.bias": (CODES,)}


def draw_parameter(rng, name, shape):
    noise = rng.normal(size=shape)
    if name.endswith("scale"):
        return 1 + 0.3 * noise
    if name.endswith("decay_raw"):
        return noise - 2  # Around the initial radii.
    if name.endswith(("_w", "weight")):
        return noise / np.sqrt(shape[-2])
    return 0.5 * noise


def main():
    rng = np.random.default_rng(0)
    params = {
        name: np.float32(draw_parameter(rng, name, shape)) for name, shape in make_shapes().items()
    }
    arrays = {
        "tokens": np.int32(rng.integers(CODES, size=(2, 18))),
        "lengths": np.int32([18, 11]),
        "pools": np.int32(POOLS),
        "layers_per_level": np.int32(LAYERS),
        "baseline": np.int32(CODES // 2),
        "n_gate_blocks": np.int32(BLOCKS),
        "decay_exponent": np.float32(8),
    }
    config = read_config(arrays, params)

    def run(params):
        logits = oracle.forward(config, convert(config, params), arrays["tokens"])
        return logits, oracle.bits(logits, arrays["tokens"], arrays["lengths"])

    point = {name: array.astype(np.float64) for name, array in params.items()}
    arrays["logits"], arrays["loss_bits"] = run(point)
    for name, array in point.items():
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):

            def loss(distance, name=name, array=array, index=index):
                moved = array.copy()
                moved[index] += distance
                return run(point | {name: moved})[1]

            h = 1e-3
            wide = loss(2 * h) - loss(-2 * h)
            gradient[index] = (8 * (loss(h) - loss(-h)) - wide) / (12 * h)
        arrays[f"g/{name}"] = gradient
    arrays |= {f"p/{name}": array for name, array in params.items()}
    np.savez_compressed(PATH, **arrays)
    print(
        f"{PATH}: {PATH.stat().st_size / 1e3:.0f} kB, {sum(map(np.size, point.values()))} numbers"
    )


if __name__ == "__main__":
    main()
