"""Linear time-invariant state spaces, one for each channel: x_t = A x_{t-1} + B u_t, y_t = C x_t.

A state has n modes, one of each conjugate pair, as s = 2 n real numbers: first the real parts, then
the imaginary ones. Everything is computed in float32.

Source: Gu et al. 2022, arXiv:2111.00396 (S4); Gu et al. 2022, arXiv:2206.11893 (S4D).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax import sharding
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.planes import add, conjugate, multiply, scale
from poolformer_jax.typing import Planes

Method = Literal["chunked", "fft", "step"]
Advance = Callable[[Float[Array, "d s"]], Float[Array, "d s"]]

_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Responses(NamedTuple):
    """What a system does within q steps.

    Attributes:
      kernel: C A^j B, for each j < q.
      inputs: A^j B.
      outputs: C A^(j+1).
    """

    kernel: Float[Array, "d q"]
    inputs: Float[Array, "d q s"]
    outputs: Float[Array, "d s q"]


@runtime_checkable
class System(Protocol):
    """A discrete state space for each of d channels, on one clip."""

    def step(
        self, x: Float[Array, "d s"], u: Float[Array, " d"]
    ) -> tuple[Float[Array, "d s"], Float[Array, " d"]]:
        """From (x_{t-1}, u_t) to (x_t, y_t)."""
        ...

    def responses(self, q: int) -> Responses:
        """Those of q steps, a power of two."""
        ...

    def advance(self, steps: int) -> Advance:
        """The map from x to A^steps x."""
        ...


class DiagonalSystem(NamedTuple):
    """S4D: x' = diag(a) x + b u with its input held for dt (zero-order hold), y = 2 Re(c x).

    Attributes:
      dt: Unit of time of a step.
      a: Of which the real part is negative.
      b: As many as a.
      c: For each channel.
    """

    dt: Float[Array, " d"]
    a: Planes
    b: Planes
    c: Planes

    def step(
        self, x: Float[Array, "d s"], u: Float[Array, " d"]
    ) -> tuple[Float[Array, "d s"], Float[Array, " d"]]:
        """By the modes."""
        decay, drive = self._discrete()
        x = _reals(add(multiply(decay, _planes(x)), scale(u[:, None], drive)))
        return x, jnp.sum(x * _readout(self.c), axis=-1)

    def responses(self, q: int) -> Responses:
        """By doubling."""
        power, drive = self._discrete()
        inputs = jax.tree.map(lambda plane: plane[:, None], drive)
        outputs = multiply(power, self.c)
        outputs = jax.tree.map(lambda plane: plane[:, None], outputs)
        while inputs.real.shape[1] < q:
            factor = jax.tree.map(lambda plane: plane[:, None], power)
            inputs, outputs = (
                jax.tree.map(lambda *planes: jnp.concatenate(planes, 1), x, multiply(factor, x))
                for x in (inputs, outputs)
            )
            power = multiply(power, power)
        kernel = jnp.sum(_reals(inputs) * _readout(self.c)[:, None], axis=-1)
        return Responses(kernel, _reals(inputs), jnp.swapaxes(_readout(outputs), 1, 2))

    def advance(self, steps: int) -> Advance:
        """By the power of each mode."""
        decay, _ = self._discrete()
        power = _power(decay, steps, multiply)
        return lambda x: _reals(multiply(power, _planes(x)))

    def _discrete(self) -> tuple[Planes, Planes]:
        """exp(dt a) and b (exp(dt a) - 1) / a, both [d, n]."""
        log, phase = self.dt[:, None] * self.a.real, self.dt[:, None] * self.a.imag
        turn, half = phasor(phase), phasor(0.5 * phase)
        decay = scale(jnp.exp(log), turn)
        # exp(dt a) - 1 without cancellation.
        growth = Planes(jnp.expm1(log) * turn.real - 2.0 * half.imag**2, decay.imag)
        return decay, multiply(multiply(self.b, growth), _inverse(self.a))


class LowRankSystem(NamedTuple):
    """S4: x' = (diag(a) - p p^*) x + b u by the bilinear rule, y = 2 Re(c x).

    The products with p^* are over all modes, of which those that are not kept are conjugate.

    Attributes:
      dt: Unit of time of a step.
      a: Of which the real part is negative.
      p: As many as a.
      b: The same.
      c: For each channel.
    """

    dt: Float[Array, " d"]
    a: Planes
    p: Planes
    b: Planes
    c: Planes

    def step(
        self, x: Float[Array, "d s"], u: Float[Array, " d"]
    ) -> tuple[Float[Array, "d s"], Float[Array, " d"]]:
        """Solves for the next state with O(n) operations, by Sherman and Morrison's formula."""
        z, half = _planes(x), 0.5 * self.dt[:, None]
        outer = scale(-half * self._project(z), self.p)
        z = add(add(z, multiply(scale(half, self.a), z)), outer)
        x = self._solve(add(z, scale(2.0 * half * u[:, None], self.b)))
        return x, jnp.sum(x * _readout(self.c), axis=-1)

    def responses(self, q: int) -> Responses:
        """By doubling."""
        inputs, power = self._drive()[:, None], self._matrix()
        readout = _readout(self.c)
        outputs = _einsum("dij,djq->diq", power, readout[..., None])
        while inputs.shape[1] < q:
            inputs = jnp.concatenate([inputs, _einsum("dqi,dij->dqj", inputs, power)], axis=1)
            outputs = jnp.concatenate([outputs, _einsum("dij,djq->diq", power, outputs)], axis=2)
            power = _einsum("dij,djk->dik", power, power)
        return Responses(_einsum("dqs,ds->dq", inputs, readout), inputs, outputs)

    def advance(self, steps: int) -> Advance:
        """By the power of the matrix."""
        power = _power(self._matrix(), steps, functools.partial(_einsum, "dij,djk->dik"))
        return lambda x: _einsum("di,dij->dj", x, power)

    def _matrix(self) -> Float[Array, "d s s"]:
        """A, such that the row x becomes x A."""
        d, s = self.dt.shape[0], 2 * self.a.real.shape[-1]
        none = jnp.zeros(d, jnp.float32)

        def image(unit: Float[Array, " s"]) -> Float[Array, "d s"]:
            return self.step(jnp.broadcast_to(unit, (d, s)), none)[0]

        return jax.vmap(image, out_axes=1)(jnp.eye(s, dtype=jnp.float32))

    def _drive(self) -> Float[Array, "d s"]:
        """B."""
        return self._solve(scale(self.dt[:, None], self.b))

    def _project(self, z: Planes) -> Float[Array, "d 1"]:
        """p^* z, over all modes."""
        return 2.0 * jnp.sum(multiply(conjugate(self.p), z).real, axis=-1, keepdims=True)

    def _solve(self, z: Planes) -> Float[Array, "d s"]:
        """(1 - dt/2 (diag(a) - p p^*))^-1 z."""
        half = 0.5 * self.dt[:, None]
        inverse = _inverse(Planes(1.0 - half * self.a.real, -half * self.a.imag))
        z, p = multiply(inverse, z), multiply(inverse, self.p)
        correction = half * self._project(z) / (1.0 + half * self._project(p))
        return _reals(add(z, scale(-correction, p)))


