"""A power law L = E + A x^-alpha through a few points, and how far they pin it down."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
from jaxtyping import Bool, Float64
from scipy.special import stdtrit

MIN_VALUES = 3
"""Different x that a law is fitted to; two points lie on many laws."""

MIN_VALUES_WITH_FLOOR = 5
"""Different x from which on the floor E is fitted too; with fewer it is 0."""

# Exponents that are tried, 0.2 % apart: from a fall of 1 % over four decades, to a cliff.
_EXPONENTS = np.geomspace(1e-3, 10, 4001)

# Values closer than this are the same: runs of one size, but for a head or a label.
_SAME = 0.05


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """L = floor + scale x^-exponent.

    Attributes:
      floor: E, at least 0: the loss that is left however large x.
      scale: A.
      exponent: alpha.
      exponent_interval: The exponents that fit about as well. 0 and infinity are the ends of what
        is tried.
      floor_interval: The same for the floor; None if the floor was not fitted, but set to 0.
      confidence: Of the intervals.
      num_points: Of the fit.
      residual: Standard deviation of the points about the law, with the degrees of freedom.
    """

    floor: float
    scale: float
    exponent: float
    exponent_interval: tuple[float, float]
    floor_interval: tuple[float, float] | None
    confidence: float
    num_points: int
    residual: float

    def __call__(self, x: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
        """The loss at x."""
        return self.floor + self.scale * x**-self.exponent

    @property
    def caveats(self) -> list[str]:
        """What the points do not show, in sentences."""
        said = []
        low, high = self.exponent_interval
        if low == 0:
            said.append("The exponent's interval reaches 0: that the loss falls is not shown.")
        if high == math.inf:
            said.append("The exponent's interval has no end: how steeply it falls is not shown.")
        if self.floor_interval is None:
            said.append(
                f"The floor is set to 0, since fewer than {MIN_VALUES_WITH_FLOOR} different values "
                "do not tell it; what is above a floor has a larger exponent."
            )
        elif self.floor_interval[0] == 0:
            said.append("The floor's interval reaches 0: that there is one is not shown.")
        if self.num_points - self._num_parameters == 1:
            said.append("The intervals rest on a single degree of freedom.")
        return said

    @property
    def _num_parameters(self) -> int:
        return 2 if self.floor_interval is None else 3


def num_different(x: Float64[np.ndarray, " n"]) -> int:
    """How many values there are, counting those within 5 % of the next as one."""
    return 1 + int(np.count_nonzero(np.diff(np.sort(np.log(x))) > _SAME)) if len(x) else 0


def fit_power_law(
    x: Float64[np.ndarray, " n"], loss: Float64[np.ndarray, " n"], *, confidence: float = 0.95
) -> PowerLaw:
    """Fits by least squares, E and A being at least 0, and E being 0 for fewer than five x.

    For a given exponent the law is linear, so that exponents are tried one by one. The intervals
    are those of the profile likelihood, for equal and independent normal errors of unknown size:
    all values whose sum of squares, the rest being fitted, is at most 1 + t^2 / (n - p) times the
    least, where t is Student's quantile for the n - p degrees of freedom that p parameters leave.
    Errors that the points share, and a true curve that is no power law, are not in them.

    Args:
      x: Positive, such as numbers of parameters.
      loss: At x.
      confidence: Of the intervals, 0 to 1.

    Raises:
      ValueError: If fewer than three values are different.

    Source: Bates & Watts 1988, Nonlinear Regression Analysis and Its Applications, chapter 6.
    """
    if (different := num_different(x)) < MIN_VALUES:
        raise ValueError(f"{different} different values; a law needs at least {MIN_VALUES}")
    has_floor = different >= MIN_VALUES_WITH_FLOOR
    centre = float(np.exp(np.log(x).mean()))
    z = (x / centre) ** -_EXPONENTS[:, None]
    floors, scales = _fit_linear(z, loss, has_floor=has_floor)
    squares = np.sum((loss - floors[:, None] - scales[:, None] * z) ** 2, axis=1)
    best = int(squares.argmin())
    freedom = len(x) - (3 if has_floor else 2)
    limit = squares[best] * (1 + stdtrit(freedom, (1 + confidence) / 2) ** 2 / freedom)
    accepted = squares <= limit
    exponent = float(_EXPONENTS[best])
    return PowerLaw(
        floor=float(floors[best]),
        scale=float(scales[best] * centre**exponent),
        exponent=exponent,
        exponent_interval=_ends(accepted),
        floor_interval=_floor_interval(z[accepted], loss, limit) if has_floor else None,
        confidence=confidence,
        num_points=len(x),
        residual=math.sqrt(squares[best] / freedom),
    )


def _fit_linear(
    z: Float64[np.ndarray, "m n"], loss: Float64[np.ndarray, " n"], *, has_floor: bool
) -> tuple[Float64[np.ndarray, " m"], Float64[np.ndarray, " m"]]:
    """Least squares of loss = floor + scale z, neither below 0, for each row of z."""
    without = (z @ loss) / np.sum(z * z, axis=1)
    if not has_floor:
        return np.zeros(len(z)), without
    centred = z - z.mean(axis=1, keepdims=True)
    scales = (centred @ loss) / np.sum(centred**2, axis=1)
    floors = loss.mean() - scales * z.mean(axis=1)
    rises, below = scales < 0, floors < 0
    floors = np.where(rises, loss.mean(), np.where(below, 0.0, floors))
    return floors, np.where(rises, 0.0, np.where(below, without, scales))


def _ends(accepted: Bool[np.ndarray, " m"]) -> tuple[float, float]:
    """The exponents around those that are accepted."""
    first, last = np.flatnonzero(accepted)[[0, -1]]
    low = 0.0 if first == 0 else float(_EXPONENTS[first - 1])
    high = math.inf if last == len(accepted) - 1 else float(_EXPONENTS[last + 1])
    return low, high


def _floor_interval(
    z: Float64[np.ndarray, "m n"], loss: Float64[np.ndarray, " n"], limit: float
) -> tuple[float, float]:
    """All floors, at least 0, that one of the accepted exponents has with a tolerable sum.

    With the scale fitted, the sum of squares is a parabola of the floor. Above some floor the scale
    would be negative; it is 0 there, and the law a constant.
    """
    centred = z - z.mean(axis=1, keepdims=True)
    spread = np.sum(centred**2, axis=1)
    scales = (centred @ loss) / spread
    floors = loss.mean() - scales * z.mean(axis=1)
    squares = np.sum((loss - floors[:, None] - scales[:, None] * z) ** 2, axis=1)
    # d^2 squares / d floor^2 / 2, the scale following.
    curvature = z.shape[1] * spread / np.sum(z * z, axis=1)
    reach = np.sqrt(np.maximum(limit - squares, 0) / curvature)
    high = np.minimum(floors + reach, (z @ loss) / z.sum(axis=1)).max()
    spare = limit - np.sum((loss - loss.mean()) ** 2)
    if spare >= 0:
        high = max(high, loss.mean() + math.sqrt(spare / len(loss)))
    return max(0.0, float((floors - reach).min())), float(high)
