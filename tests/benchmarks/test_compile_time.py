import jax
import pytest

from benchmarks import compile_time


@pytest.mark.nightly
def test_every_program_is_compiled(tables_of, tiny, monkeypatch):
    monkeypatch.setattr(jax, "clear_caches", lambda: None)  # Other tests go on using them.
    (rows,) = tables_of(compile_time, f"--configs={tiny}", "--rounds=1").values()
    programs = [*compile_time._PROGRAMS, compile_time._INITIALISATION]
    assert [row["program"] for row in rows] == programs
    assert rows[-1]["all, s"] > 0
    for row in rows[:-1]:
        stages = [row[f"{stage}, s"] for stage in ("trace", "lower", "compile")]
        assert min(stages) > 0 and sum(stages) == row["all, s"]
