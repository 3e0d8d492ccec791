"""The published classifier in NumPy, by the names and in the layout of its PyTorch checkpoint."""

import numpy as np


def tensor_shapes():
    """Shape of every tensor by name: weights, running statistics, counters."""
    shapes = {}

    def convolution(name, *shape):
        shapes[f"{name}.weight"] = shape

    def normalisation(name, width):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"{name}.{leaf}"] = (width,)
        shapes[f"{name}.num_batches_tracked"] = ()

    convolution("conv_1_3x3", 64, 1, 3, 3)
    normalisation("bn_1", 64)
    before = 64
    for stage, after in ((1, 256), (2, 512), (3, 1024)):
        for i in range(3):
            block, inner = f"stage_{stage}.stage_{stage}_bottleneck_{i}", 2 * after
            convolution(f"{block}.conv_reduce", inner, before, 1, 1)
            normalisation(f"{block}.bn_reduce", inner)
            convolution(f"{block}.conv_conv", inner, inner // 8, 3, 3)
            normalisation(f"{block}.bn", inner)
            convolution(f"{block}.conv_expand", after, inner, 1, 1)
            normalisation(f"{block}.bn_expand", after)
            if i == 0:
                convolution(f"{block}.shortcut.shortcut_conv", after, before, 1, 1)
                normalisation(f"{block}.shortcut.shortcut_bn", after)
            before = after
    shapes["classifier.weight"], shapes["classifier.bias"] = (10, 1024), (10,)
    return shapes


def random_tensors(seed=0):
    """Random tensors, float32; the activations are of order 1, so that each of them counts."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in tensor_shapes().items():
        leaf = name.rpartition(".")[2]
        if len(shape) > 1:
            array = rng.standard_normal(shape, np.float32)
            array *= np.float32(np.sqrt(2 / np.prod(shape[1:])))
        elif leaf in ("weight", "running_var"):
            array = rng.uniform(0.5, 1.5, shape)
        else:
            array = 0.1 * rng.standard_normal(shape)
        if name == "bn_1.running_var":
            array = 1000 * array  # Decibels squared.
        elif name.endswith("bn_expand.weight"):
            array = 0.3 * array  # Three residual blocks in a row add up.
        tensors[name] = np.asarray(array, np.float32)
    return tensors


def convolve(x, kernel, stride=1):
    """[c, h, w] and [o, c / groups, k, k], zero-padded by k // 2 -> [o, y, x]."""
    (o, i, k, _), (c, h, w) = kernel.shape, x.shape
    groups = c // i
    x = np.pad(x, ((0, 0), (k // 2, k // 2), (k // 2, k // 2)))
    y = np.zeros((groups, o // groups, h // stride * (w // stride)), x.dtype)
    for dy in range(k):
        for dx in range(k):
            part = x[:, dy : dy + h : stride, dx : dx + w : stride].reshape(groups, i, -1)
            y += kernel[:, :, dy, dx].reshape(groups, o // groups, i) @ part
    return y.reshape(o, h // stride, w // stride)


def resnext(tensors, mels):
    """One clip, [mels, frames] -> (logits, features)."""

    def normalise(x, name):
        weight, bias, mean, var = (
            tensors[f"{name}.{leaf}"][:, None, None]
            for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return (x - mean) / np.sqrt(var + 1e-5) * weight + bias

    def relu(x):
        return np.maximum(x, 0)

    x = relu(normalise(convolve(mels[None], tensors["conv_1_3x3.weight"]), "bn_1"))
    for stage in (1, 2, 3):
        for i in range(3):
            block = f"stage_{stage}.stage_{stage}_bottleneck_{i}"
            stride = 2 if i == 0 and stage > 1 else 1
            y = convolve(x, tensors[f"{block}.conv_reduce.weight"])
            y = relu(normalise(y, f"{block}.bn_reduce"))
            y = convolve(y, tensors[f"{block}.conv_conv.weight"], stride)
            y = relu(normalise(y, f"{block}.bn"))
            y = convolve(y, tensors[f"{block}.conv_expand.weight"])
            y = normalise(y, f"{block}.bn_expand")
            if i == 0:
                x = convolve(x, tensors[f"{block}.shortcut.shortcut_conv.weight"], stride)
                x = normalise(x, f"{block}.shortcut.shortcut_bn")
            x = relu(x + y)
    assert x.shape == (1024, 8, 8)
    features = x.mean((1, 2))
    return tensors["classifier.weight"] @ features + tensors["classifier.bias"], features
