"""Signals that ask a process to end: obeyed at the next safe point, and a second one at once.

SIGINT is Ctrl-C, SIGTERM comes with preemption. Work that must not be cut short looks for them at
its safe points (`StopRequest`); any other is left by a KeyboardInterrupt in the main thread, and
says what it leaves behind (`keeps`). A program listens from its start (`listen`); in a notebook or
another program only a `StopRequest` does, and a second signal acts as usual.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_KEY = "poolformer_jax/stop"  # Of JAX's key-value store.
_ECHO = 0.3  # Seconds: launchers such as `timeout` send a signal to the group and to its members.


class _Listener:
    """What has arrived, and who had the signals before."""

    def __init__(self):
        self.received: signal.Signals | None = None
        self.interrupted = False  # Whether KeyboardInterrupt was raised.
        self.is_due = False  # Whether it is to be raised, but could not yet.
        self.num_requests = 0  # How many parts of the work look at their safe points.
        self.previous: dict[int, Any] = {}

    def take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # Python allows it to the main thread only, which has another listener.
        _keep_handler_of_jax()
        for number in _SIGNALS:
            before = signal.signal(number, self.receive)
            self.previous.setdefault(number, before)

    def give_back(self) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The handler. Logging is not safe here: the work says what is going on."""
        if self is not _program:
            signal.signal(number, self.previous[number] or signal.SIG_DFL)
        if self.received is None:
            self.received = signal.Signals(number)
            if _handler_of_jax is not None:
                _handler_of_jax(signal.SIGTERM)
            self.is_due = not self.num_requests
        if self.is_due and not _is_importing(frame):  # The next ones are `_watch`'s.
            self.is_due, self.interrupted = False, True
            raise KeyboardInterrupt

    def note_lost(self, unraisable: Any) -> None:
        """A hook of Python, called where an exception went nowhere, such as out of __del__."""
        if isinstance(unraisable.exc_value, KeyboardInterrupt) and self.interrupted:
            self.is_due = True
        else:
            sys.__unraisablehook__(unraisable)

    def end_early(self, kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        """A hook of Python, called with what nobody has caught."""
        if self.interrupted and self.received is not None:
            _say(f"stopped by {self.received.name} before it began")
            os._exit(128 + self.received)
        sys.__excepthook__(kind, error, traceback)


_program: _Listener | None = None
_handler_of_jax: Callable[[int], None] | None = None


def listen() -> None:
    """Listens to signals until this process, which is a program's, ends."""
    global _program
    if _program is None:
        _program = _Listener()
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        # A handler waits for the main thread, which may be in a compiler for minutes.
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        sys.unraisablehook, sys.excepthook = _program.note_lost, _program.end_early
        threading.Thread(target=_watch, args=(reader, _program), daemon=True).start()
    _program.take_signals()


def listen_again() -> None:
    """Takes SIGTERM back from JAX, which takes it when its processes are connected."""
    if _program is not None:
        _program.take_signals()


def received() -> signal.Signals | None:
    """The signal that a program is to end by, or has been left by; None without one."""
    return None if _program is None else _program.received


def was_raised() -> bool:
    """Whether a program was interrupted where it stood: errors after that follow from it."""
    return _program is not None and _program.interrupted


@contextlib.contextmanager
def keeps(what: str) -> Iterator[None]:
    """Says what is kept if the work within is interrupted; the innermost that knows has the word.

    Args:
      what: In words that follow "stopped by SIGINT: ".
    """
    try:
        yield
    except KeyboardInterrupt as error:
        if not hasattr(error, "__notes__"):
            error.add_note(what)
        raise


class StopRequest:
    """Notes signals while the work within looks for them: no KeyboardInterrupt comes.

    With `jax.distributed` the processes agree on the step at which they stop, whichever of them
    had the signal.
    """

    def __init__(self):
        self._distributed = _client() is not None
        self._agreed = False

    def __enter__(self) -> StopRequest:
        self._listener = _program or _Listener()
        self._listener.num_requests += 1
        self._listener.take_signals()
        return self

    def __exit__(self, *exception: object) -> None:
        self._listener.num_requests -= 1
        if self._listener is not _program:
            self._listener.give_back()

    @property
    def agreed(self) -> bool:
        """Whether all processes are to stop, as far as they have been asked."""
        return self._agreed or (not self._distributed and self._listener.received is not None)

    def at_step(self, step: int) -> bool:
        """Whether to stop at this step; every process must ask at every step."""
        if not self._distributed:
            return self.agreed
        from jax.experimental import multihost_utils

        return self._agree(multihost_utils.reached_preemption_sync_point(step))

    def together(self) -> bool:
        """Whether any process had a signal; all of them must ask at the same time."""
        if not self._distributed:
            return self.agreed
        import numpy as np
        from jax.experimental import multihost_utils

        asked = np.array(self._listener.received is not None)
        return self._agree(bool(np.any(multihost_utils.process_allgather(asked))))

    def _agree(self, stopping: bool) -> bool:
        self._agreed |= stopping
        if stopping and self._listener.received is None:
            self._listener.received = signal.SIGTERM  # Another's, for this one's exit status.
        return stopping


def tell_others() -> None:
    """Lets `check_others` interrupt the other processes of a pod."""
    if (client := _client()) is not None:
        client.key_value_set(_KEY, "1", allow_overwrite=True)


def check_others() -> None:
    """Raises KeyboardInterrupt if another process of a pod has been interrupted."""
    if (client := _client()) is None:
        return
    try:
        client.key_value_try_get(_KEY)
    except Exception:  # There is no such key; what is raised depends on JAX's version.
        return
    if _program is not None and _program.received is None:
        _program.received, _program.interrupted = signal.SIGTERM, True
    raise KeyboardInterrupt


def _state_of_jax() -> Any:
    """What connects this process with others; None as long as nobody has imported JAX."""
    return getattr(sys.modules.get("jax._src.distributed"), "global_state", None)


def _client() -> Any:
    """Of the processes' key-value store; None in a process that is alone."""
    return getattr(_state_of_jax(), "client", None)


def _keep_handler_of_jax() -> None:
    """Finds JAX's handler of SIGTERM, a C function, so that it can be told of signals.

    From there the processes of a pod learn that one of them is to stop.
    """
    global _handler_of_jax
    if _handler_of_jax or getattr(_state_of_jax(), "preemption_sync_manager", None) is None:
        return
    libc_signal = ctypes.CDLL(None).signal
    libc_signal.argtypes, libc_signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p
    ignore = 1
    found = libc_signal(signal.SIGTERM, ignore)
    pythons = libc_signal(signal.SIGINT, ignore)  # The caller sets both anew.
    if found not in (None, ignore, pythons):
        _handler_of_jax = ctypes.CFUNCTYPE(None, ctypes.c_int)(found)


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a module is being imported, which ends in a crash where C code takes part."""
    while frame is not None:
        if frame.f_code.co_filename.startswith("<frozen importlib"):
            return True
        frame = frame.f_back
    return False


def _watch(reader: int, listener: _Listener) -> None:
    """Ends the program at its second signal, whatever the main thread is doing."""
    first: signal.Signals | None = None
    since, sent, said = 0.0, 0, False
    while True:
        if not select.select([reader], [], [], None if first is None else 0.1)[0]:
            assert first is not None
            if listener.is_due:
                sent += 1
                signal.pthread_kill(threading.main_thread().ident or 0, first)
            elif listener.interrupted or said:
                continue
            elif time.monotonic() - since > 1.0:
                _say(f"{first.name}: stopping at the next safe point; a second one ends it at once")
                said = True
            continue
        for number in os.read(reader, 64):
            if number not in _SIGNALS:
                continue
            if first is None:
                first, since = signal.Signals(number), time.monotonic()
            elif number == first and sent:
                sent -= 1
            elif number != first or time.monotonic() - since > _ECHO:
                _say(f"ended at once by a second {signal.Signals(number).name}")
                os._exit(128 + number)


def _say(text: str) -> None:
    # Not through Python's streams, whose locks the main thread may hold.
    with contextlib.suppress(OSError):
        os.write(2, f"{text}\n".encode())
