"""Every parameter has a rule, and those that are large are split."""

import jax
import pytest

from poolformer_jax import sharding
from poolformer_jax.layers.mixer_config import AttentionConfig, LRUConfig, MambaConfig, S4Config
from poolformer_jax.mesh_config import MeshConfig
from poolformer_jax.models.poolformer.config import PoolformerConfig


def shapes_of(config):
    return jax.eval_shape(config.build().init_params, jax.random.key(0))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temporal_convolution": True, "num_classes": 10, "embedding": "table"},
        {"mixer": LRUConfig(), "embedding": "mlp", "norm": "rms_norm", "pool_groups": 1},
        pytest.param({"mixer": AttentionConfig(bias=True)}, marks=pytest.mark.nightly),
        pytest.param({"mixer": MambaConfig(complex=True)}, marks=pytest.mark.nightly),
    ],
    ids=["baseline", "with all", "with others", "attention", "mamba"],
)
def test_eight_devices_share_the_parameters(options):
    config = PoolformerConfig(pool_factors=(4,), layers=(3, 3), **options)
    mesh, shapes = sharding.make_mesh(MeshConfig(fsdp=8)), shapes_of(config)
    placed = sharding.state_sharding(mesh, shapes, config.build().parameter_rules)
    whole = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    own = [
        leaf.size // (8 if any(place.spec) else 1)
        for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(placed), strict=True)
    ]
    # Gates, vectors and taps of pools are on every device.
    assert whole / 8 < sum(own) < 0.2 * whole


def test_state_spaces_are_on_every_device():
    """Channels that share their matrices have one row of them, which cannot be split."""
    mesh = sharding.make_mesh(MeshConfig(fsdp=8))
    config = PoolformerConfig(mixer=S4Config(), layers=(1,) * 5)
    rules = config.build().parameter_rules
    placed = sharding.state_sharding(mesh, shapes_of(config), rules)
    mixer = placed["backbone"]["pre"]["layers"]["mixer"]["s4"]
    assert any(mixer.pop("output_projection")["kernel"].spec)
    assert mixer.keys() == {"A_real", "A_imag", "B", "C", "P", "D", "inv_dt"}
    assert not any(any(place.spec) for place in mixer.values())


def test_widths_that_do_not_split_are_named():
    config = PoolformerConfig(width=12)
    with pytest.raises(ValueError, match=r"mesh.fsdp 8 does not divide the 12 of .*kernel"):
        rules = config.build().parameter_rules
        sharding.state_sharding(sharding.make_mesh(MeshConfig(fsdp=8)), shapes_of(config), rules)
