import jax
import pytest


@pytest.fixture(scope="module")
def quick_compilation():
    """Compiles with few optimisations: the many tiny programs of a test run once each."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