def run(
    system: System,
    u: Float[Array, "b t d"],
    x: Float[Array, "b d s"],
    *,
    method: Method,
    chunk: int = 128,
) -> tuple[Float[Array, "b t d"], Float[Array, "b d s"]]:
    """Computes x_t = A x_{t-1} + B u_t and y_t = C x_t.

    Args:
      system: A, B and C.
      u: Inputs.
      x: State before the first step.
      method: `chunked` computes chunks of steps by products of matrices, the states between them
        one after the other; `fft` convolves u with the kernel C A^j B; `step` is a loop. They are
        the same up to rounding. One step alone is taken as such by all.
      chunk: Steps of a chunk, a power of two.

    Returns:
      (y of all steps, state after the last one).
    """
    if (part := sharding.time_part()) is None:
        return _run(system, u, x, method, chunk)
    # Linear in the state: the parts run from zero, and once more from the state before them.
    _, from_zero = _run(system, u, jnp.zeros_like(x), method, chunk)
    parts = jax.lax.all_gather(from_zero, sharding.SEQUENCE)
    starts, last = _states_between(system, u.shape[1], x, parts)
    return _run(system, u, starts[part], method, chunk)[0], last


def _run(system, u, x, method, chunk):
    b, t, d = u.shape
    if t == 1:
        x, y = jax.vmap(system.step)(x, u[:, 0])
        return y[:, None], x
    if method == "step":
        x, y = jax.lax.scan(jax.vmap(system.step), x, jnp.swapaxes(u, 0, 1))
        return jnp.swapaxes(y, 0, 1), x
    chunk = min(chunk, 1 << (t - 1).bit_length())
    responses = system.responses(chunk)
    whole = t - t % chunk
    outputs, state = [], x
    for first, steps, size in ((0, whole, chunk), (whole, t - whole, t - whole)):
        if steps:
            chunks = u[:, first : first + steps].reshape(b, -1, size, d)
            y, state = _run_chunks(system, responses, chunks, state)
            outputs.append(y.reshape(b, steps, d))
    if method == "fft":  # Of the chunks, only what the last state needs will be computed.
        drive = responses.inputs[None, :, 0]
        later = _decay(system, responses, drive, t - 1)[0].T
        kernel = jnp.concatenate([responses.kernel[:, :1], later], axis=1)
        return _convolve(u, kernel) + _decay(system, responses, x, t), state
    return jnp.concatenate(outputs, axis=1), state


