import pytest

from poolformer_jax.classifier.plateau import Plateau


@pytest.mark.parametrize(
    ("patience", "losses", "reductions"),
    [
        (0, [1.0, 0.9, 0.95, 0.91, 0.8, 0.8], [0, 0, 1, 2, 2, 3]),
        (2, [1.0, 1.1, 1.0, 1.2, 1.2, 0.9, *[1.0] * 6], [0, 0, 0, 1, 1, 1, 1, 1, 2, 2, 2, 3]),
        # Lower by less than a ten-thousandth is not lower.
        (0, [1.0, 0.99995, 0.9998], [0, 1, 1]),
        (1, [float("inf"), float("inf"), 5.0], [0, 1, 1]),
    ],
)
def test_rate_falls_after_the_patience(patience, losses, reductions):
    """Tables written by hand."""
    plateau, found = Plateau(), []
    for loss in losses:
        plateau = plateau.after(loss, patience=patience)
        found.append(plateau.reductions)
    assert found == reductions
