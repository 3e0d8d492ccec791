"""One writer of a folder, whoever dies, sleeps or hurries."""

import concurrent.futures
import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time

import pytest

from poolformer_jax import lock
from poolformer_jax.buckets import as_path
from poolformer_jax.lock import LOCK_FILE, Lock, LockedError, release_at_end, take_lock


@pytest.fixture
def quick(monkeypatch):
    """Counts and watches that take milliseconds."""
    monkeypatch.setattr(lock, "_INTERVAL", 0.02)
    monkeypatch.setattr(lock, "_PATIENCE", 0.2)


def owner_of(folder):
    return json.loads((folder / LOCK_FILE).read_text())


def leave(folder, **changes):
    """A lock that nobody counts on, as a process leaves it that is killed."""
    left = Lock(folder, "")
    left._about |= changes
    assert left._make()


@release_at_end()
def hold(folder, then=lambda held: None):
    then(take_lock(folder))


def test_a_second_one_is_told_who_writes_there(tmp_path):
    def second(held):
        with pytest.raises(LockedError) as error:
            hold(tmp_path)
        assert re.fullmatch(
            rf"--workdir={tmp_path} is in use: \S+ on \S+ \(pid {os.getpid()}, since "
            r"\d{4}-\d\d-\d\d [\d:+]+\) writes there; wait for its end, stop it, or choose another "
            "folder",
            str(error.value),
        )
        held.check()

    start = time.monotonic()
    hold(tmp_path, second)
    assert time.monotonic() - start < 1
    assert not (tmp_path / LOCK_FILE).exists()
    with pytest.raises(RuntimeError):
        hold(tmp_path, lambda held: (_ for _ in ()).throw(RuntimeError))
    hold(tmp_path)  # An error releases it too.


def test_a_killed_owner_on_this_machine_is_replaced_at_once(tmp_path):
    program = "import sys; print(flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    child.stdout.readline()
    leave(tmp_path, pid=child.pid, started=lock._started(child.pid))
    with pytest.raises(LockedError, match=f"pid {child.pid}"):
        hold(tmp_path)
    child.kill()
    while lock._started(child.pid):  # Until it is a zombie: nobody has asked for its status yet.
        time.sleep(0.001)
    start = time.monotonic()
    hold(tmp_path)
    assert time.monotonic() - start < 1
    child.communicate()
    leave(tmp_path, started="1")  # Its number has gone to another process, this one.
    hold(tmp_path)


def test_an_owner_elsewhere_is_watched(quick, tmp_path, caplog):
    leave(tmp_path, machine="another", host="far")
    with caplog.at_level("INFO"):
        hold(tmp_path)
    assert re.search(r"left, by \S+ on far \(pid .*: watching its lock for 0 s", caplog.text)
    (tmp_path / LOCK_FILE).write_bytes(b"\0\0")  # Its machine failed while it was written.
    hold(tmp_path)
    elsewhere = Lock(tmp_path, "")
    elsewhere._about |= {"machine": "another", "host": "far"}
    elsewhere.take()
    with pytest.raises(LockedError, match="on far"):
        hold(tmp_path)
    elsewhere.release()
    hold(tmp_path)


@pytest.mark.parametrize("machine", ["this", "another"])
def test_of_many_who_take_over_one_wins(quick, tmp_path, machine):
    for _ in range(5):
        leave(tmp_path, **({"started": "1"} if machine == "this" else {"machine": machine}))

        def contend(_):
            mine = Lock(tmp_path, "")
            try:
                mine.take()
            except LockedError:
                return None
            return mine

        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            winners = [won for won in threads.map(contend, range(8)) if won]
        assert len(winners) == 1
        winners[0].check()
        winners[0].release()


def test_an_owner_that_was_suspended_too_long_stops(quick, tmp_path):
    asleep = Lock(tmp_path, "--workdir=here")
    asleep._about["machine"] = "another"
    assert asleep._make()
    asleep.check()

    def wake(held):
        with pytest.raises(LockedError, match=r"--workdir=here was taken over by .* ends without"):
            asleep.check()
        asleep.release()  # Which is not its own any more.
        assert owner_of(tmp_path)["token"] == held._about["token"]

    time.sleep(lock._INTERVAL)
    hold(tmp_path, wake)


@pytest.mark.parametrize("content", ['{"name": "mine"}', "[1, 2]", "notes", None])
def test_a_file_of_somebody_else_is_kept(tmp_path, content):
    path = tmp_path / LOCK_FILE
    if content is None:
        path.symlink_to("nowhere")
    else:
        path.write_text(content)
    with pytest.raises(LockedError, match=r"lock\.json is in the way and is kept: .* move it away"):
        Lock(tmp_path, "--workdir").take()
    assert path.is_symlink() if content is None else path.read_text() == content


def test_in_a_bucket_one_at_most_gets_it(bucket, quick):
    folder = as_path("gs://bucket/runs/a")

    def contend(_):
        with contextlib.suppress(LockedError), release_at_end():
            held = take_lock(folder)
            time.sleep(0.3)  # Until all have tried.
            held.check()
            return held

    for _ in range(3):
        with concurrent.futures.ThreadPoolExecutor(8) as threads:
            assert len([won for won in threads.map(contend, range(8)) if won]) <= 1
        assert not bucket.store

    def second(held):
        with pytest.raises(LockedError, match=r"--workdir=gs://bucket/runs/a is in use: \S+ on"):
            hold(folder)
        held.check()

    hold(folder, second)
    assert not bucket.store


def test_in_a_bucket_the_lock_of_the_dead_is_taken(bucket, quick):
    folder = as_path("gs://bucket/runs/a")
    with pytest.raises(RuntimeError), release_at_end():
        asleep = take_lock(folder)
        asleep._about["machine"] = "another"
        asleep._count()
        asleep._released.set()  # It counts no more, and will wake up.
        asleep._released = threading.Event()

        def wake(held):
            time.sleep(2 * lock._INTERVAL)
            with pytest.raises(LockedError, match=r"gs://bucket/runs/a was taken over by \S+ on"):
                asleep.check()
            held.check()

        hold(folder, wake)
        assert not bucket.store
        raise RuntimeError
    hold(folder)
