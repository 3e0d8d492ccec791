import dataclasses

import pytest

from poolformer_jax.layers.config import EXECUTION_FIELDS
from poolformer_jax.layers.mixer_config import LRUConfig, RGLRUConfig
from poolformer_jax.models.config import check_length
from poolformer_jax.models.poolformer.config import PoolformerConfig
from poolformer_jax.models.sequence_model import count_params


def build(config_type=PoolformerConfig, **options):
    """A configuration, validated by itself: the tests' type checks would refuse types first."""
    config = config_type()
    for name, value in options.items():
        object.__setattr__(config, name, value)
    config.__post_init__()
    return config


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 0}, r"width 0 must be at least 1"),
        ({"initial_code": 256}, r"initial_code 256 .* num_codes is 256; choose 0 to 255"),
        ({"pool_factors": (2, 1, 4, 5)}, r"pool_factors \(2, 1, 4, 5\) .*leave a factor of 1 out"),
        ({"layers": (4, 4)}, r"layers \(4, 4\) has 2 entries for 4 pool_factors .*; give 5"),
        ({"layers": (4, 4, -1, 4, 4)}, r"layers \(4, 4, -1, 4, 4\) must not be negative"),
        ({"width": 127}, r"width 127 must be even .*use 128 or embedding='table'"),
        (
            {"pool_groups": 48},
            r"width 128 is not a multiple of pool_groups 48; use a divisor of 128, or None",
        ),
        ({"pool_groups": 0}, r"pool_groups 0 must be at least 1"),
        ({"dropout": 1.0}, r"dropout 1.0 must be in \[0, 1\)"),
        ({"mixer": "lru"}, r"mixer is 'lru'; it must be MixerConfig"),
        ({"dropout": float("nan")}, r"dropout is nan; it must be finite"),
        ({"width": "128"}, r"width is '128'; it must be int"),
        ({"width": 128.0}, r"width is 128.0; it must be int"),
        ({"gating": 1}, r"gating is 1; it must be bool"),
        ({"layers": 4}, r"layers is 4; it must be a tuple of integers"),
        ({"layers": (4, 4, 4, 4, 4.0)}, r"it must be a tuple of integers"),
        ({"pool_groups": "all"}, r"pool_groups is 'all'; it must be int or None"),
        ({"norm": "batch"}, r"norm is 'batch'; it must be 'layer_norm' or .* or 'none'"),
        ({"scan": "parallel"}, r"scan is 'parallel'; it must be .*'auto'"),
        (
            {"scan": "fused", "platform": "gpu"},
            r"'fused' is a kernel for .*'tpu'.*'gpu'; use",
        ),
        ({"dtype": "float16"}, r"dtype is 'float16'; it must be 'float32' or 'bfloat16'"),
    ],
)
def test_a_bad_value_is_named_with_a_fix(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("kind", [RGLRUConfig, LRUConfig])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recurrent_width": 0}, r"recurrent_width 0 must be at least 1"),
        ({"recurrent_width": 63}, r"recurrent_width 63 is not a multiple of (2|64) "),
        ({"complex": 1}, r"complex is 1; it must be bool"),
        ({"max_phase": 7.0}, r"max_phase 7.0 must be in \(0, 2 pi\]"),
    ],
)
def test_a_bad_value_of_a_recurrence_is_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        build(kind, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_gate_blocks": 0}, r"num_gate_blocks 0 must be at least 1"),
        ({"decay_exponent": 0.0}, r"decay_exponent 0.0 must be positive"),
        (
            {"recurrent_width": 100},
            r"recurrent_width 100 is not a multiple of 64 \(2 x num_gate_blocks 32\); use 128",
        ),
        (
            {"recurrent_width": 80, "complex": False},
            r"recurrent_width 80 is not a multiple of 32 \(num_gate_blocks 32\); use (64|96)",
        ),
    ],
)
def test_a_bad_value_of_the_gates_is_named_with_a_fix(options, message):
    with pytest.raises(ValueError, match=message):
        build(RGLRUConfig, **options)


