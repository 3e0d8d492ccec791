"""Every notebook is its script, and runs from top to bottom in fast mode.

Run by `.ci/run notebooks` in an environment that has only these tools: the notebook's own first
cell installs the package, from a wheel that was just built.
"""

import itertools
import json
import pathlib
import re

import pytest

jupytext = pytest.importorskip("jupytext", reason="needs .ci/notebooks.txt")
nbclient = pytest.importorskip("nbclient", reason="needs .ci/notebooks.txt")

pytestmark = pytest.mark.notebooks

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"


def extras(script):
    """Of the package, which the notebook installs."""
    return re.search(r"poolformer_jax\[([a-z,]+)\]", script.read_text()).group(1).split(",")


# What one installs is there for the next: the fewest extras come first.
SCRIPTS = sorted(FOLDER.glob("*.py"), key=lambda script: len(extras(script)))


def test_each_notebook_installs_what_those_before_it_do():
    for few, more in itertools.pairwise(map(set, map(extras, SCRIPTS))):
        assert few < more


by_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@by_script
def test_a_notebook_is_its_script(script):
    stored, wanted = jupytext.read(script.with_suffix(".ipynb")), jupytext.read(script)
    cells = [[(cell.cell_type, cell.source) for cell in one.cells] for one in (stored, wanted)]
    command = f"run: jupytext --to ipynb {script.relative_to(FOLDER.parent)}"
    assert cells[0] == cells[1], command
    for key in ("accelerator", "colab", "kernelspec"):
        assert stored.metadata.get(key) == wanted.metadata.get(key), command
    assert all(not cell.get("outputs") for cell in stored.cells)


@by_script
def test_a_notebook_begins_with_its_badge_and_one_line_that_installs(script):
    title, code, *others = (cell.source for cell in jupytext.read(script).cells)
    assert f"/blob/main/notebooks/{script.stem}.ipynb)" in title and "colab-badge" in title
    assert re.fullmatch(r'%pip install -q "poolformer_jax\[[a-z,]+\]"', code)
    assert "ex.describe_devices()" in "".join(others[:2])
    imported = re.findall(r"^ *(?:from|import) (poolformer_jax\S*.*)$", script.read_text(), re.M)
    assert imported == ["poolformer_jax import experiment as ex"]


@by_script
def test_a_notebook_runs(script, tmp_path, monkeypatch):
    monkeypatch.setenv("POOLFORMER_NOTEBOOK_FAST", "1")
    if script.stem == "scaling_on_pods":
        monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    notebook = jupytext.read(script)
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output["data"] for output in outputs if "data" in output]
    text = "".join(output.get("text", "") for output in outputs)
    assert "CPU, " in text
    pages = "".join("".join(data.get("text/html", "")) for data in shown)
    figures = [data["image/png"] for data in shown if "image/png" in data]
    pictures = figures + re.findall(r"data:image/[a-z+]+;base64,([\w+/=]+)", pages)
    assert pictures and all(len(picture) > 5_000 for picture in pictures)
    if script.stem == "how_it_works":
        assert len(figures) == 4
        found = re.search(r"above the diagonal: 0 below: (\d+)", text)
        assert int(found.group(1)) > 200  # Of 276.
        differences = [float(x) for x in re.findall(r"largest difference: (\S+)", text)]
        assert len(differences) == 2 and max(differences) < 1e-4
        return
    (metrics,) = tmp_path.glob("runs/*/metrics.jsonl")
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    bits = [row["bits_per_sample"] for row in records if row["kind"] == "train"]
    assert sum(bits[-3:]) < sum(bits[:3])
    frames = re.findall(r'<iframe srcdoc="([^"]+)"', pages)
    if script.stem == "scaling_on_pods":
        assert "v5e:1x1 training" in text and "v5e:2x2 training" in text
        assert "8 cpu devices" in text
        assert "&lt;table" in frames[0] and "data:image" in frames[0]
    else:  # One picture for each clip, and the loss as it was at the end.
        assert pages.count("<img") == pages.count("<audio") + 1 >= 3
    if script.stem == "poolformer_on_sc09":
        assert re.search(r"v5e:1x1 training \d+ clips: [\d.]+ GB [\d.e-]+ s", text)
        assert "Published on SC09" in frames[0]
