"""The published SC09 classifier: tensors of the PyTorch module to parameters and statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from poolformer_jax.classifier.config import ClassifierConfig
from poolformer_jax.classifier.network import Stats, init_classifier
from poolformer_jax.files import quoted

# Convolution and normalisation of each unit; the units but the stem are in a bottleneck.
_UNITS = {
    "stem": ("conv_1_3x3", "bn_1"),
    "reduce": ("conv_reduce", "bn_reduce"),
    "grouped": ("conv_conv", "bn"),
    "expand": ("conv_expand", "bn_expand"),
    "shortcut": ("shortcut.shortcut_conv", "shortcut.shortcut_bn"),
}
_LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "bias": "bias",
    "mean": "running_mean",
    "var": "running_var",
}
_IGNORED = ".num_batches_tracked"  # For averages with equal weights, which nobody takes here.


def import_resnext(
    config: ClassifierConfig, tensors: Mapping[str, np.ndarray]
) -> tuple[Any, Stats]:
    """Brings the tensors of a PyTorch ResNeXt-29 into the form of `classify`.

    Args:
      config: Of kind `resnext29_8x64d`.
      tensors: By the names of the published module: `conv_1_3x3.weight`, `bn_1.running_mean`,
        `stage_1.stage_1_bottleneck_0.conv_reduce.weight`, ... `classifier.bias`, all with or
        without the `module.` of a DataParallel.

    Returns:
      (params, stats) in float32.

    Raises:
      ValueError: If tensors are missing, unknown, of another shape or not finite; it lists them.

    Source: the names are those of the CIFAR ResNeXt by P. Rodríguez, which the authors of SaShiMi
    trained on SC09.
    """
    assert config.kind == "resnext29_8x64d"
    if all(name.startswith("module.") for name in tensors):
        tensors = {name.removeprefix("module."): array for name, array in tensors.items()}
    unused = {name for name in tensors if not name.endswith(_IGNORED)}
    missing, unsuitable = [], []

    def take(path: tuple[Any, ...], target: jax.ShapeDtypeStruct) -> np.ndarray | None:
        name = _torch_name(jax.tree_util.keystr(path, simple=True, separator="/").split("/"))
        unused.discard(name)
        if name not in tensors:
            missing.append(name)
            return None
        array = tensors[name]
        if array.ndim == 4:  # [out, in / groups, height, width]
            array = array.transpose(2, 3, 1, 0)
        elif array.ndim == 2:  # [out, in]
            array = array.transpose()
        if array.shape != target.shape:
            axes = {4: (3, 2, 0, 1), 2: (1, 0)}.get(len(target.shape), (0,))
            expected = tuple(target.shape[axis] for axis in axes)
            unsuitable.append(f"{name} has shape {tensors[name].shape}, not {expected}")
        elif not np.isfinite(array).all():
            unsuitable.append(f"{name} is not finite")
        return np.ascontiguousarray(array, np.float32)

    shapes = jax.eval_shape(lambda key: init_classifier(config, key), jax.random.key(0))
    params, stats = (jax.tree_util.tree_map_with_path(take, tree) for tree in shapes)
    faults = [
        f"{kind}: {_enumerate(names)}"
        for kind, names in (
            ("missing", missing),
            ("unknown", [quoted(name) for name in sorted(unused)]),
            ("unsuitable", unsuitable),
        )
        if names
    ]
    if faults:
        raise ValueError(f"these are not the tensors of a ResNeXt-29 8x64d; {'; '.join(faults)}")
    return params, stats


def _enumerate(names: list[str], most: int = 10) -> str:
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join(names[:most] + more)


def _torch_name(path: list[str]) -> str:
    """`stage_1_block_0/reduce/conv/kernel` is `stage_1.stage_1_bottleneck_0.conv_reduce.weight`."""
    *modules, leaf = path
    if modules == ["head"]:
        return f"classifier.{_LEAVES[leaf]}"
    *blocks, unit = [name for name in modules if name not in ("conv", "norm")]
    prefix = ""
    if blocks:
        stage, number = blocks[0].split("_block_")
        prefix = f"{stage}.{stage}_bottleneck_{number}."
    conv, norm = _UNITS[unit]
    return f"{prefix}{conv if leaf == 'kernel' else norm}.{_LEAVES[leaf]}"
