"""What the binaries and a notebook call: configure, train, restore, evaluate, draw, plot.

    from poolformer_jax import experiment as ex

    experiment = ex.make_experiment(ex.named_config("digits"))
    ex.train(experiment, "runs/digits")
    ex.evaluate_likelihood("runs/digits")["bits_per_sample"]
    params, step = ex.restore_params("runs/digits")
    clips = ex.draw_clips(experiment, params, 4)
    ex.sample("runs/digits", num_clips=2048, length=16_000, draw=ex.Draw(temperature=0.9))
    ex.score_samples(workdir="runs/digits")
    ex.plot_loss("runs/digits")

A name is imported when it is first used, so that configurations and their mistakes load no JAX.
Progress is logged by `poolformer_jax`; to see it in a notebook: logging.basicConfig(level="INFO").
"""

import importlib
from typing import Any

_NAMES = {
    "configuration": (
        "ClassifierExperiment",
        "Experiment",
        "default_config",
        "experiment_values",
        "make_experiment",
        "replace",
    ),
    "named": ("config_file", "named_config", "named_configs"),
    "errors": ("UserError", "user_errors"),
    "hosts": ("Distributed",),
    "workdir": ("check_workdir", "read_experiment", "write_experiment"),
    "preparation": ("prepare_data",),
    "training": ("train",),
    "classifier": ("train_classifier",),
    "importing": ("import_classifier",),
    "restore": ("restore_params",),
    "pretrained": ("export", "load_pretrained", "unpack_pretrained"),
    "likelihood": ("evaluate_likelihood",),
    "clips": ("draw_clips",),
    "sampling": ("Draw", "sample"),
    "playing": ("play",),
    "scoring": ("score_samples",),
    "pages": ("plot_loss", "write_report"),
    "notebook": ("LivePlot", "describe_devices", "show_clips", "show_page"),
    "scaling": ("plot_scaling", "read_scaling", "report_scaling"),
    "compilation": ("compile_for_tpu",),
    "compilation_report": ("describe_compiled",),
}
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return __all__
