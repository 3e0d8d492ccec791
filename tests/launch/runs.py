"""A small run by the binary, and what it leaves."""

from poolformer_jax.training.metrics_file import read_metrics
from tests.launch.processes import TINY_MODEL

STEPS = 60
TINY = [
    "--config=configs/digits.py",
    "--config.data.name=digits_tiny",
    "--config.data.seq_len=640",
    "--config.data.train_len=320",
    *TINY_MODEL,
    "--config.model.dropout=0.1",
    f"--config.train.num_steps={STEPS}",
    "--config.train.batch_size=8",
    "--config.train.log_every=1",
    "--config.train.eval_every=25",
    "--config.train.checkpoint_every=10",
    "--config.train.eval_batch_size=8",
]


def train_flags(workdir, tiny_config, *arguments):
    return [*TINY, f"--workdir={workdir}", f"--data_dir={tiny_config.data_dir}", *arguments]


def losses(workdir):
    rows, damaged = read_metrics(workdir / "metrics.jsonl")
    assert not damaged
    rows = [r for r in rows if r["kind"] != "checkpoint"]
    return [(r["kind"], r["step"], r["bits_per_sample"], r.get("grad_norm")) for r in rows]
