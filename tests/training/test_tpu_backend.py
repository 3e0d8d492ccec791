"""The digits training step compiles for a TPU topology, within its memory and traffic."""

import importlib.util
import json
import subprocess
import sys

import pytest

pytestmark = [
    pytest.mark.tpu_backend,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="needs libtpu: pip install -e '.[tpu]'"
    ),
]


def test_digits_step_compiles_for_v5e_2x2():
    command = [sys.executable, "-m", "tests.training.compile_for_tpu"]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-4000:]
    result = json.loads(run.stdout.splitlines()[-1])
    print(result)
    assert result["devices"] == 4
    # A quarter of the batch per chip. Measured 93 MB; the rest is for other compilers.
    assert result["temp_bytes"] <= 110e6
    # The gradients of all parameters, once; the loops run over the layers of a stack, 2 at most.
    # Measured 1.25 times the parameters, because the gates' blocks are reduced within their dense
    # matrix. Activations, or a gradient not yet summed over time, would show here.
    moved = result["all_reduce_bytes"] + 2 * result["all_reduce_bytes_in_loops"]
    assert moved <= 1.3 * result["parameter_bytes"]
