"""Mamba in float64 NumPy, one step and one channel at a time, from the equations."""

import numpy as np


def selective_scan(x, dt, b, c, a, skip, h0):
    """Outputs y [b, t, e] and the last state, for inputs that may be complex where A is."""
    rows, steps, channels = x.shape
    y, h = np.zeros(x.shape), np.array(h0)
    for row in range(rows):
        for t in range(steps):
            for e in range(channels):
                decay = np.exp(dt[row, t, e] * a[e])
                h[row, e] = decay * h[row, e] + dt[row, t, e] * x[row, t, e] * b[row, t]
                total = np.sum(h[row, e] * c[row, t])
                y[row, t, e] = 2 * total.real if np.iscomplexobj(a) else total
    return y + skip * x, h


def mix(config, p, z):
    """The block from the start of a sequence: (output, [last state, last inputs])."""
    rows, steps, d = z.shape
    e, n, width = config.expand * d, config.state_size, config.convolution_width
    rank = int(np.ceil(d / 16)) if config.dt_rank is None else config.dt_rank
    u, gate = np.split(z @ p["input_projection"]["kernel"], 2, axis=-1)
    convolved = np.zeros_like(u)
    for t in range(steps):
        for j in range(width):
            if t - (width - 1) + j >= 0:
                convolved[:, t] += p["convolution"]["kernel"][j] * u[:, t - (width - 1) + j]
    v = _silu(convolved + p["convolution"]["bias"])
    selection = v @ p["selection_projection"]["kernel"]
    dt = selection[..., :rank] @ p["time_step"]["kernel"] + p["time_step_bias"]
    dt = np.logaddexp(0, dt)
    maps, a = selection[..., rank:], -np.exp(p["a_log"])
    if config.complex:
        a = a + 1j * p["a_imag"]
        b, c = (maps[..., i : i + n] + 1j * maps[..., i + n : i + 2 * n] for i in (0, 2 * n))
    else:
        b, c = maps[..., :n], maps[..., n:]
    y, h = selective_scan(v, dt, b, c, a, p["skip"], np.zeros((rows, e, n), a.dtype))
    tail = np.concatenate([np.zeros((rows, width - 1, e)), u], axis=1)[:, steps:]
    return (y * _silu(gate)) @ p["output_projection"]["kernel"], [h, tail]


def _silu(x):
    return x / (1 + np.exp(-x))
