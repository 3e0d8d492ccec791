"""SaShiMi in float64 NumPy, with a stack of activations as in the paper's listing.

Written from the equations; shares no code with the package, whose parameter tree it reads.
"""

import math

import numpy as np

from tests import oracle


def forward(config, params, codes, labels=None):
    """Logits [b, t, v] of codes [b, t], in a model with classes given labels [b]."""
    params = oracle.float64(params)
    start = np.full((codes.shape[0], 1), config.initial_code)
    x = params["embedding"]["embedding"][np.concatenate([start, codes[:, :-1]], axis=1)]
    stages, block = [], params["backbone"]
    for _ in config.pool_factors:
        stages.append(block)
        block = block.get("inner", {})

    pushed = []
    for stage, p in enumerate(stages):
        x = _label(config, p, x, labels)
        if config.unet:
            for branch in _branches(config, stage, p.get("pre", {})):
                pushed.append(x)
                x = x + branch(x)
        pushed.append(x)
        x = _down(x, p["down_pool"])
    x = _label(config, block, x, labels)
    center = x
    for branch in _branches(config, len(stages), block.get("stack", {})):
        x = x + branch(x)
    x = x + center
    for stage, p in reversed(list(enumerate(stages))):
        x = _up(x, p["up_pool"]) + pushed.pop()
        start = x
        for branch in _branches(config, stage, p.get("post", {})):
            x = x + branch(x)
            if config.unet:
                x = x + pushed.pop()
        if not config.unet:
            x = x + start
    assert not pushed
    p = params["head"]
    x = _layer_norm(x, p["norm"]["scale"], p["norm"]["bias"])
    return x @ p["projection"]["kernel"] + p["projection"]["bias"]


def _branches(config, stage, p):
    """What is added to x, one after the other."""
    for i in range(config.layers[stage]):
        layer = oracle.tree_index(p["layers"], i)
        mixer = config.mixer_of(stage)
        yield lambda x, p=layer["mixer"], mixer=mixer: oracle.mix(
            mixer, p[mixer.kind], _norm(config, x, p)
        )[0]
        if "mlp" in layer:
            yield lambda x, p=layer["mlp"]: _mlp(p, _norm(config, x, p))


def _mlp(p, z):
    inside = z @ p["expand"]["kernel"] + p["expand"]["bias"]
    inside = inside * 0.5 * (1 + np.vectorize(math.erf)(inside / math.sqrt(2)))
    return inside @ p["contract"]["kernel"] + p["contract"]["bias"]


def _norm(config, x, p):
    if config.norm == "none":
        return x
    scale = p["norm"]["scale"]
    if config.norm == "scalar_norm":
        centred = x - x.mean(-1, keepdims=True)
        return scale * (centred + p["norm"]["bias"]) / x.std(-1, keepdims=True)
    if config.norm == "rms_norm":
        return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return _layer_norm(x, scale, p["norm"]["bias"])


def _layer_norm(x, scale, bias):
    centred = x - x.mean(-1, keepdims=True)
    return scale * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) + bias


def _down(x, p):
    """Dense layers of whole windows."""
    kernel = p["kernel"]
    if "length" in p:
        kernel = p["length"] * kernel / np.sqrt((kernel**2).sum((0, 1), keepdims=True))
    factor, d, features = kernel.shape
    b, t, _ = x.shape
    windows = x.reshape(b, t // factor, factor * d)
    return windows @ kernel.reshape(factor * d, features) + p["bias"]


def _up(y, p):
    """A dense layer, a shift by one coarse step, windows unfolded."""
    kernel = p["kernel"]
    if "length" in p:
        kernel = p["length"] * kernel / np.sqrt((kernel**2).sum(1, keepdims=True))
    factor, _, features = kernel.shape
    b, length, _ = y.shape
    fine = np.stack([y @ kernel[r] + p["bias"][r] for r in range(factor)], axis=2)
    fine = np.concatenate([np.zeros_like(fine[:, :1]), fine[:, :-1]], axis=1)
    return fine.reshape(b, length * factor, features)


def _label(config, p, x, labels):
    if not config.num_classes:
        return x
    return x + np.stack([p["label"]["table"][label] for label in labels])[:, None]
