"""A folder is written by one program at a time: a file in it says by which.

The file is made in a way in which only one of several can make it, also on a file system that hosts
share; a bucket has no such way, see `_BucketLock`. Its owner counts up a number in it every few
seconds. A lock whose owner was killed does not stay: on the owner's machine there is no such
process, and from elsewhere the number is seen to stand still. Clocks are not compared. Who only
reads never needs a lock.
"""

from __future__ import annotations

import contextlib
import contextvars
import datetime
import fcntl
import getpass
import json
import logging
import os
import pathlib
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from poolformer_jax.buckets import AnyPath, is_bucket
from poolformer_jax.disk_full import disk_full_error, is_disk_full

_LOG = logging.getLogger(__name__)

LOCK_FILE = "lock.json"

_INTERVAL = 5.0  # Seconds between two counts.
_PATIENCE = 20.0  # Seconds without a count after which an owner elsewhere is taken for dead.
# Goes on while the machine sleeps, where the system has such a clock.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_scope: contextvars.ContextVar[contextlib.ExitStack] = contextvars.ContextVar("locks")


class LockedError(OSError):
    """Another program writes the folder; the message says which, and what to do."""


@contextlib.contextmanager
def release_at_end() -> Iterator[None]:
    """Releases, at its own end, the locks that are taken within."""
    with contextlib.ExitStack() as stack:
        token = _scope.set(stack)
        stack.callback(_scope.reset, token)
        yield


def take_lock(folder: AnyPath, flag: str = "workdir") -> Lock:
    """Takes the lock of a folder until the end of `release_at_end`.

    Args:
      folder: Made if missing.
      flag: That names the folder, for messages.

    Raises:
      LockedError: If another program has it and is alive, or it is a file of another kind.
      OSError: If the folder cannot be written.
    """
    lock = (_BucketLock if is_bucket(folder) else Lock)(folder, f"--{flag}={folder}")
    lock.take()
    _scope.get().callback(lock.release)
    return lock


