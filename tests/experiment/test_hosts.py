"""Processes that agree before they start, as threads with a store of keys in common."""

import itertools
import re
import socket
import threading

import jax
import pytest

from poolformer_jax import experiment as ex
from poolformer_jax.experiment import hosts


class Store:
    """The part of the coordination service that is used."""

    def __init__(self):
        self.values = {}

    def key_value_set(self, key, value):
        assert key not in self.values
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in list(self.values.items()) if key.startswith(prefix)]


@pytest.fixture
def pod(monkeypatch):
    """Runs functions as processes of one run; returns what each raised as a UserError, or None."""
    me = threading.local()

    class Rounds:
        def __next__(self):
            return next(me.rounds)

    monkeypatch.setattr(hosts, "_session", lambda: (me.store, me.process, me.count))
    monkeypatch.setattr(hosts, "_ROUNDS", Rounds())
    monkeypatch.setattr(hosts, "connect", lambda distributed: None)

    def run(*functions):
        store, ends = Store(), ["hangs"] * len(functions)

        def process(number, function):
            me.store, me.process, me.count = store, number, len(functions)
            me.rounds = itertools.count()
            try:
                function()
                ends[number] = None
            except ex.UserError as error:
                ends[number] = str(error)

        threads = [threading.Thread(target=process, args=pair) for pair in enumerate(functions)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        return ends

    return run


def agreeing(facts, **options):
    return lambda: hosts.agree(True, lambda: facts, **options)


def test_equal_processes_go_on_and_leave_nothing(pod, tmp_path):
    facts = hosts.experiment_facts(ex.make_experiment({})) | hosts.code_facts()
    assert pod(*[agreeing(facts, workdir=tmp_path)] * 3) == [None] * 3
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"train": {"num_steps": 7}}, "train.num_steps: 20000 on process 0, 7 on process 1"),
        (
            {"train": {"learning_rate": 0.5}},
            "train.learning_rate: .* on process 0, 0.5 on",
        ),
        ({"train": {"batch_size": 2}}, "train.batch_size: .* on process 0, 2 on process 1"),
        ({"data": {"name": "sc09"}}, "data.name: digits on process 0, sc09 on process 1"),
        ({"model": {"width": 64}}, "model.width: .* on process 0, 64 on process 1"),
        (
            {"model": {"scan": "sequential"}},
            "model.scan: auto on process 0, sequential on",
        ),
    ],
)
def test_every_field_that_differs_stops_all(pod, sections, message):
    one = ex.make_experiment({"train": {"num_steps": 20_000}})
    other = ex.replace(one, **sections)
    ends = pod(*[agreeing(hosts.experiment_facts(each)) for each in (one, other)])
    assert ends[0] == ends[1]
    assert re.match(rf"the processes do not agree: {message}.*\nstart all of them with", ends[0])


def test_hosts_may_keep_the_same_data_in_different_places(pod):
    one = ex.make_experiment({"data": {"data_dir": "/local"}})
    other = ex.replace(one, data={"data_dir": "/mnt"})
    assert pod(*[agreeing(hosts.experiment_facts(each)) for each in (one, other)]) == [None, None]
    ends = pod(*[agreeing({"data set": f"80 train clips of manifest {x}"}) for x in "ab"])
    assert "data set: 80 train clips of manifest a on process 0, 80 train" in ends[0]


def test_a_workdir_that_is_not_shared_stops_all(pod, tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "_LAG_SECONDS", 0.1)
    folders = [tmp_path / "one", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    ends = pod(*[agreeing({}, workdir=folder) for folder in folders])
    for end in ends:
        assert f"workdir: {folders[0]} on process 0, another folder (" in end
    assert not list(tmp_path.glob("*/*"))


def test_a_mistake_on_one_host_reaches_all(pod):
    def mistaken():
        with hosts.errors_of_all(True):
            raise ValueError("the data set is not ready")

    ends = pod(agreeing({}), mistaken, agreeing({}))
    told = "process 1 stopped: the data set is not ready"
    assert ends == [told, "the data set is not ready", told]


def test_a_process_that_never_answers_is_named(pod, monkeypatch):
    monkeypatch.setattr(hosts, "_ANSWER_SECONDS", 0.2)
    ends = pod(agreeing({}), lambda: None, agreeing({}))
    assert ends[0] == ends[2] and ends[0].startswith("no answer from process 1 within 0 s")


def test_another_count_of_processes_is_found(pod):
    def counting():
        _, process, _ = hosts._session()
        assert process == 1
        hosts.agree(True, lambda: {"num_processes": 3})

    ends = pod(agreeing({}), counting)
    assert ends[0] == ends[1]
    assert "num_processes: 2 on process 0, 3 on process 1" in ends[0]


def test_differences_are_short(pod):
    many = [{f"field{i}": value for i in range(50)} for value in ("a" * 500, "b")]
    (message, *_) = pod(*map(agreeing, many))
    assert len(message.splitlines()) == 2 and len(message) < 1000
    assert "; and 46 more" in message
    records = [{"x": 1}, {"x": 2}, {"x": 2}, {}, *[{"x": 1}] * 6]
    assert hosts.differences(records) == [
        "x: 1 on processes 0, 4, 5 and 4 more, 2 on processes 1 and 2, nothing on process 3"
    ]


def test_nobody_is_asked_by_a_process_alone():
    hosts.agree(False, lambda: pytest.fail("asked for facts"))
    with pytest.raises(ex.UserError, match=r"^a mistake$"), hosts.errors_of_all(False):
        raise ValueError("a mistake")


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("connected"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # It does not listen.
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        options = {"coordinator": place, "num_processes": 2, "timeout_seconds": 0}
        with pytest.raises(ex.UserError, match=f"no answer from --coordinator={place} within 0 s"):
            hosts.connect(ex.Distributed(process_id=1, **options))
        taken.listen()
        with pytest.raises(ex.UserError, match=f"cannot listen on the port of .*{place} .*in use"):
            hosts.connect(ex.Distributed(process_id=0, **options))


def test_no_cluster_is_said_in_a_line(monkeypatch):
    def initialize(*_, **__):
        raise ValueError("coordinator_address should be defined.")

    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    with pytest.raises(ex.UserError, match=r"^--distributed found no TPU pod.* --coordinator=HOST"):
        hosts.connect(True)
