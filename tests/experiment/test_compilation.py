"""What is compiled for which slices, the search for a batch, figures and pages; without libtpu."""

import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from poolformer_jax import experiment as ex
from poolformer_jax import sharding
from poolformer_jax.aot import chips, compiling
from poolformer_jax.aot.collectives import Exchange
from poolformer_jax.aot.report import ProgramReport, Work
from poolformer_jax.experiment import compilation
from poolformer_jax.experiment.compilation import largest_that_fits
from poolformer_jax.experiment.compilation_report import describe_compiled, scaling_rows
from poolformer_jax.experiment.lowering import Programs
from poolformer_jax.sampling.streaming import generate

V5E = chips.CHIPS["v5e"]
GRADIENTS = 574_464  # Bytes; the all-reduce of the fake training step.


@pytest.fixture
def fake_compiler(monkeypatch):
    """Slices are devices of this machine; a chip holds 8 clips, and a clip takes 1 ms of HBM."""
    compiled = []

    def devices_of(name, *, num_slices=1):
        return jax.devices()[: chips.num_chips(name) * num_slices]

    def compile_program(step, chip):
        compiled.append((step.program, step.topology, step.batch))
        assert step.experiment.model.platform == "tpu"
        clips = step.batch / step.mesh.size
        if clips > 8:
            raise compiling.HbmExceededError("Used 18.0G of 15.75G hbm", 18 * 2**30)
        sums = (Exchange("all-reduce", (), False, 1, GRADIENTS),)
        work = Work(
            read=int(clips * V5E.hbm_bytes_per_second / 1000),
            written=0,
            flops=10**9,
            instructions=1,
            unknown_loops=0,
            exchanges=sums if step.program == "training" else (),
            kernels={},
            consumers=(),
        )
        size = int(clips * 2**30)
        return ProgramReport(chip, 5, 6, 10 * size, 11 * size, 7, work), 0.25

    monkeypatch.setattr(compilation, "prepare_environment", lambda: None)
    monkeypatch.setattr(compilation, "describe_topology", devices_of)
    monkeypatch.setattr(compilation, "_trace", lambda step: step)
    monkeypatch.setattr(compiling, "compile_program", compile_program)
    return compiled


def digits(**train):
    config = ex.named_config("digits")
    config.train.update(train)
    return ex.make_experiment(config)


def test_one_slice_compiles_all_three_programs(fake_compiler, tmp_path):
    path = tmp_path / "all.json"
    ex.compile_for_tpu(digits(batch_size=8), ["v5e:2x2"], json=path)
    assert fake_compiler == [
        ("training", "v5e:2x2", 8),
        ("evaluation", "v5e:2x2", 8),
        ("sampling", "v5e:2x2", 2),  # One chip's share.
    ]
    training, _, sampling = json.loads(path.read_text())
    assert (training["chips"], sampling["chips"]) == (4, 1)
    assert training["mesh"] == {"data": 4, "fsdp": 1, "sequence": 1}
    seconds = 2 * 3 / 4 * GRADIENTS / 200e9
    assert training.pop("compile_seconds") >= 0
    (collective,) = training.pop("collectives")
    assert collective == {
        "kind": "all-reduce",
        "axes": ["data"],
        "link": "ICI",
        "count": 1,
        "num_bytes": GRADIENTS,
        "seconds": pytest.approx(seconds),
    }
    expected = {
        "topology": "v5e:2x2",
        "batch": 8,
        "fits": True,
        "hbm_bytes_per_step": 2 * 819_000_000,
        "temp_bytes_per_chip": 20 * 2**30,
        "peak_bytes_per_chip": 22 * 2**30,
        "flops_per_step": 10**9,
        "roofline_seconds": pytest.approx(2e-3),
        "bound": "memory",
        "collective_bytes": GRADIENTS,
        "collective_seconds": pytest.approx(seconds),
        "scaling": [],
        "unreadable": "",
    }
    assert {name: training[name] for name in expected} == expected


def test_a_program_that_does_not_fit_is_a_result(fake_compiler):
    (training, *_) = ex.compile_for_tpu(digits(batch_size=64), ["v5e:2x2"])
    values = training.values()
    assert not values["fits"] and values["needed_bytes_per_chip"] == 18 * 2**30
    assert values["roofline_seconds"] is values["peak_bytes_per_chip"] is None
    assert re.search(
        r"training +v5e:2x2 +data 4 +64 +no +19\.3 +16\.9", describe_compiled([training])
    )


