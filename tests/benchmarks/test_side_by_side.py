"""The parts of the benchmarks that can be wrong without a program that fails."""

import json

import pytest

from benchmarks.side_by_side import in_turns, markdown, medians, publish, seconds_of
from benchmarks.tpu import shorten
from benchmarks.train_step import fit_exponent


def test_measures_are_taken_in_turns():
    order = []
    measures = {name: lambda name=name: order.append(name) or len(order) for name in "ab"}
    assert in_turns(measures, 3) == {"a": [1, 3, 5], "b": [2, 4, 6]}
    assert order == list("ababab")


def test_the_median_counts():
    assert medians({"a": [1.0, 100.0, 2.0]}) == {"a": 2.0}


def test_a_call_is_repeated_and_divided(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def call():
        now[0] += 0.75

    assert seconds_of(call, at_least=2.0) == 0.75
    assert now == [2.25]  # Three calls.
    assert seconds_of(call) == 0.75
    assert now == [3.0]


def test_tables_have_the_columns_of_all_rows():
    rows = [{"a": 1234, "b": 0.12345}, {"a": 1, "c": "x|y"}, {"b": 12345.6}]
    assert markdown(rows).splitlines() == [
        "| a | b | c |",
        "| --- | --- | --- |",
        "| 1,234 | 0.123 |  |",
        "| 1 |  | x\\|y |",
        "|  | 12,346 |  |",
    ]


def test_tables_are_written_with_their_command(tmp_path, capsys):
    publish("name", {"Some": [{"a": 1}], "None": []}, str(tmp_path / "new"))
    content = json.loads((tmp_path / "new/name.json").read_text())
    assert content["tables"] == {"Some": [{"a": 1}], "None": []}
    assert content["command"].startswith("python -m benchmarks.name")
    text = (tmp_path / "new/name.md").read_text()
    assert "| 1 |" in text and "None" not in text and content["command"] in text
    assert "### Some" in capsys.readouterr().out


def test_sources_are_shortened():
    path = "jit(train_step)/transpose(jvp(Network))/backbone/pre/while/body/closed_call/layers/"
    assert shorten(path + "checkpoint/mixer/rg_lru/rg_lru.recur/dot_general") == (
        "backward/backbone/pre/mixer/rg_lru/dot_general"
    )
    assert shorten("jit(f)/jvp(Network)/head/dot_general") == "forward/head/dot_general"
    assert shorten("") == ""


def test_exponents_are_fitted():
    assert fit_exponent([2, 4, 8], [3 * 2**1.5, 3 * 4**1.5, 3 * 8**1.5]) == pytest.approx(1.5)
