"""Linear time-invariant state spaces, one for each channel: x_t = A x_{t-1} + B u_t, y_t = C x_t.

A state has n modes, one of each conjugate pair, as s = 2 n real numbers: first the real parts, then
the imaginary ones. Everything is computed in float32.

Source: Gu et al. 2022, arXiv:2111.00396 (S4); Gu et al. 2022, arXiv:2206.11893 (S4D).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jax import Array
from jaxtyping import Float

from poolformer_jax import sharding
from poolformer_jax.ops.phasor import phasor
from poolformer_jax.ops.planes import add, conjugate, multiply, real_product, scale
from poolformer_jax.typing import Planes

Method = Literal["chunked", "fft", "step"]
Advance = Callable[[Float[Array, "d s"]], Float[Array, "d s"]]

_matmul = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
_einsum = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)


class Responses(NamedTuple):
    """What a system does within q steps.

    Attributes:
      kernel: C A^j B, for each j < q.
      inputs: A^j B.
      outputs: C A^(j+1).
      advance: The map from x to A^q x.
    """

    kernel: Float[Array, "d q"]
    inputs: Float[Array, "d q s"]
    outputs: Float[Array, "d s q"]
    advance: Advance


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
        growth, drive = self._discrete()
        z = add(_grown(growth, _planes(x)), scale(u[:, None], drive))
        return _reals(z), jnp.sum(real_product(self.c, z), axis=-1)

    def responses(self, q: int) -> Responses:
        """By doubling."""
        growth, drive = jax.tree.map(lambda plane: plane[:, None], self._discrete())
        c = jax.tree.map(lambda plane: plane[:, None], self.c)
        inputs, outputs = drive, _grown(growth, c)
        while inputs.real.shape[1] < q:
            inputs, outputs = (
                jax.tree.map(lambda *planes: jnp.concatenate(planes, 1), x, _grown(growth, x))
                for x in (inputs, outputs)
            )
            growth = _compose(growth, growth)
        kernel = jnp.sum(real_product(c, inputs), axis=-1)
        outputs = jnp.swapaxes(_readout(outputs), 1, 2)
        growth = jax.tree.map(lambda plane: plane[:, 0], growth)
        return Responses(kernel, _reals(inputs), outputs, _advance_modes(growth))

    def advance(self, steps: int) -> Advance:
        """By the power of each mode."""
        return _advance_modes(_power(self._discrete()[0], steps, _compose))

    def _discrete(self) -> tuple[Planes, Planes]:
        """exp(dt a) - 1 without cancellation, and b (exp(dt a) - 1) / a, both [d, n]."""
        log, phase = self.dt[:, None] * self.a.real, self.dt[:, None] * self.a.imag
        turn, half = phasor(phase), phasor(0.5 * phase)
        growth = Planes(jnp.expm1(log) * turn.real - 2.0 * half.imag**2, jnp.exp(log) * turn.imag)
        return growth, multiply(multiply(self.b, growth), _inverse(self.a))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankSystem:
    """S4: x' = (diag(a) - p p^*) x + b u by the bilinear rule, y = 2 Re(c x).

    The products with p^* are over all modes, of which those that are not kept are conjugate.

    Attributes:
      dt: Unit of time of a step.
      a: Of which the real part is negative.
      p: As many as a.
      b: The same.
      c: For each channel.
      in_loops: Whether powers of the matrices are taken in loops: much less to compile, of which a
        TPU's compiler takes seconds for each product in full float32, but slow on a CPU.
    """

    dt: Float[Array, " d"]
    a: Planes
    p: Planes
    b: Planes
    c: Planes
    in_loops: bool = dataclasses.field(default=False, metadata={"static": True})

    def step(
        self, x: Float[Array, "d s"], u: Float[Array, " d"]
    ) -> tuple[Float[Array, "d s"], Float[Array, " d"]]:
        """Solves for the next state with O(n) operations, by Sherman and Morrison's formula."""
        z, dt = _planes(x), self.dt[:, None]
        slope = add(self._slope(z), scale(u[:, None], self.b))
        z = add(z, self._solve(scale(dt, slope)))
        return _reals(z), jnp.sum(real_product(self.c, z), axis=-1)

    def responses(self, q: int) -> Responses:
        """By doubling; in loops by the powers below r, the root of q, and those of the r-th."""
        growth, readout = self._growth(), _readout(self.c)[..., None]
        inputs = _reals(self._solve(scale(self.dt[:, None], self.b)))[:, None]
        outputs = _grown_columns(growth, readout)
        if self.in_loops:
            r = 1 << (q.bit_length() // 2)
            outputs = jnp.swapaxes(outputs, 1, 2)  # Rows: a column alone would fill 128 lanes.
            for count in (r, q // r):
                transpose = jnp.swapaxes(growth, 1, 2)
                inputs = _iterates(functools.partial(_grown_rows, growth), inputs, count)
                outputs = _iterates(functools.partial(_grown_rows, transpose), outputs, count)
                growth = _power(growth, count, _compose_matrices, in_loop=True)
            outputs = jnp.swapaxes(outputs, 1, 2)
        else:
            while inputs.shape[1] < q:
                inputs = jnp.concatenate([inputs, _grown_rows(growth, inputs)], axis=1)
                outputs = jnp.concatenate([outputs, _grown_columns(growth, outputs)], axis=2)
                growth = _compose_matrices(growth, growth)
        kernel = _matmul(inputs, readout)[..., 0]
        return Responses(kernel, inputs, outputs, _advance_by_matrix(growth))

    def advance(self, steps: int) -> Advance:
        """By the power of the matrix."""
        growth = _power(self._growth(), steps, _compose_matrices, self.in_loops)
        return _advance_by_matrix(growth)

    def _growth(self) -> Float[Array, "d s s"]:
        """A - 1, such that the row x becomes x A: what dt makes small is not added to 1."""
        s = 2 * self.a.real.shape[-1]

        def image(unit: Float[Array, "1 s"]) -> Float[Array, "d s"]:
            slope = self._slope(_planes(unit))
            return _reals(self._solve(scale(self.dt[:, None], slope)))

        return jax.vmap(image, out_axes=1)(jnp.eye(s, dtype=jnp.float32)[:, None])

    def _slope(self, z: Planes) -> Planes:
        """The derivative without input."""
        return add(multiply(self.a, z), scale(-self._project(z), self.p))

    def _project(self, z: Planes) -> Float[Array, "d 1"]:
        """p^* z, over all modes."""
        return jnp.sum(real_product(conjugate(self.p), z), axis=-1, keepdims=True)

    def _solve(self, z: Planes) -> Planes:
        """(1 - dt/2 (diag(a) - p p^*))^-1 z."""
        half = 0.5 * self.dt[:, None]
        inverse = _inverse(Planes(1.0 - half * self.a.real, -half * self.a.imag))
        z, p = multiply(inverse, z), multiply(inverse, self.p)
        correction = half * self._project(z) / (1.0 + half * self._project(p))
        return add(z, scale(-correction, p))


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
        return _run_rows(system, u, x, method, chunk)
    # Linear in the state: the parts run from zero, and once more from the state before them.
    _, from_zero = _run_rows(system, u, jnp.zeros_like(x), method, chunk)
    parts = jax.lax.all_gather(from_zero, sharding.SEQUENCE)
    starts, last = _states_between(system.advance(u.shape[1]), x, parts)
    return _run_rows(system, u, starts[part], method, chunk)[0], last


def _run_rows(system, u, x, method, chunk):
    """Every device with its own clips: what they exchange is the gradient of the system alone.

    The compiler would add up that of the responses, a hundred times as much, and gather the batch
    for a Fourier transform.
    """

    def run_own(rows, system):
        u, x = rows
        return _run(system, u, x, method, chunk)

    return sharding.map_batch(run_own, (u, x), system)


def _run(system, u, x, method, chunk):
    t = u.shape[1]
    if t == 1:
        x, y = jax.vmap(system.step)(x, u[:, 0])
        return y[:, None], x
    if method == "step":
        x, y = jax.lax.scan(jax.vmap(system.step), x, jnp.swapaxes(u, 0, 1))
        return jnp.swapaxes(y, 0, 1), x
    responses = system.responses(min(chunk, 1 << (t - 1).bit_length()))
    y, state = _run_chunks(system, responses, u, x)
    if method == "fft":  # Of the chunks, only what the last state needs will be computed.
        drive = responses.inputs[None, :, 0]
        later = _decay(responses, drive, t - 1)[0].T
        kernel = jnp.concatenate([responses.kernel[:, :1], later], axis=1)
        return _convolve(u, kernel) + _decay(responses, x, t), state
    return y, state


def _run_chunks(system, responses, u, x):
    """Outputs and last state of u [b, t, d] in chunks of one size, the last one filled with zeros.

    A shorter one would need products of its own, which take as long to compile again.
    """
    b, t, d = u.shape
    q = min(t, responses.kernel.shape[1])
    m = -(-t // q)
    rest = t - (m - 1) * q
    chunks = jnp.pad(u, ((0, 0), (0, m * q - t), (0, 0))).reshape(b, m, q, d)
    inputs = responses.inputs[:, :q][:, ::-1]
    within = _einsum("dpq,bmpd->bmqd", _toeplitz(responses.kernel[:, :q]), chunks)
    ends = _einsum("dqs,bmqd->mbds", inputs, chunks)
    starts, last = _states_between(responses.advance, x, ends)
    y = within + _einsum("dsq,mbds->bmqd", responses.outputs[..., :q], starts)
    if rest < responses.kernel.shape[1]:  # Zeros would carry the state on, past the last step.
        end = _einsum("dqs,bqd->bds", inputs[:, q - rest :], u[:, t - rest :])
        last = jax.vmap(system.advance(rest))(starts[-1]) + end
    return y.reshape(b, m * q, d)[:, :t], last


def _decay(responses, x, steps):
    """Outputs [b, steps, d] from a state x without inputs."""
    (b, d, _), q = x.shape, responses.outputs.shape[2]
    chunks = -(-steps // q)
    starts, _ = _states_between(responses.advance, x, jnp.zeros((chunks, *x.shape), x.dtype))
    y = _einsum("dsq,mbds->bmqd", responses.outputs, starts)
    return y.reshape(b, chunks * q, d)[:, :steps]


def _states_between(advance, x, ends):
    """The states before chunks, and the last, from what each adds, ends."""
    advance = jax.vmap(advance)
    before, starts = jax.lax.scan(lambda x, end: (advance(x) + end, x), x, ends[:-1])
    # Outside the loop, the last state is not computed where nobody asks for it, as in training.
    return jnp.concatenate([starts, before[None]]), advance(before) + ends[-1]


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


def _advance_modes(growth):
    return lambda x: _reals(_grown(growth, _planes(x)))


def _advance_by_matrix(growth):
    return lambda x: _grown_rows(growth, x[:, None])[:, 0]


def _grown(growth, z):
    """(1 + growth) z, of a diagonal."""
    return add(z, multiply(growth, z))


def _grown_rows(growth, rows):
    """Rows times 1 + growth, a matrix."""
    return rows + _matmul(rows, growth)


def _grown_columns(growth, columns):
    """1 + growth times columns."""
    return columns + _matmul(growth, columns)


def _iterates(function, rows, count):
    """Rows, function(rows), function(function(rows)) and so on, so many, after each other."""
    _, iterates = jax.lax.scan(lambda x, _: (function(x), x), rows, length=count)
    return jnp.moveaxis(iterates, 0, 1).reshape(len(rows), -1, rows.shape[-1])


def _compose(first, second):
    """(1 + first) (1 + second) - 1. Powers in this form keep the digits of a slow decay."""
    return add(first, _grown(first, second))


def _compose_matrices(first, second):
    """The same of matrices."""
    return first + (second + _matmul(first, second))


def _power(base, exponent, product, in_loop=False):
    """base^exponent for an exponent of at least 1, by squaring."""
    power, bits = base, f"{exponent:b}"[1:]
    if in_loop and "1" not in bits:
        return jax.lax.scan(lambda x, _: (product(x, x), None), base, length=len(bits))[0]
    for bit in bits:
        power = product(power, power)
        if bit == "1":
            power = product(power, base)
    return power


def _planes(x):
    return Planes(*jnp.split(x, 2, axis=-1))


def _reals(z):
    return jnp.concatenate(list(z), axis=-1)


def _readout(c):
    """The row by which a state of reals is multiplied for 2 Re(c x)."""
    return 2.0 * _reals(conjugate(c))


def _inverse(z):
    return scale(1.0 / (z.real**2 + z.imag**2), conjugate(z))