def _run_chunks(system, responses, u, x):
    """Outputs and last state of chunks u [b, m, q, d]."""
    q = u.shape[2]
    within = _einsum("dpq,bmpd->bmqd", _toeplitz(responses.kernel[:, :q]), u)
    ends = _einsum("dqs,bmqd->mbds", responses.inputs[:, :q][:, ::-1], u)
    starts, last = _states_between(system, q, x, ends)
    return within + _einsum("dsq,mbds->bmqd", responses.outputs[..., :q], starts), last


def _decay(system, responses, x, steps):
    """Outputs [b, steps, d] from a state x without inputs."""
    (b, d, _), q = x.shape, responses.outputs.shape[2]
    chunks = -(-steps // q)
    starts, _ = _states_between(system, q, x, jnp.zeros((chunks, *x.shape), x.dtype))
    y = _einsum("dsq,mbds->bmqd", responses.outputs, starts)
    return y.reshape(b, chunks * q, d)[:, :steps]


def _states_between(system, steps, x, ends):
    """The states before chunks of so many steps, and the last, from what each adds, ends."""
    advance = jax.vmap(system.advance(steps))
    last, starts = jax.lax.scan(lambda x, end: (advance(x) + end, x), x, ends)
    return starts, last


def _convolve(u, kernel):
    """The causal convolution of u [b, t, d] and kernel [d, t], by the Fourier transform."""
    t = u.shape[1]
    size = 1 << (2 * t - 1).bit_length()
    product = jnp.fft.rfft(u, size, axis=1) * jnp.fft.rfft(kernel.T, size, axis=0)[None]
    return jnp.fft.irfft(product, size, axis=1)[:, :t]


def _toeplitz(kernel):
    """The matrix [d, p, q] with kernel[q - p] for p <= q and 0 elsewhere; without a gather."""
    d, q = kernel.shape
    row = jnp.concatenate([kernel, jnp.zeros_like(kernel)], axis=1)
    rows = jnp.tile(row, (1, q))[:, : q * (2 * q - 1)]
    return rows.reshape(d, q, 2 * q - 1)[..., :q]


def _power(base, exponent, product):
    """base^exponent for an exponent of at least 1, by squaring."""
    power = None
    while True:
        if exponent % 2:
            power = base if power is None else product(power, base)
        if not (exponent := exponent // 2):
            return power
        base = product(base, base)


def _planes(x):
    return Planes(*jnp.split(x, 2, axis=-1))


def _reals(z):
    return jnp.concatenate(list(z), axis=-1)


def _readout(c):
    """The row by which a state of reals is multiplied for 2 Re(c x)."""
    return 2.0 * _reals(conjugate(c))


def _inverse(z):
    return scale(1.0 / (z.real**2 + z.imag**2), conjugate(z))