class Lock:
    """The lock of a folder, see `take_lock`."""

    def __init__(self, folder: AnyPath, name: str):
        self._path, self._name = folder / LOCK_FILE, name
        since = datetime.datetime.now().astimezone()
        self._about = {
            "token": secrets.token_hex(8),
            "user": _user(),
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": since.isoformat(sep=" ", timespec="seconds"),
            "machine": _machine(),
            "started": _started(os.getpid()),
        }
        self._counts = 0
        self._counted_at = 0.0  # When it was certainly this one's.
        self._released = threading.Event()

    def take(self) -> None:
        """Takes it, from the dead if need be; errors as `take_lock`."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        while not self._make():
            self._await_death(self._path)
        self._start_counting()

    def _start_counting(self) -> None:
        # A daemon: it must not keep a process alive whose work has ended.
        threading.Thread(target=self._count_on, name="lock", daemon=True).start()

    def release(self) -> None:
        """Lets others take it."""
        self._released.set()
        if _same(_read(self._path), self._about):
            self._path.unlink(missing_ok=True)

    def check(self) -> None:
        """Makes sure that nobody has taken it while this process was suspended.

        Raises:
          LockedError: If so: nothing more may be written.
        """
        late = time.clock_gettime(_CLOCK) - self._counted_at > 2 * _INTERVAL
        if late and not self._count():
            raise LockedError(
                f"{self._name} was taken over by {_describe(self._successor())} while this process "
                "was suspended, so it ends without writing; to go on here, stop the other first"
            )

    def _make(self) -> bool:
        """Makes the file, unless there is one."""
        with _one_at_a_time(self._path.parent):
            try:
                file = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
            except FileExistsError:
                return False
            try:
                with os.fdopen(file, "wb") as content:
                    content.write(self._content())
            except OSError as error:
                self._path.unlink(missing_ok=True)
                if is_disk_full(error):
                    raise disk_full_error(self._path.parent, "what is there is kept") from error
                raise
            self._counted_at = time.clock_gettime(_CLOCK)
            return True

    def _successor(self) -> dict[str, Any] | None:
        return _read(self._path)

    def _await_death(self, path: AnyPath) -> None:
        """Returns when an owner has released the lock, or has been found dead.

        Raises:
          LockedError: If it is alive.
        """
        first = owner = _read(path)
        if os.path.islink(path) or (owner == {} and _has_content(path)):
            raise LockedError(
                f"{path} is in the way and is kept: it is no lock of this program; move it "
                "away, or choose another folder"
            )
        start, said = time.monotonic(), False
        while owner is not None and _same(owner, first):
            alive = _is_alive(owner)
            if alive or owner != first:
                raise LockedError(
                    f"{self._name} is in use: {_describe(owner)} writes there; wait for its end, "
                    "stop it, or choose another folder"
                )
            if alive is False or time.monotonic() - start > _PATIENCE:
                break
            if not said:
                _LOG.info(
                    "%s is in use, or was left, by %s: watching its lock for %.0f s",
                    self._name,
                    _describe(owner),
                    _PATIENCE,
                )
                said = True
            time.sleep(_INTERVAL / 10)
            owner = _read(path)
        with _one_at_a_time(path.parent):
            # Another may have taken it meanwhile, or its owner may have woken up.
            if owner is not None and _read(path) == owner == first:
                path.unlink(missing_ok=True)

    def _count_on(self) -> None:
        while not self._released.wait(_INTERVAL):
            self._count()

    def _count(self) -> bool:
        """Counts, unless the lock is another's; whether it is this one's as far as can be seen."""
        # Opened afresh, so that a file system that hosts share shows what others did, and written
        # in place, which a full disk has room for.
        try:
            with open(self._path, "r+b") as file:
                if not _same(_parse(file.read()), self._about):
                    return False
                self._counts += 1
                file.seek(0)
                file.write(self._content())
        except FileNotFoundError:
            return False
        except OSError:
            return True  # Such as a server that does not answer: others cannot see more.
        self._counted_at = time.clock_gettime(_CLOCK)
        return True

    def _content(self) -> bytes:
        """Always equally long."""
        return (json.dumps({"counts": f"{self._counts:09d}", **self._about}) + "\n").encode()


class _BucketLock(Lock):
    """The lock of a folder in a bucket.

    There every process makes a file of its own, and only then looks for those of others: who sees
    no other that is alive has the lock. Of two that come at the same moment both may give way.
    """

    def __init__(self, folder: AnyPath, name: str):
        super().__init__(folder, name)
        self._path = folder / f"lock_{self._about['token']}.json"
        self._writing = threading.Lock()

    def take(self) -> None:
        self._path.write_bytes(self._content())
        self._counted_at = time.clock_gettime(_CLOCK)
        self._start_counting()
        try:
            while others := self._others():
                for path in others:
                    self._await_death(path)
        except BaseException:
            self.release()
            raise

    def _others(self) -> list[AnyPath]:
        return [path for path in self._path.parent.glob("lock_*.json") if path != self._path]

    def _successor(self) -> dict[str, Any] | None:
        return next(map(_read, self._others()), None)

    def release(self) -> None:
        self._released.set()
        with self._writing:  # A count that comes after would bring the lock back.
            super().release()

    def _count(self) -> bool:
        with self._writing:
            if self._released.is_set():
                return True
            try:
                if not self._path.exists():
                    return False
                self._counts += 1
                self._path.write_bytes(self._content())
                # It took so long that another may have seen this one dead, and taken the lock.
                late = time.clock_gettime(_CLOCK) - self._counted_at > _PATIENCE
                if late and self._others():
                    self._path.unlink(missing_ok=True)
                    return False
            except Exception:  # Each storage raises errors of its own; others cannot see more.
                return True
            self._counted_at = time.clock_gettime(_CLOCK)
            return True


def _describe(owner: dict[str, Any] | None) -> str:
    if not owner:
        return "another process"
    user, host, pid, since = (owner.get(name) for name in ("user", "host", "pid", "since"))
    return f"{user} on {host} (pid {pid}, since {since})"


def _same(owner: dict[str, Any] | None, other: dict[str, Any] | None) -> bool:
    return (owner or {}).get("token") == (other or {}).get("token")


def _is_alive(owner: dict[str, Any]) -> bool | None:
    """Whether an owner on this machine is alive; None if that cannot be seen from here."""
    machine = _machine()
    if machine is None or owner.get("machine") != machine:
        return None
    started = _started(owner["pid"])
    if started is None and _is_hidden(owner["pid"]):
        return None
    # Another process may have the number by now, but it was started later.
    return started == owner.get("started")


def _machine() -> str | None:
    """What is common to processes that see each other's numbers; None except on Linux.

    Names do not tell: containers may share one, and each start of a container has another.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """When a process was started, in ticks since the machine was; None if it has ended."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat.rpartition(")")[2].split()  # In front is a name, which may hold anything.
    return None if state in "ZX" else fields[18]


def _is_hidden(pid: int) -> bool:
    """Whether it is another user's process, of which this one is shown nothing."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # It has no name, as in some containers.
        return str(os.getuid())


def _read(path: AnyPath) -> dict[str, Any] | None:
    """What a lock says, nothing if it is being written or is none; None if there is no file."""
    try:
        return _parse(path.read_bytes())
    except FileNotFoundError:
        return None


def _has_content(path: AnyPath) -> bool:
    """Whether a file is more than an owner leaves that is killed, or whose machine fails."""
    try:
        return bool(path.read_bytes().strip(b"\0"))
    except FileNotFoundError:
        return False


def _parse(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and "token" in found else {}


@contextlib.contextmanager
def _one_at_a_time(folder: AnyPath) -> Iterator[None]:
    """Waits for others who make or remove a lock; where a file system cannot, they are brief."""
    if is_bucket(folder):
        yield
        return
    file = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)
