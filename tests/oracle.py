"""The model in float64 NumPy, one plain loop over time: what the tests compare against.

Written from the equations; shares no code with the package. `params` is the package's parameter
tree, so that every option (groups, growing widths, norms, mixers, ...) can be checked.
"""

import numpy as np

from tests import oracle_mamba, oracle_s4


def forward(config, params, codes, labels=None):
    """Logits [b, t, v] of codes [b, t], in a model with classes given labels [b]."""
    params = float64(params)
    start = np.full((codes.shape[0], 1), config.initial_code)
    previous = np.concatenate([start, codes[:, :-1]], axis=1)
    x = _embed(config, params.get("embedding", {}), previous)
    # A block without layers has no parameters.
    x = _block(config, params.get("backbone", {}), x, 0, labels)
    x = _layer_norm(x, params["head"]["norm"])
    return _dense(x, params["head"]["projection"])


def bits(logits, codes, lengths):
    """Mean cross entropy in bits over the samples before each length, one sample at a time."""
    total, count = 0.0, 0
    for row, targets, length in zip(logits, codes, lengths, strict=True):
        for scores, target in zip(row[:length], targets[:length], strict=True):
            total += np.logaddexp.reduce(scores) - scores[target]
            count += 1
    return total / count / np.log(2)


def _embed(config, p, codes):
    if config.embedding == "table":
        return p["table"]["embedding"][codes]
    if config.embedding == "mlp":
        return _dense(2.0 * codes[..., None] / (config.num_codes - 1) - 1.0, p["mlp"])
    half = config.width // 2
    out = np.empty((*codes.shape, config.width))
    for i in range(half):
        frequency = 10000.0 ** (-i / half)
        out[..., i] = np.cos(codes * frequency)
        out[..., half + i] = np.sin(codes * frequency)
    return out


def _block(config, p, x, level, labels):
    if config.num_classes:
        x = x + np.stack([p["label"]["table"][label] for label in labels])[:, None]
    layers = config.layers[level]
    if level == len(config.pool_factors):
        return _stack(config, p.get("stack", {}), x, layers)
    block_input = x
    if config.unet:
        x = _stack(config, p.get("pre", {}), x, layers)
    y = _down(x, p["down_pool"], config.pool_factors[level])
    y = _block(config, p.get("inner", {}), y, level + 1, labels)
    u = _up(y, p["up_pool"], config.pool_factors[level])
    if config.skip == "short":
        return _stack(config, p.get("post", {}), x + u, layers)
    return block_input + _stack(config, p.get("post", {}), u, layers)


def _stack(config, p, x, num_layers):
    for i in range(num_layers):
        layer = tree_index(p["layers"], i)
        x = x + _mixer_block(config, layer["mixer"], x)
        x = x + _mlp_block(config, layer["mlp"], x)
    return x


def _mixer_block(config, p, x):
    z = _norm(config, x, p)
    main = z
    if config.temporal_convolution:
        main = np.zeros_like(z)
        kernel = p["temporal_convolution"]["kernel"]
        for t in range(z.shape[1]):
            for j in range(3):
                if t - 2 + j >= 0:
                    main[:, t] += z[:, t - 2 + j] @ kernel[j]
        main = _layer_norm(main + p["temporal_convolution"]["bias"], p["temporal_norm"])
    main, _ = mix(config.mixer, p[config.mixer.kind], main)
    return _merge(config, main, z, p["merge"])


def mix(config, p, z):
    """What a mixer makes of z [b, t, d] at the start of a sequence: (output, last state).

    The state is a list of arrays, complex ones whole.
    """
    return MIXERS[config.kind](config, float64(p), z)


def _mix_lru(config, p, z):
    u = _dense(z, p["input_projection"])
    log_a, phase, gate = -np.logaddexp(0, p["decay"]), p.get("theta", 0.0), 1.0
    if config.kind == "rg_lru":
        gate_a = _sigmoid(_block_diagonal(u, p["recurrence_gate"]))
        log_a, phase = config.decay_exponent * gate_a * log_a, gate_a * phase
        gate = _sigmoid(_block_diagonal(u, p["input_gate"]))
    drive, channels = np.sqrt(1 - np.exp(2 * log_a)) * gate, log_a.shape[-1]
    if config.complex:
        a, u = np.exp(log_a + 1j * phase), u[..., :channels] + 1j * u[..., channels:]
    else:
        a = np.exp(log_a)
    x = drive * u
    a, h, states = np.broadcast_to(a, x.shape), np.zeros_like(x[:, 0]), np.empty_like(x)
    for t in range(x.shape[1]):
        h = a[:, t] * h + x[:, t]
        states[:, t] = h
    if config.complex:
        states = np.concatenate([states.real, states.imag], axis=-1)
    return _dense(states, p["output_projection"]), [h]


