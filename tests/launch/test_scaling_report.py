"""The report of several runs, from the outside."""

import json
import os
import re

import pytest

from launch.scaling_report import POSITIONAL
from tests.experiment.scaled_runs import make_run
from tests.launch.processes import call, finish, mistake, start


@pytest.fixture
def ladder(tmp_path):
    return [
        str(make_run(tmp_path, width, 20 * (100 * width**2) ** -0.25)) for width in (16, 64, 256)
    ]


def test_table_law_page_and_numbers_without_jax(tmp_path, ladder):
    out, numbers = tmp_path / "out" / "page.html", tmp_path / "out" / "numbers.json"
    # A module of that name that cannot be imported.
    (tmp_path / "jax.py").write_text("raise RuntimeError('JAX was imported')\n")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    process = start("scaling_report", *ladder, f"--out={out}", f"--json={numbers}", PYTHONPATH=path)
    code, shown, errors = finish(process)
    assert code == 0, errors
    assert re.search(r"^w64 +409,600 +6e\+04 ", shown, re.MULTILINE)
    assert re.search(r"^parameters: L = 20 N\^-0.25, exponent 0.2", shown, re.MULTILINE)
    assert "parameters, flops: The intervals rest on a single degree of freedom." in shown
    assert out.read_text().startswith("<!DOCTYPE html>") and str(out) in shown
    values = json.loads(numbers.read_text())
    assert values["laws"]["parameters"]["exponent"] == pytest.approx(0.25, rel=0.0025)


@pytest.mark.slow
def test_results_are_written_again_and_files_of_others_are_kept(tmp_path, ladder):
    out, numbers = f"--out={tmp_path / 'page.html'}", f"--json={tmp_path / 'numbers.json'}"
    for _ in range(2):
        assert len(call("scaling_report", *ladder, out, numbers, positional=POSITIONAL).runs) == 3
    (tmp_path / "mine.json").write_text("{}")
    message = mistake(
        "scaling_report", *ladder, out, f"--json={tmp_path / 'mine.json'}", positional=POSITIONAL
    )
    assert "mine.json is in the way and is kept" in message


def test_mistakes_end_in_one_line(tmp_path, ladder):
    for arguments, message in (
        ([], "error: workdirs of runs must be given, without --"),
        ([str(tmp_path / "no")], "no holds no run"),
        ([*ladder, "--out="], "--out '' must be a path"),
    ):
        found = mistake("scaling_report", *arguments, positional=POSITIONAL)
        assert message in found and len(found.splitlines()) == 1
