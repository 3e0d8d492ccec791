"""The digits training step compiles for a TPU topology, within its memory and traffic."""

import pytest

from configs.digits import get_config
from poolformer_jax import sharding
from poolformer_jax.aot.chips import chip_of, describe_topology
from poolformer_jax.aot.report import read_program
from poolformer_jax.experiment.configuration import make_experiment
from poolformer_jax.experiment.lowering import Programs
from poolformer_jax.models.sequence_model import count_params

pytestmark = pytest.mark.tpu_backend


def test_digits_step_compiles_for_v5e_2x2(tpu_compiler):
    config = get_config()
    config.model.platform = "tpu"
    experiment = make_experiment(config)
    mesh = sharding.make_mesh(describe_topology("v5e:2x2"))
    assert mesh.size == 4
    report = read_program(
        Programs(experiment, mesh).trace_train_step().lower().compile(), chip_of("v5e:2x2")
    )
    print(report)
    # A quarter of the batch per chip. Measured 93 MB; the rest is for other compilers.
    assert report.temp_bytes <= 110e6
    # The gradients of all parameters, once; the loops run over the layers of a stack, 2 at most.
    # Measured 1.25 times the parameters, because the gates' blocks are reduced within their dense
    # matrix. Activations, or a gradient not yet summed over time, would show here.
    assert report.work is not None
    parameter_bytes = 4 * count_params(experiment.model.build())
    assert report.work.collectives["all-reduce"].num_bytes <= 1.3 * parameter_bytes
