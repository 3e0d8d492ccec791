"""Reads golden files: parameters, codes, logits, loss and gradients of the reference.

A file names its parameters `p/level{d}.{pre|post|mid}{i}.{mix|mlp}.X`, `p/level{d}.{down|up}.X`,
`p/final_norm.X` and `p/head.X`, and their gradients `g/...`. Everything about the architecture
is read off the file.
"""

from __future__ import annotations

import dataclasses
import pathlib

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from poolformer_jax.layers.mixer_config import RGLRUConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig

MIXER_NAMES = {
    "norm/scale": "norm_scale",
    "norm/bias": "norm_bias",
    "rg_lru/input_projection/kernel": "in_w",
    "rg_lru/input_projection/bias": "in_b",
    "rg_lru/input_gate/kernel": "input_gate_w",
    "rg_lru/input_gate/bias": "input_gate_b",
    "rg_lru/recurrence_gate/kernel": "decay_gate_w",
    "rg_lru/recurrence_gate/bias": "decay_gate_b",
    "rg_lru/decay": "decay_raw",
    "rg_lru/theta": "phase_raw",
    "rg_lru/output_projection/kernel": "state_out_w",
    "rg_lru/output_projection/bias": "state_out_b",
}
MLP_NAMES = {
    "norm/scale": "norm_scale",
    "norm/bias": "norm_bias",
    "value/kernel": "value_w",
    "value/bias": "value_b",
}
MERGE_NAMES = {
    "merge/gate/kernel": "side_w",
    "merge/gate/bias": "side_b",
    "merge/projection/kernel": "merge_w",
    "merge/projection/bias": "merge_b",
}


@dataclasses.dataclass(frozen=True)
class Golden:
    """One golden file, in the package's terms."""

    config: PoolformerConfig
    params: dict
    gradients: dict  # Empty if the file has none.
    codes: jnp.ndarray
    lengths: jnp.ndarray
    logits: np.ndarray
    loss_bits: float


def read_golden(path: pathlib.Path) -> Golden:
    """Reads a golden file."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    params = {n.removeprefix("p/"): a for n, a in arrays.items() if n.startswith("p/")}
    gradients = {n.removeprefix("g/"): a for n, a in arrays.items() if n.startswith("g/")}
    config = read_config(arrays, params)
    return Golden(
        config=config,
        params=convert(config, params),
        gradients=convert(config, gradients) if gradients else {},
        codes=jnp.asarray(arrays["tokens"]),
        lengths=jnp.asarray(arrays["lengths"]),
        logits=arrays["logits"],
        loss_bits=float(arrays["loss_bits"]),
    )


def read_config(arrays, params) -> PoolformerConfig:
    """The architecture of a file."""

    def first(suffix):
        """The first such parameter; a file without any layer is refused with its name."""
        for name, array in params.items():
            if name.endswith(suffix):
                return array
        raise ValueError(f"the file has no parameter *{suffix}: a model without layers")

    width, recurrent_width = first(".mix.in_w").shape
    taps = [array for name, array in params.items() if name.endswith("down.taps")]
    return PoolformerConfig(
        num_codes=params["head.weight"].shape[1],
        initial_code=int(arrays["baseline"]),
        width=width,
        mixer=RGLRUConfig(
            recurrent_width=recurrent_width,
            num_gate_blocks=len(first(".input_gate_w")),
            complex=any(name.endswith(".phase_raw") for name in params),
            decay_exponent=float(arrays["decay_exponent"]),
        ),
        mlp_expansion=first(".value_w").shape[1] // width,
        pool_factors=tuple(int(f) for f in arrays["pools"]),
        layers=tuple(int(n) for n in arrays["layers_per_level"]),
        pool_groups=width // taps[0].shape[1] if taps and taps[0].ndim == 3 else None,
        unet=any(".pre0." in name for name in params) or not taps,
        gating=any(name.endswith(".side_w") for name in params),
        scan="sequential",
        platform="cpu",
    )


def convert(config: PoolformerConfig, arrays: dict) -> dict:
    """From the file's names to a nested dict of the package's, layers of a stage stacked."""
    out = {}

    def add_stack(path, level, part):
        count = config.layers[level]
        for block, names in (("mixer", MIXER_NAMES), ("mlp", MLP_NAMES)):
            kind = {"mixer": "mix", "mlp": "mlp"}[block]
            for ours, theirs in (names | MERGE_NAMES).items():
                keys = [f"level{level}.{part}{i}.{kind}.{theirs}" for i in range(count)]
                if keys and keys[0] in arrays:
                    stacked = np.stack([arrays[key] for key in keys])
                    out[f"{path}/layers/{block}/{ours}"] = stacked

    path = "backbone"
    for level in range(len(config.pool_factors)):
        if config.unet:
            add_stack(f"{path}/pre", level, "pre")
        add_stack(f"{path}/post", level, "post")
        for direction in ("down", "up"):
            taps = arrays[f"level{level}.{direction}.taps"]
            pool = f"{path}/{direction}_pool"
            out[f"{pool}/kernel"] = taps if taps.ndim == 3 else taps[:, None]
            out[f"{pool}/bias"] = arrays[f"level{level}.{direction}.bias"]
        path += "/inner"
    add_stack(f"{path}/stack", len(config.pool_factors), "mid")
    out["head/norm/scale"] = arrays["final_norm.scale"]
    out["head/norm/bias"] = arrays["final_norm.bias"]
    out["head/projection/kernel"] = arrays["head.weight"]
    out["head/projection/bias"] = arrays["head.bias"]
    used = sum(array.size for array in out.values())
    assert used == sum(array.size for array in arrays.values()), "a parameter was not converted"
    return unflatten_dict(out, sep="/")
