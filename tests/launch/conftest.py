import contextlib
import io

import pytest

from tests.launch.processes import call
from tests.launch.runs import train_flags


@pytest.fixture(scope="session")
def finished(tmp_path_factory, tiny_config):
    """The workdir of a whole run, and what it printed."""
    workdir = tmp_path_factory.mktemp("finished")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert call("train", *train_flags(workdir, tiny_config)).finished
    return workdir, out.getvalue()
