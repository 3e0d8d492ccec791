import re
import subprocess
import sys

import pytest


@pytest.mark.nightly
def test_benchmark_checks_and_prints_ratios():
    flags = ["--models=digits", "--batches=1", "--rounds=1", "--seconds=0.05"]
    command = [sys.executable, "-m", "benchmarks.sampling", *flags]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr  # Both ways drew the same codes.
    row = r"^ +1 +([\d,]+) +([\d,.]+) \( *([\d,]+) x\) +([\d,.]+) \( *([\d,]+) x\)"
    (numbers,) = re.findall(row, result.stdout, re.MULTILINE)
    stepping, fixed, fixed_ratio, whole, whole_ratio = (float(x.replace(",", "")) for x in numbers)
    assert stepping / fixed == pytest.approx(fixed_ratio, rel=0.02)
    assert stepping / whole == pytest.approx(whole_ratio, rel=0.02)
