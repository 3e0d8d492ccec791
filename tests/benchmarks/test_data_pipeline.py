import re
import subprocess
import sys

import pytest


@pytest.mark.nightly
def test_benchmark_prints_speeds_and_ratios():
    command = [sys.executable, "-m", "benchmarks.data_pipeline", "--clips=64", "--rounds=1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    rows = re.findall(r"^(.+?) +([\d,]+) clips/s +([\d.]+) x bare", result.stdout, re.MULTILINE)
    assert [name for name, _, _ in rows] == [
        "ArrayRecord, bare records",
        "TFDS, decoded examples",
        "train_batches, mu_law",
        "train_batches, linear",
        "train_batches, pcm16",
    ]
    bare = int(rows[0][1].replace(",", ""))
    for _, speed, ratio in rows:
        assert abs(int(speed.replace(",", "")) / bare - float(ratio)) < 0.006 + 1 / bare
