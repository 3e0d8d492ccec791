"""One of several processes is lost: what the others say, and how they end.

XLA aborts a program whose peers are gone, from a thread of its own, with a page about itself. It
leaves no time to say something better, so a small program does that, through which what native
code writes to stderr goes: this file, run by itself, which therefore imports nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import re
import select
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from poolformer_jax.experiment import Distributed

_FATAL = b"JAX distributed service detected fatal errors"
# Of collectives on CPUs that a lost process left unequally far.
_GLOO = b"terminate called after throwing an instance of 'gloo::"
# Files of XLA that write about other processes, in the form "E1123 12:39:24.857 27360 file.cc:80]".
_RECORD = re.compile(rb"[IWEF]\d{4} [\d:.]+ +\d+ (\S+)\]")
_ABOUT_OTHERS = re.compile(rb"coordination|preemption_sync|distributed|client\.h")

# What collectives on CPUs and GPUs and the calls of the service raise.
_LOST = re.compile(r"(?i)gloo .* failed|remote process exited|coordination.?service")

_GRACE_SECONDS = 10  # For others to fail alike.
_VERDICT_SECONDS = 60  # Longer than XLA takes to miss heartbeats, name the lost, and abort.


def explain_aborts(how: Distributed | bool, *, checkpoints: str | None) -> None:
    """Replaces what XLA writes when it aborts the program, because others are lost, by a line.

    Python's own messages go straight to stderr, as before.

    Args:
      how: The processes find each other.
      checkpoints: Folder of those that this program saves.
    """
    if sys.stderr is None:
        return
    facts = {"checkpoints": checkpoints}
    for name in ("coordinator", "num_processes", "process_id", "timeout_seconds"):
        facts[name] = getattr(how, name, None)
    command = [sys.executable, "-I", "-S", __file__, json.dumps(facts)]
    explainer = subprocess.Popen(command, stdin=subprocess.PIPE)
    assert explainer.stdin is not None
    sys.stderr.flush()
    sys.stderr = open(os.dup(2), "w", buffering=1, errors="backslashreplace")  # noqa: SIM115
    os.dup2(explainer.stdin.fileno(), 2)
    explainer.stdin.close()


def are_several() -> bool:
    """Whether this process has been connected with others."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


@contextlib.contextmanager
def leaving_together() -> Iterator[None]:
    """Lets a process that fails alone end at once, and those that fail alike end in peace.

    JAX would let the former wait minutes for the others, which wait for it.
    """
    try:
        yield
    except BaseException as error:
        if not are_several():
            raise
        status, others_are_lost = _tell(error)
        sys.stdout.flush()
        if others_are_lost or not _all_leave():
            os._exit(status)
        sys.exit(status)


def _all_leave() -> bool:
    """Whether the other processes come here too, soon."""
    from jax._src import distributed

    try:
        client: Any = distributed.global_state.client
        client.wait_at_barrier("poolformer_jax/leaving", _GRACE_SECONDS * 1000)
    except Exception:
        return False
    return True


def _tell(error: BaseException) -> tuple[int, bool]:
    """Says what Python would say of an error; returns the exit status, and if others are lost."""
    told = " ".join(map(str, _chain(error)))
    if _LOST.search(told):
        from jax._src import distributed

        state = distributed.global_state
        if state.num_processes == 2 and "by peer" in told:
            # As XLA would write it later.
            record = f"F0101 00:00:00 1 distributed] {_FATAL.decode()}\n{1 - state.process_id}\n"
            os.write(2, record.encode())
            return 1, True
        time.sleep(_VERDICT_SECONDS)
    if isinstance(error, SystemExit):
        if error.code is None or isinstance(error.code, int):
            return error.code or 0, False
        print(error.code, file=sys.stderr)
    else:
        traceback.print_exception(error)
    return 1, False


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and what it came from: what a collective raises may come out as another one."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def explain(text: str, facts: Mapping[str, Any]) -> str:
    """What to tell the user instead of what XLA wrote when it gave up; at most three lines.

    Args:
      text: What XLA wrote.
      facts: What `explain_aborts` knows.
    """
    again = "start all processes again, with the same commands"
    if "RegisterTask" in text:
        count, place = facts["num_processes"] or "all", facts["coordinator"] or "the coordinator"
        if "ALREADY_EXISTS" in text:
            return (
                f"error: another process has connected to {place} as this one, with "
                f"--process_id={facts['process_id']}; give each its own"
            )
        last = f"0 to {count - 1}" if isinstance(count, int) else "its own"
        return (
            f"error: not all of {count} processes connected to {place} within "
            f"{facts['timeout_seconds'] or 300} s; start one for each --process_id, {last}, at the "
            "same time"
        )
    lost = {int(x) for x in re.findall(r"^(?:/job:\w+/replica:\d+/task:)?(\d+)$", text, re.M)}
    lost |= {int(x) for x in re.findall(r"\btask[: ](\d+) heartbeat timeout", text, re.I)}
    if not lost and re.search("Failed to send RPC|PollForError", text):
        lost = {0}  # It runs the service.
    if not lost and facts["num_processes"] == 2:
        lost = {1 - facts["process_id"]}
    who = "another process is"
    if lost:
        one = len(lost) == 1
        names = " and ".join(map(str, sorted(lost)))
        who = f"process {names} is" if one else f"processes {names} are"
    line = f"error: {who} lost: killed, failed, or out of reach"
    if not lost:
        reason, *_ = re.findall(rf"(?:{_FATAL.decode()}[.:]?|what\(\):) *(.*)", text) or [""]
        line += f" ({reason[:200]})"
    line += "; see what it wrote last"
    if facts["process_id"] in lost:
        line = f"error: this process, {facts['process_id']}, did not answer for too long"
        line += ", and the others have given it up: its host was frozen or out of reach"
    if facts["checkpoints"] is None:
        return f"{line}\nto go on, {again}"
    if "://" in facts["checkpoints"]:
        return f"{line}\nto resume from the last checkpoint in {facts['checkpoints']}, {again}"
    folder = pathlib.Path(facts["checkpoints"])
    steps = [int(path.name) for path in folder.glob("*") if path.name.isdecimal()]
    kept = f"the last checkpoint is of step {max(steps)}" if steps else "there is no checkpoint yet"
    return f"{line}\n{kept} in {folder}; to resume, {again}"


def main(facts: Mapping[str, Any]) -> None:
    """Copies stdin to stderr, but what XLA writes when it gives up: that is explained."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # It ends after the program.
    held, holding, explained, rest = b"", False, False, b""
    while True:
        ready, _, _ = select.select([0], [], [], 1.0 if held or rest else None)
        data = os.read(0, 65536) if ready else b""
        *lines, rest = (rest + data).splitlines(keepends=True) or [b""]
        if rest.endswith(b"\n") or not data:
            lines, rest = [*lines, rest], b""
        for line in lines:
            if record := _RECORD.match(line):
                holding = _ABOUT_OTHERS.search(record[1]) is not None
            holding |= line.startswith(_GLOO)
            if holding:
                held += line
            else:
                os.write(2, line)
        is_fatal = _FATAL in held or _GLOO in held
        if is_fatal and (b"*** Check failure" in held or not data):
            if not explained:
                os.write(2, f"{explain(held.decode(errors='replace'), facts)}\n".encode())
            explained, held = True, b""
        if not data:
            if not explained:
                os.write(2, held)  # It was no reason to give up.
            held = b""
            if ready:
                return


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
