import pytest

from poolformer_jax.data.config import DataConfig


@pytest.fixture(scope="session")
def tiny_config(tmp_path_factory):
    """A configuration of 80 / 20 / 20 spoken digits, built once per session."""
    pytest.importorskip("espeakng_loader")
    from poolformer_jax.data.builders.prepare import open_split

    config = DataConfig(name="digits_tiny", data_dir=str(tmp_path_factory.mktemp("data")))
    open_split(config, "train")
    return config