def test_misspelt_names_are_refused():
    with pytest.raises(TypeError, match="widht"):
        PoolformerConfig(widht=128)


def test_values_from_files_become_the_annotated_types():
    config = build(pool_factors=[2, 2], layers=[1, 1, 1], dropout=0)
    assert config.pool_factors == (2, 2) and config.layers == (1, 1, 1)
    assert isinstance(config.dropout, float)
    assert isinstance(build(RGLRUConfig, max_phase=1).max_phase, float)
    assert hash(config) == hash(dataclasses.replace(config, dropout=0.0))


@pytest.mark.parametrize(("length", "padded"), [(16001, 16160), (1, 160), (0, 160), (-5, 160)])
def test_lengths_must_be_multiples_of_the_total_factor(length, padded):
    message = rf"sequence length {length} .* of 160, the .*; use .*{padded}"
    with pytest.raises(ValueError, match=message):
        check_length(PoolformerConfig(), length)
    check_length(PoolformerConfig(), padded)


def test_execution_fields_exist():
    assert {field.name for field in dataclasses.fields(PoolformerConfig)} > EXECUTION_FIELDS


def formula(config):
    """The number of parameters, by hand."""

    def dense(inputs, outputs):
        return inputs * outputs + outputs

    def layer(d, e):
        channels = e // 2 if config.mixer.complex else e
        norm = {"layer_norm": 2 * d, "rms_norm": d, "none": 0}[config.norm]
        lru = dense(d, e) + channels + dense(e, d)
        lru += channels if config.mixer.complex else 0
        if config.mixer.kind == "rg_lru":
            n = config.mixer.num_gate_blocks
            lru += 2 * (n * (e // n) * (channels // n) + channels)
        mixer = norm + lru + dense(d, d) + (dense(d, d) if config.gating else 0)
        if config.temporal_convolution:
            mixer += 3 * d * d + d + 2 * d
        inner = config.mlp_expansion * d
        return mixer + norm + dense(d, inner) * (2 if config.gating else 1) + dense(inner, d)

    total = {
        "sinusoidal": 0,
        "table": config.num_codes * config.width,
        "mlp": 2 * config.width,
    }[config.embedding]
    for level, layers in enumerate(config.layers):
        growth = config.width_growth**level
        d, e = config.width * growth, config.mixer.recurrent_width * growth
        if level < len(config.pool_factors):
            inner = d * config.width_growth
            groups = config.pool_groups or d
            factor = config.pool_factors[level]
            total += factor * (d // groups) * inner + inner
            total += factor * (inner // groups) * d + d
            layers *= 2 if config.unet else 1
        total += layers * layer(d, e)
    return total + 2 * config.width + dense(config.width, config.num_codes)


SMALL = {
    "width": 8,
    "mixer": RGLRUConfig(recurrent_width=16, num_gate_blocks=2),
    "pool_factors": (2, 3),
    "layers": (1, 2, 3),
}


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"gating": False}, marks=pytest.mark.nightly),
        {"mixer": RGLRUConfig(recurrent_width=16, num_gate_blocks=2, complex=False)},
        {"mixer": LRUConfig(recurrent_width=16), "width_growth": 2},
        {"pool_groups": 1, "unet": False},
        {"pool_groups": 4, "width_growth": 2, "skip": "long"},
        {"norm": "rms_norm", "embedding": "table"},
        {"norm": "none", "embedding": "mlp"},
        {"temporal_convolution": True},
        {"layers": (0, 1, 0)},
    ],
    ids=str,
)
def test_parameter_count_equals_formula(options):
    config = PoolformerConfig(**SMALL | options)
    assert count_params(config.build()) == formula(config)


def test_parameter_count_without_gates():
    """Of the baseline; tests/experiment has that of the configurations."""
    config = PoolformerConfig(gating=False)
    assert count_params(config.build()) == formula(config) == 5_489_408
