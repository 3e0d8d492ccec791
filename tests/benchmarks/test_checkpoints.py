import re
import subprocess
import sys

import pytest


@pytest.mark.nightly
def test_benchmark_prints_the_share_of_checksums():
    command = [sys.executable, "-m", "benchmarks.checkpoints", "--config=digits", "--repeats=2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    line = r"^2 MB: a save takes [\d.]+ s, of which checksums [\d.]+%$"
    assert re.search(line, result.stdout, re.MULTILINE)
