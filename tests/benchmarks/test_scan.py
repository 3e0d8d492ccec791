import pytest

from benchmarks import scan

LEAST_MB = 4 * 16 * 2048 * 128 / 1e6  # 16 arrays of float32 for both passes.


@pytest.mark.parametrize(
    "function", ["linear_scan", pytest.param("rg_lru", marks=pytest.mark.nightly)]
)
def test_every_implementation_is_measured_or_says_why_not(tables_of, function):
    flags = [f"--function={function}", "--shapes=1x8x4", "--rounds=1", "--seconds=0"]
    (rows,) = tables_of(scan, *flags).values()
    for name in scan.implementations_of(function):
        passes = [row for row in rows if row["implementation"] == name]
        assert [row["pass"] for row in passes] == ["forward", "forward + backward"]
        for row in passes:
            if name in ("associative", "sequential"):
                assert row["ms"] > 0
            else:
                assert row["not possible"] == "a kernel for tpu"


@pytest.mark.tpu_backend
def test_bytes_are_told_for_a_tpu(tables_of, tpu_compiler):
    flags = ["--tpu=v5e", "--shapes=1x2048x128", "--implementations=associative"]
    (rows,) = tables_of(scan, *flags, "--function=linear_scan").values()
    assert [row["pass"] for row in rows] == ["forward", "forward + backward"]
    assert rows[1]["x least"] == pytest.approx(rows[1]["HBM, MB"] / LEAST_MB)
    # Arguments and results are in HBM, whatever happens between; the states are read again.
    assert rows[0]["x least"] >= 1
    assert rows[1]["x least"] >= 12 / 16
