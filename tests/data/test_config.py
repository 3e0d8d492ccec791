import subprocess
import sys

import pytest

from poolformer_jax.data.config import DATASETS, DataConfig


@pytest.mark.parametrize("name", DATASETS)
def test_known_names_are_accepted(name):
    assert DataConfig(name=name).name == name


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": "digit"}, "'digit'; known: digits, digits_tiny, fsdd, sc09"),
        ({"seq_len": 0}, "seq_len .* got 0"),
        ({"partial": True}, "partial is for published archives; 'digits' is always whole"),
        ({"data_dir": "gs:/bucket/x"}, "'gs:/bucket/x' is neither a path nor a bucket; .*gs://buc"),
        ({"data_dir": "https://x.org/y"}, "neither a path nor a bucket"),
        ({"data_dir": "gs://"}, "neither a path nor a bucket"),
        ({"data_dir": ""}, "data_dir .* got ''"),
        ({"seed": -1}, "seed .* got -1"),
        ({"build_seed": 2**31}, "build_seed .* got 2147483648"),
    ],
)
def test_bad_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)


def test_values_of_a_wrong_type_are_named():
    # In a process of its own: here the import hook would refuse them first, as type errors.
    code = """
from poolformer_jax.data.config import DATASETS, DataConfig
for fields in ({"codec": "mulaw"}, {"normalize": "yes"}, {"seq_len": 1.5}, {"crop": "end"}):
    try:
        DataConfig(**fields)
    except ValueError as error:
        print(error)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines() == [
        "unknown codec 'mulaw'; known: mu_law, linear, pcm16",
        "normalize must be True or False, got 'yes'",
        "seq_len must be a positive whole number of samples, got 1.5; one second is 16000",
        "unknown crop 'end'; known: start, random",
    ], result


@pytest.mark.parametrize("data_dir", ["gs://bucket", "s3://b/c", "/data", "data", "~/d:x/y"])
def test_paths_and_buckets_are_accepted(data_dir):
    assert DataConfig(data_dir=data_dir).data_dir == data_dir


def test_misspelt_field_is_refused():
    with pytest.raises(TypeError, match="seqlen"):
        DataConfig(seqlen=16_000)


def test_import_is_light():
    # The launcher refuses a bad configuration before it loads anything that takes seconds.
    code = (
        "import sys, poolformer_jax.data.config; "
        "print({'jax', 'scipy', 'grain', 'tensorflow_datasets'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "set()", result
