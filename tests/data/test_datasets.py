import pytest

from poolformer_jax.data.builders.prepare import relative_folder
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.datasets import DATASETS, SAMPLE_RATE
from poolformer_jax.experiment import named_config


def test_every_data_set_has_a_folder_of_its_own():
    folders = {name: relative_folder(DataConfig(name=name)) for name in DATASETS}
    assert len({*folders.values()}) == len(DATASETS)
    for name, folder in folders.items():
        assert folder.startswith(f"{name.split('_')[0]}/")


@pytest.mark.parametrize("name", DATASETS)
def test_builder_agrees_with_the_table(name, tmp_path):
    dataset, config = DATASETS[name], DataConfig(name=name)
    builder = dataset.load_builder()
    features = builder(data_dir=tmp_path, config=builder.recipe(config)).info.features
    classes = features["label"].num_classes if "label" in features else 0
    assert classes == dataset.num_classes
    assert f"at {dataset.sample_rate} Hz" in features["audio"].doc.desc
    assert dataset.sample_rate == SAMPLE_RATE  # Other rates are not supported yet.
    assert hasattr(builder, "find_archive") == dataset.has_archive


def test_configurations_take_the_published_codec():
    for name in DATASETS.keys() - {"digits_tiny"}:
        config = named_config(name)
        assert config.data.name == name
        assert config.data.codec == DATASETS[name].codec
