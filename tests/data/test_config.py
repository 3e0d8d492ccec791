import subprocess
import sys

import pytest

from poolformer_jax.data.config import DataConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"name": "digit"},
            "'digit'; known: digits, digits_tiny, digits_steady, digits_pitches, fsdd, sc09",
        ),
        ({"seq_len": 0}, "seq_len 0 must be at least 1"),
        ({"seq_len": 2_000_000_000}, "seq_len 2000000000 must be at most 1,382,400,000"),
        ({"train_len": 16_001}, "train_len 16001 must be None, or in 1 to seq_len 16000"),
        ({"train_len": 0}, "train_len 0 must be None, or in 1"),
        ({"partial": True}, "partial is for published archives; 'digits' is always whole"),
        ({"data_dir": "gs:/bucket/x"}, "'gs:/bucket/x' is neither a path nor a bucket; .*gs://buc"),
        ({"data_dir": "https://x.org/y"}, "neither a path nor a bucket"),
        ({"data_dir": "gs://"}, "neither a path nor a bucket"),
        ({"data_dir": ""}, "data_dir .* got ''"),
        ({"eval_clips": 0}, "eval_clips 0 must be at least 1, or None for all"),
        ({"seed": -1}, "seed -1 must be in 0 to"),
        ({"build_seed": 2**31}, "build_seed 2147483648 must be at most 2,147,483,647"),
    ],
)
def test_bad_values_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("codec", "mulaw", "codec is 'mulaw'; it must be 'mu_law' or 'linear' or 'pcm16'"),
        ("normalize", "yes", "normalize is 'yes'; it must be bool"),
        ("seq_len", 1.5, "seq_len is 1.5; it must be int"),
        ("crop", "end", "crop is 'end'; it must be 'start' or 'random'"),
    ],
)
def test_values_of_a_wrong_type_are_named(field, value, message):
    # Past the constructor, whose types the import hook checks here.
    config = DataConfig()
    object.__setattr__(config, field, value)
    with pytest.raises(ValueError, match=message):
        config.__post_init__()


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