def test_weak_and_strong_scaling_compile_every_batch_once(fake_compiler, caplog):
    caplog.set_level("INFO", "poolformer_jax")
    topologies = ["v5e:1x1", "v5e:2x2", "v5e:2x4"]
    results = ex.compile_for_tpu(digits(batch_size=4), topologies)
    training = [result for result in results if result.program == "training"]
    assert [(one.topology, one.batch, one.scaling) for one in training] == [
        ("v5e:1x1", 4, ("weak", "strong")),
        ("v5e:2x2", 16, ("weak",)),
        ("v5e:2x2", 4, ("strong",)),
        ("v5e:2x4", 32, ("weak",)),
    ]
    assert (
        "v5e:2x4 is left out of strong scaling: the batch does not split over its 8" in caplog.text
    )
    weak, strong = (scaling_rows(results, name) for name in ("weak", "strong"))
    # A clip takes 1 ms; all chips but a single one add the time of the sum.
    seconds = [0, *(2 * (n - 1) / n * GRADIENTS / 200e9 for n in (4, 8))]
    hidden, exposed = "efficiency, overlapped, %", "efficiency, not overlapped, %"
    assert [row[hidden] for row in weak] == pytest.approx([100, 100, 100])
    assert [row[exposed] for row in weak] == pytest.approx(
        [100 * 4e-3 / (4e-3 + links) for links in seconds]
    )
    assert [row["clips/s, overlapped"] for row in weak] == pytest.approx([1000, 4000, 8000])
    assert [row[exposed] for row in strong] == pytest.approx(
        [100, 100 * 1e-3 / (1e-3 + seconds[1])]
    )


def test_axes_of_the_mesh_split_the_batch_or_the_clips(fake_compiler):
    config = ex.named_config("digits")
    config.mesh.sequence = 2
    config.data.train_len = 3_840
    results = ex.compile_for_tpu(ex.make_experiment(config), ["v5e:2x2", "v5e:2x4"])
    training = [result for result in results if result.program == "training"]
    assert [(one.batch, dict(one.mesh)) for one in training] == [
        (4, {"data": 2, "fsdp": 1, "sequence": 2}),
        (8, {"data": 4, "fsdp": 1, "sequence": 2}),
        (4, {"data": 4, "fsdp": 1, "sequence": 2}),
    ]


def test_several_slices_are_compiled_for(fake_compiler):
    results = ex.compile_for_tpu(digits(batch_size=8), ["v5e:2x2"], num_slices=2)
    assert [(one.chips, one.num_slices) for one in results] == [(8, 2), (8, 2), (1, 1)]
    assert "2 x v5e:2x2" in describe_compiled(results)


@pytest.mark.parametrize(("start", "largest"), [(1, 5), (5, 5), (6, 5), (100, 5), (1, 100), (3, 1)])
def test_the_largest_number_is_found_in_few_steps(start, largest):
    tried = []

    def fits(number):
        tried.append(number)
        return number <= largest

    assert largest_that_fits(fits, start=start, most=100) == largest
    assert tried[0] == start and len(tried) == len(set(tried)) <= 14
    assert all(1 <= number <= 100 for number in tried)


def test_nothing_fits():
    assert largest_that_fits(lambda number: False, start=7, most=100) is None


def test_the_largest_batch_is_a_multiple_of_what_splits_it(fake_compiler, caplog):
    caplog.set_level("INFO", "poolformer_jax")
    results = ex.compile_for_tpu(
        digits(batch_size=12, grad_accum_steps=3), ["v5e:2x2"], find_batch=True
    )
    tried = {one.batch: one.fits for one in results if one.program == "training"}
    assert all(batch % 12 == 0 and fits == (batch <= 32) for batch, fits in tried.items())
    assert max(batch for batch, fits in tried.items() if fits) == 24
    assert "largest batch that fits v5e:2x2: 24" in caplog.text
    assert [one.program for one in results][-2:] == ["evaluation", "sampling"]


