"""S4 and S4D in float64 NumPy, by a plain loop over dense complex matrices of all modes."""

import math

import numpy as np


def modes(p):
    """(A, B, C, P, dt) of a layer's parameters, complex, for each channel; P is None for S4D."""
    channels = len(p["inv_dt"])

    def of_all(x):
        return np.broadcast_to(x, (channels, *x.shape[1:]))

    a = of_all(-np.exp(p["A_real"]) - 1j * p["A_imag"])
    b, c, q = (of_all(p[x][..., 0] + 1j * p[x][..., 1]) if x in p else None for x in "BCP")
    return a, b, c, q, np.logaddexp(0, p["inv_dt"])


def discrete(a, b, c, p, dt):
    """(A, B, C) of one channel in discrete time, with the conjugate modes behind the others."""
    a, b, c = (np.concatenate([x, x.conj()]) for x in (a, b, c))
    if p is None:  # The input is held.
        decay = np.exp(dt * a)
        return np.diag(decay), b * (decay - 1) / a, c
    p = np.concatenate([p, p.conj()])
    matrix, unit = np.diag(a) - np.outer(p, p.conj()), np.eye(len(a))
    backward = np.linalg.inv(unit - dt / 2 * matrix)
    return backward @ (unit + dt / 2 * matrix), backward @ (dt * b), c


def recur(system, u, x=None):
    """Outputs [t] and the last state, of one channel's inputs u [t]."""
    a, b, c = system
    x = np.zeros(len(b), complex) if x is None else x
    y = np.empty(len(u))
    for t, value in enumerate(u):
        x = a @ x + b * value
        y[t] = (c @ x).real
    return y, x


def released_kernel(a, b, c, p, dt, length):
    """C A^j B for j < length as the released code has it: through the generating function.

    Its parameter is C (1 - A^length); sums over the modes are Cauchy products on the unit circle.
    """
    matrix, _, full = discrete(a, b, c, p, dt)
    size = len(a)
    ct = (full @ (np.eye(2 * size) - np.linalg.matrix_power(matrix, length)))[:size]
    omega = np.exp(-2j * np.pi * np.arange(length // 2 + 1) / length)
    response = np.empty(len(omega), complex)
    for j, o in enumerate(omega):
        if length % 2 == 0 and j == length // 2:  # The limit at -1.
            response[j] = 2 * dt * (b * ct).sum().real / 2
            continue
        z = 2 * (1 - o) / (1 + o)

        def r(v, z=z):
            return (v / (z - dt * a) + v.conj() / (z - dt * a.conj())).sum()

        low_rank = r(dt * b * p.conj()) * r(dt * p * ct) / (1 + r(dt * p * p.conj()))
        response[j] = 2 / (1 + o) * (r(dt * b * ct) - low_rank)
    return np.fft.irfft(response, length)


def mix(config, p, z):
    """What the layer makes of z [b, t, d]: (output, [last state])."""
    y, state = np.empty_like(z), np.empty((len(z), z.shape[2], config.state_size))
    for channel, values in enumerate(zip(*(x for x in modes(p) if x is not None), strict=True)):
        a, b, c, *q, dt = values
        system = discrete(a, b, c, q[0] if q else None, dt)
        for i in range(len(z)):
            y[i, :, channel], x = recur(system, z[i, :, channel])
            kept = x[: len(a)]
            state[i, channel] = np.concatenate([kept.real, kept.imag])
    y = y + p["D"] * z
    y = y * 0.5 * (1 + np.vectorize(math.erf)(y / math.sqrt(2)))
    y = y @ p["output_projection"]["kernel"] + p["output_projection"]["bias"]
    if config.glu:
        value, gate = np.split(y, 2, axis=-1)
        y = value / (1 + np.exp(-gate))
    return y, [state]
