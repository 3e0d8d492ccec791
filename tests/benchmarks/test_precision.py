import pytest

from benchmarks import precision
from poolformer_jax.experiment.named import named_config


@pytest.mark.slow
def test_both_types_are_trained_and_drawn(tiny, tables_of, monkeypatch, tmp_path, digits_dir):
    del named_config
