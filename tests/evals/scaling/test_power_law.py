import math

import numpy as np
import pytest

from poolformer_jax.evals.scaling.power_law import fit_power_law, num_different


@pytest.mark.parametrize(
    ("n", "floor", "scale", "exponent"),
    [(3, 0.0, 3.0, 0.05), (4, 0.0, 9.0, 0.4), (5, 1.8, 2.0, 0.07), (8, 1.5, 50.0, 0.3)],
)
def test_exact_points_give_their_law(n, floor, scale, exponent):
    x = np.geomspace(1e6, 4e8, n)
    loss = floor + scale * x**-exponent
    law = fit_power_law(x, loss)
    # Exponents are tried 0.23 % apart.
    assert law.exponent == pytest.approx(exponent, rel=0.0025)
    assert law.exponent_interval[0] <= exponent <= law.exponent_interval[1]
    assert law.floor == pytest.approx(floor, abs=0.01)
    np.testing.assert_allclose(law(x), loss, rtol=1e-3)
    assert (law.floor_interval is None) == (n < 5)


@pytest.mark.parametrize(("n", "floor", "noise"), [(4, 0.0, 0.02), (5, 1.5, 0.005), (9, 1.7, 0.02)])
def test_intervals_cover_the_truth_as_often_as_they_say(n, floor, noise):
    rng, x = np.random.default_rng(0), np.geomspace(1e6, 4e8, n)
    exponent = 0.3 if floor else 0.05
    truth = floor + (0.8 if floor else 4.0) * (x / 1e6) ** -exponent
    laws = [fit_power_law(x, truth + rng.normal(0, noise, n), confidence=0.9) for _ in range(300)]
    intervals = np.array([law.exponent_interval for law in laws])
    covered = np.mean((intervals[:, 0] <= exponent) & (exponent <= intervals[:, 1]))
    # Three standard errors of a share of 300.
    assert covered == pytest.approx(0.9, abs=3 * math.sqrt(0.9 * 0.1 / 300))
    if floor:
        inside = [law.floor_interval[0] <= floor <= law.floor_interval[1] for law in laws]
        assert np.mean(inside) == pytest.approx(0.9, abs=3 * math.sqrt(0.9 * 0.1 / 300))


def test_the_unit_of_x_changes_the_scale_alone():
    x, loss = np.geomspace(1, 100, 6), np.array([5.0, 4.1, 3.7, 3.2, 3.1, 3.0])
    law, in_thousands = fit_power_law(x, loss), fit_power_law(1000 * x, loss)
    assert in_thousands.exponent == law.exponent
    assert in_thousands.floor_interval == pytest.approx(law.floor_interval)
    np.testing.assert_allclose(in_thousands(1000 * x), law(x))


def test_what_the_points_do_not_show_is_said():
    x, rng = np.geomspace(1e6, 1e8, 5), np.random.default_rng(1)
    flat = fit_power_law(x, 2 + rng.normal(0, 0.1, 5))
    assert flat.exponent_interval[0] == 0
    assert any("that the loss falls is not shown" in caveat for caveat in flat.caveats)
    rising = fit_power_law(x, np.linspace(2, 3, 5))
    assert rising.scale == 0 and rising.floor == pytest.approx(2.5)
    cliff = fit_power_law(x, np.array([9.0, 2.1, 2.0, 1.9, 2.0]))
    assert cliff.exponent_interval[1] == math.inf
    assert any("how steeply it falls is not shown" in caveat for caveat in cliff.caveats)
    straight = fit_power_law(x, 3 * x**-0.1 + 1e-3 * np.array([1, -1, 0, 1, -1]))
    assert straight.floor_interval[0] == 0
    assert "The floor's interval reaches 0: that there is one is not shown." in straight.caveats
    three = fit_power_law(x[:3], 3 * x[:3] ** -0.1)
    assert [caveat[:42] for caveat in three.caveats] == [
        "The floor is set to 0, since fewer than 5 ",
        "The intervals rest on a single degree of f",
    ]
    # A fall that is plain and exact leaves nothing to say but what was fitted.
    assert not fit_power_law(np.geomspace(1, 1e6, 9), 1 + np.geomspace(1, 1e6, 9) ** -0.5).caveats


def test_fewer_than_three_sizes_have_no_law():
    assert num_different(np.array([1e6, 1.04e6, 7e6])) == 2
    with pytest.raises(ValueError, match="2 different values; a law needs at least 3"):
        fit_power_law(np.array([1e6, 1.04e6, 7e6]), np.array([2.0, 2.0, 1.9]))