@pytest.mark.parametrize(
    ("topologies", "options", "message"),
    [
        (["v9:2x2"], {}, r"no TPU chip 'v9' in 'v9:2x2'; known: v4, v5e(.|\n)*819 .*docs/v5e"),
        (["v5e"], {}, r"no topology 'v5e'; write the chip and its shape(.|\n)*v5e:16x16"),
        (["v5e:2x2", "v5e:2xx"], {}, r"no topology 'v5e:2xx'"),
        (["v5e:2x2"], {"num_slices": 0}, "num_slices 0 must be at least 1"),
        (["v5e:2x4"], {}, "train.batch_size 4 does not split over 8 devices; use a multiple of 8"),
        (["v5e:2x2"], {"json": ""}, "json '' must be a path"),
        (["v5e:2x2"], {"html": "/"}, "html / is a folder; name a file"),
        (["v5e:2x2"], {"json": "/proc/none/all.json"}, "/proc/none"),
    ],
)
def test_mistakes_are_told_before_anything_is_compiled(fake_compiler, topologies, options, message):
    with pytest.raises(ex.UserError, match=message):
        ex.compile_for_tpu(digits(batch_size=4), topologies, **options)
    assert not fake_compiler


def test_a_mesh_or_evaluation_that_does_not_fit_is_told(fake_compiler):
    config = ex.named_config("digits")
    config.mesh.sequence = 3
    with pytest.raises(ex.UserError, match="sequence 3 does not fit 4 devices"):
        ex.compile_for_tpu(ex.make_experiment(config), ["v5e:2x2"])
    config.mesh.sequence = 1
    config.train.eval_batch_size = 6
    with pytest.raises(ex.UserError, match=r"train\.eval_batch_size 6 does not split over 4"):
        ex.compile_for_tpu(ex.make_experiment(config), ["v5e:2x2"])
    assert not fake_compiler


def test_a_page_has_the_plot_and_all_tables(fake_compiler, tmp_path):
    page = tmp_path / "scaling.html"
    results = ex.compile_for_tpu(digits(batch_size=4), ["v5e:1x1", "v5e:2x2"], html=page)
    text = page.read_text()
    assert text.count("<img") == 1 and "Efficiency over the number of chips" in text
    for heading in ("Programs", "Collectives", "Weak scaling", "Strong scaling", "Peaks of a chip"):
        assert f"<h2>{heading}" in text and heading in describe_compiled(results)
    ex.compile_for_tpu(digits(batch_size=4), ["v5e:2x2"], html=page)
    assert "<img" not in page.read_text() and "They prove no speed" in page.read_text()


def test_unreadable_programs_leave_their_cells_empty(fake_compiler, monkeypatch, tmp_path):
    report = ProgramReport(V5E, 1, 2, 3, 4, 5, None, "INTERNAL: async-update")
    monkeypatch.setattr(compiling, "compile_program", lambda step, chip: (report, 1.0))
    results = ex.compile_for_tpu(
        digits(batch_size=4), ["v5e:1x1", "v5e:2x2"], html=tmp_path / "page.html"
    )
    values = results[0].values()
    assert values["fits"] and values["collective_seconds"] is values["bound"] is None
    assert "INTERNAL: async-update" in describe_compiled(results)


def test_the_sampling_step_is_that_of_the_sampler():
    config = ex.named_config("digits")
    config.model.update(pool_factors=(4,), layers=(1, 1), width=8)
    config.model.mixer.update(recurrent_width=8, num_gate_blocks=2)
    config.train.batch_size = 2
    experiment = ex.make_experiment(config)
    model, key = experiment.model.build(), jax.random.key(0)
    params = model.init_params(key)
    programs = Programs(experiment, sharding.make_mesh(devices=jax.devices()[:1]))
    step = programs.trace_sampling_step().lower().compile()
    # The sampler's first draw: the key folded with the clip, then with the time.
    keys = jax.vmap(lambda clip: jax.random.fold_in(jax.random.fold_in(key, clip), 0))(
        jnp.arange(2)
    )
    codes, log_probs, _ = step(params, keys, jax.tree.leaves(model.init_state(2)))
    drawn = generate(model, params, key, 2, 1)
    np.testing.assert_array_equal(codes[:, None], drawn.codes)
    np.testing.assert_allclose(log_probs[:, None], drawn.log_probs, atol=1e-5)
