"""launch.play: what the page gets is what the model draws."""

import re
import signal

import numpy as np
import pytest

from poolformer_jax import experiment as ex
from tests.launch.processes import finish, mistake, start
from tests.live.listeners import ask, clip_of


@pytest.mark.slow
def test_a_run_speaks_until_it_is_interrupted(finished):
    workdir, _ = finished
    process = start("play", f"--workdir={workdir}", "--port=0")
    try:
        address = re.match(r"open http://127.0.0.1:(\d+) in a browser", process.stdout.readline())
        assert address, process.communicate()
        port = int(address[1])
        assert ask(port, "GET", "/").status == 200
        clip = clip_of(port, "seconds=0.1&seed=5")
        refused = ask(port, "POST", "/speak?seconds=1&label=3", b"")
        assert refused.status == 400 and b"the model has no classes" in refused.read()
        taken = mistake("play", f"--workdir={workdir}", f"--port={port}")
        assert f"port {port} of 127.0.0.1 cannot be had" in taken and "--port=0 is any" in taken
    finally:
        process.send_signal(signal.SIGINT)
        code, out, err = finish(process)
    assert (code, err) == (130, "") and "stopped by SIGINT" in out
    params, _ = ex.restore_params(workdir)
    drawn = ex.draw_clips(ex.read_experiment(workdir), params, 1, length=1600, seed=5)
    np.testing.assert_array_equal(clip, drawn[0])


def test_a_run_has_to_be_there(tmp_path):
    assert "holds no run" in mistake("play", f"--workdir={tmp_path}")
