"""The page of runs of several sizes, and its plot."""

import numpy as np
import pytest

from poolformer_jax.evals.scaling.study import TrainedRun, make_study
from poolformer_jax.pages.plots import plot_scaling
from poolformer_jax.pages.scaling import render_page, write_scaling_page


def make_run(parameters: int, *, hours: float = 0.5) -> TrainedRun:
    steps = np.array([100, 200])
    bits = 1.5 + 30 * parameters**-0.3 + np.array([0.2, 0.0])
    return TrainedRun(
        name=f"<{parameters}>",
        parameters=parameters,
        chips=8,
        num_steps=200,
        last_step=200,
        steps=steps,
        bits=bits,
        samples=steps * 1e4,
        flops=steps * 6e4 * parameters,
        chip_hours=steps * hours,
    )


@pytest.fixture
def study():
    sizes = (1_405_056, 3_102_784, 7_272_704, 21_544_704, 43_013_376)
    return make_study([make_run(size) for size in sizes], ["A note."])


def test_page_shows_runs_laws_and_notes(study):
    page = render_page(study)
    for text in (
        "<th scope='row'>&lt;1405056&gt;</th><td>1,405,056</td><td>2e+06</td><td>1.69e+13</td>",
        "Careful:</strong> A note.",
        "<th scope='row'>parameters</th><td>L = 1.500 + 30",
        "N^-0.3, exponent 0.299 to 0.301, floor 1.500 to 1.500 (95%)",
        "<th scope='row'>samples</th><td>no law; the runs have 1 different value",
        "data:image/png;base64,",
    ):
        assert text in page, text


def test_plot_has_points_validations_and_the_law(study):
    panels = {axes.get_xlabel(): axes for axes in plot_scaling(study).axes}
    first, *others = panels
    assert (first, others[1:]) == ("parameters", ["training FLOPs", "chips", "chip-hours"])
    x, bits = study.points("flops")
    lines = [line.get_xydata() for line in panels["training FLOPs"].lines]
    np.testing.assert_array_equal(lines[0][:, 0], study.runs[0].flops)
    np.testing.assert_array_equal(lines[-1], np.stack([x, bits], axis=1))
    law = lines[-2]
    np.testing.assert_allclose(law[:, 1], study.laws["flops"](law[:, 0]))
    assert (law[0, 0], law[-1, 0]) == pytest.approx((x.min(), x.max()))
    names = [text.get_text() for text in panels["chips"].texts]
    assert names == ["1.41M", "3.1M", "7.27M", "21.5M", "43M"]


def test_chip_hours_are_shown_where_all_are_known():
    study = make_study([make_run(10**6), make_run(10**7, hours=np.nan)])
    assert len(plot_scaling(study).axes) == 4
    assert "<td>8</td><td></td>" in render_page(study)


def test_page_of_somebody_else_is_kept(tmp_path, study):
    path = tmp_path / "scaling.html"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"scaling.html is in the way and is kept"):
        write_scaling_page(path, study)
    assert path.read_text() == "mine"
    path.unlink()
    assert write_scaling_page(write_scaling_page(path, study), study) == path
