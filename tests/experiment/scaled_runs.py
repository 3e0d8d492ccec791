"""Workdirs as trainings of several sizes leave them, without training."""

import json
import pathlib

from poolformer_jax.experiment import make_experiment, named_config, replace, write_experiment
from poolformer_jax.files import write_json

STEPS = 20
COUNT = 3_000


def make_run(
    folder: pathlib.Path,
    width: int,
    bits: float | None,
    *,
    parameters: int | None = None,
    counted: bool = True,
    **sections,
) -> pathlib.Path:
    """A run of 20 steps of 2 clips of 1,920 samples, whose validation ends at so many bits."""
    experiment = replace(
        make_experiment(named_config("scaling:digits_40k")),
        model={"width": width} | sections.pop("model", {}),
        train={"num_steps": STEPS} | sections.pop("train", {}),
        **sections,
    )
    workdir = folder / f"w{width}"
    workdir.mkdir(parents=True)
    write_experiment(workdir, experiment)
    environment = {"num_parameters": parameters or 100 * width**2, "num_devices": 4}
    write_json(workdir / "environment.json", environment)
    records = [{"kind": "validation", "step": 0, "bits_per_sample": 8.5}]
    for step in range(1, STEPS + 1):
        record = {"kind": "train", "step": step, "bits_per_sample": 6.0}
        record |= {"count": COUNT} if counted else {}
        # Of the steps since the report before.
        record |= {"seconds_per_step": 9.0 if step == 10 else 18.0} if step % 10 == 0 else {}
        records.append(record)
        if step % 10 == 0:
            above = 0.5 * (STEPS - step) / STEPS
            level = None if bits is None else bits + above
            records.append({"kind": "validation", "step": step, "bits_per_sample": level})
    write_lines(workdir, records)
    return workdir


def write_lines(workdir: pathlib.Path, records: list[dict]) -> None:
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(one) + "\n" for one in records))