def _mix_attention(config, p, z):
    b, t, d = z.shape
    size = d // config.num_heads

    def heads(name, count):
        projected = z @ p[name]["kernel"] + p[name].get("bias", 0.0)
        return projected.reshape(b, t, count, size)

    q = heads("query_projection", config.num_heads)
    k = heads("key_projection", config.num_kv_heads)
    v = heads("value_projection", config.num_kv_heads)
    y = np.zeros_like(q)
    for step in range(t):
        seen = range(max(0, step - config.window + 1), step + 1)
        for head in range(config.num_heads):
            shared = head * config.num_kv_heads // config.num_heads
            query = rotate(q[:, step, head], step, config.wavelength)
            keys = np.stack([rotate(k[:, s, shared], s, config.wavelength) for s in seen], axis=1)
            scores = np.einsum("bh,bsh->bs", query, keys) / np.sqrt(size)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            y[:, step, head] = np.einsum("bs,bsh->bh", weights, v[:, list(seen), shared])
    state = []
    for steps in (k, v):
        ring = np.zeros((b, config.window, *steps.shape[2:]))
        for step in range(t):
            ring[:, step % config.window] = steps[:, step]
        state.append(np.swapaxes(ring, 1, 2))
    count = t if t < 2 * config.window else config.window + t % config.window
    return _dense(y.reshape(b, t, d), p["output_projection"]), [*state, count]


def rotate(x, position, wavelength):
    """Rotary positions on the first half of a head x [..., h]."""
    if wavelength is None:
        return x
    y, quarter = x.copy(), x.shape[-1] // 4
    for i in range(quarter):
        angle = position * wavelength ** (-i / quarter)
        a, b = x[..., i], x[..., quarter + i]
        y[..., i] = a * np.cos(angle) - b * np.sin(angle)
        y[..., quarter + i] = b * np.cos(angle) + a * np.sin(angle)
    return y


MIXERS = {
    "rg_lru": _mix_lru,
    "lru": _mix_lru,
    "attention": _mix_attention,
    "s4": oracle_s4.mix,
    "s4d": oracle_s4.mix,
    "mamba": oracle_mamba.mix,
}


def _mlp_block(config, p, x):
    z = _norm(config, x, p)
    return _merge(config, _dense(z, p["value"]), z, p["merge"])


def _merge(config, main, z, p):
    y = main * _gelu(_dense(z, p["gate"])) if config.gating else _gelu(main)
    return _dense(y, p["projection"])


def _down(x, p, factor):
    kernel, bias = p["kernel"], p["bias"]
    b, t, d = x.shape
    features, groups = kernel.shape[2], d // kernel.shape[1]
    per_in, per_out = d // groups, features // groups
    y = np.zeros((b, t // factor, features)) + bias
    for step in range(t // factor):
        for o in range(features):
            first = (o // per_out) * per_in
            for j in range(factor):
                window = x[:, step * factor + j, first : first + per_in]
                y[:, step, o] += window @ kernel[j, :, o]
    return y


def _up(y, p, factor):
    kernel, bias = p["kernel"], p["bias"]
    b, length, width = y.shape
    features, groups = kernel.shape[2], width // kernel.shape[1]
    per_in, per_out = width // groups, features // groups
    u = np.zeros((b, length * factor, features))
    for t in range(factor - 1, length * factor):
        step, r = divmod(t - (factor - 1), factor)
        for o in range(features):
            first = (o // per_out) * per_in
            u[:, t, o] = y[:, step, first : first + per_in] @ kernel[r, :, o] + bias[o]
    return u


def _norm(config, x, p):
    if config.norm == "none":
        return x
    if config.norm == "rms_norm":
        mean_square = (x**2).mean(-1, keepdims=True)
        return x / np.sqrt(mean_square + 1e-6) * p["norm"]["scale"]
    return _layer_norm(x, p["norm"])


def _layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    variance = (centred**2).mean(-1, keepdims=True)
    return centred / np.sqrt(variance + 1e-6) * p["scale"] + p["bias"]


def _dense(x, p):
    return x @ p["kernel"] + p["bias"]


def _block_diagonal(u, p):
    parts = np.split(u, len(p["kernel"]), axis=-1)
    blocks = zip(parts, p["kernel"], p["bias"], strict=True)
    return np.concatenate([part @ kernel + bias for part, kernel, bias in blocks], axis=-1)


def _gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _sigmoid(x):
    return 0.5 * (1 + np.tanh(0.5 * x))


def float64(tree):
    """A parameter tree in float64."""
    if isinstance(tree, dict):
        return {name: float64(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def tree_index(tree, index):
    """The parameters of one layer of a stack."""
    if isinstance(tree, dict):
        return {name: tree_index(value, index) for name, value in tree.items()}
    return tree[index]
