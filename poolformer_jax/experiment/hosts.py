"""Several processes as one run: they find each other, and agree before anything is compiled.

What they compare goes through the key-value store of JAX's coordination service, which needs no
device: collectives of processes that do different things hang or abort.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import itertools
import json
import logging
import pathlib
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import poolformer_jax
from poolformer_jax import interruption
from poolformer_jax.buckets import AnyPath
from poolformer_jax.experiment.configuration import Sections, flat_values
from poolformer_jax.experiment.errors import UserError, user_errors
from poolformer_jax.experiment.workdir import EXPORTED, PLACES

_LOG = logging.getLogger(__name__)

# JAX's own is 100: whoever waits for a process that was killed is to know within a minute.
HEARTBEAT_SECONDS = 40

# After all are connected, so for answers that need no work; and for those that need it, such as
# building a data set.
_ANSWER_SECONDS, _WORK_SECONDS = 60.0, 3600.0

_LAG_SECONDS = 5.0  # Of a network file system.

_ROUNDS = itertools.count()
_ADVICE = "start all of them with the same command, code, data and workdir"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Distributed:
    """How the processes of a run find each other.

    Attributes:
      coordinator: "host:port" of process 0, which listens there. None, like the other two, where
        JAX finds out by itself: TPU pods, Slurm, Kubernetes, Open MPI.
      num_processes: All of them.
      process_id: Of this one, from 0.
      timeout_seconds: Until all of them must be there.

    Raises:
      ValueError: On construction, for values that cannot work.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    timeout_seconds: int = 180

    def __post_init__(self):
        names = ("coordinator", "num_processes", "process_id")
        missing = [name for name in names if getattr(self, name) is None]
        if len(missing) == len(names):
            return
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            raise ValueError(
                f"{missing[0]} is missing: coordinator, num_processes and process_id go together"
            )
        host, port = self.address
        if not host or not 1 <= port <= 65535:
            raise ValueError(
                f"coordinator {self.coordinator} must be HOST:PORT of process 0, with a port of 1 "
                "to 65535"
            )
        if self.num_processes < 1:
            raise ValueError(f"num_processes {self.num_processes} must be at least 1")
        if not 0 <= self.process_id < self.num_processes:
            raise ValueError(
                f"process_id {self.process_id} must be in 0 to {self.num_processes - 1}, as "
                f"num_processes is {self.num_processes}"
            )

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator; port 0 if it has none."""
        host, _, port = (self.coordinator or "").rpartition(":")
        return host.strip("[]"), int(port) if re.fullmatch(r"[0-9]{1,5}", port) else 0


def connect(distributed: Distributed | bool) -> None:
    """Connects the processes, unless they are; before the first use of a device.

    Args:
      distributed: How; True lets JAX find out, and False does nothing.

    Raises:
      UserError: If JAX cannot find out, or the coordinator does not answer.
    """
    if not distributed:
        return
    import jax

    if jax.distributed.is_initialized():
        return
    how = distributed if isinstance(distributed, Distributed) else Distributed()
    if how.coordinator is not None:
        _check_coordinator(how)
    try:
        jax.distributed.initialize(
            how.coordinator,
            how.num_processes,
            how.process_id,
            initialization_timeout=how.timeout_seconds,
            heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        )
    except ValueError as error:
        raise UserError(
            "--distributed found no TPU pod, Slurm, Kubernetes or Open MPI job here; give every "
            "process --coordinator=HOST:PORT --num_processes=N --process_id=0 to N-1"
        ) from error
    except RuntimeError as error:
        raise UserError(f"the processes cannot be connected: {error}") from error
    interruption.listen_again()


@contextlib.contextmanager
def errors_of_all(distributed: Distributed | bool) -> Iterator[None]:
    """As `user_errors`; the other processes, which will `agree`, hear of the error and stop too."""
    try:
        with user_errors():
            yield
    except UserError as error:
        if distributed:
            with contextlib.suppress(UserError):  # What went wrong first is what is told.
                connect(distributed)
                _post(next(_ROUNDS), {"error": str(error)})
        raise


def agree(
    distributed: Distributed | bool,
    facts: Callable[[], Mapping[str, Any]],
    *,
    workdir: AnyPath | None = None,
    flag: str = "workdir",
    after_work: bool = False,
) -> None:
    """Returns when all processes have told the same facts, or raises on all of them.

    Args:
      distributed: Whether there are others, and how to find them.
      facts: What to compare, by name; called only if there are others.
      workdir: A folder that all processes have to share, and that process 0 can write.
      flag: That names the folder.
      after_work: Whether others may still be at work for long, such as building a data set.

    Raises:
      UserError: If facts differ, another process failed (see `errors_of_all`), or did not answer.
    """
    if not distributed:
        return
    connect(distributed)
    _, process, count = _session()
    seconds = _WORK_SECONDS if after_work else _ANSWER_SECONDS
    token = None
    with errors_of_all(distributed):
        own: dict[str, Any] = {} if workdir is None else {flag: str(workdir), "token": ""}
        own |= {"num_processes": count, **facts()}
        if workdir is not None and process == 0:
            token = workdir / f".shared-{secrets.token_hex(8)}"
            token.touch()
            own["token"] = token.name
    number = next(_ROUNDS)
    try:
        if workdir is not None and process != 0:
            (first,) = _collect(number, 1, seconds)
            is_shared = _appears(workdir / first["token"])
            place = first[flag] if is_shared else f"another folder ({workdir})"
            own |= {flag: place, "token": first["token"]}
        _post(number, {"facts": own})
        # Of process 0, as one that was told more processes would wait for those that never come.
        (first,) = _collect(number, 1, seconds)
        found = differences(_collect(number, first["num_processes"], seconds))
    finally:
        if token is not None:
            token.unlink(missing_ok=True)
    if found:
        more = f"; and {len(found) - 4} more" if len(found) > 4 else ""
        raise UserError(f"the processes do not agree: {'; '.join(found[:4])}{more}\n{_ADVICE}")


def differences(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Says which facts differ: "train.seed: 0 on process 0, 1 on processes 1 and 2".

    Args:
      records: The facts of every process, in order.
    """
    found = []
    for name in dict.fromkeys(itertools.chain(*records)):
        holders: dict[str, list[int]] = {}
        for process, record in enumerate(records):
            value = repr(record[name]) if name in record else "nothing"
            holders.setdefault(value.strip("'"), []).append(process)
        if len(holders) > 1:
            parts = [f"{_cut(value)} on {_name(found_on)}" for value, found_on in holders.items()]
            found.append(f"{name}: {', '.join(parts[:3])}{', ...' if len(parts) > 3 else ''}")
    return found


def run_facts(workdir: AnyPath, experiment: Sections) -> dict[str, Any]:
    """What reads a run: its configuration and its checkpoints, wherever each host has them."""
    from poolformer_jax.training.checkpoint import complete_steps

    steps = complete_steps(workdir / "checkpoints")
    exported = workdir / EXPORTED[1]
    facts = {
        "checkpoints in workdir": steps,
        "exported parameters": exported.read_text() if exported.exists() else None,
    }
    return experiment_facts(experiment) | facts | code_facts()


def experiment_facts(experiment: Sections) -> dict[str, Any]:
    """Every field, but where data are kept, which hosts may do each in its own way.

    That they are the same data is compared apart.
    """
    values = flat_values(experiment)
    return {name: value for name, value in values.items() if name not in PLACES}


def code_facts() -> dict[str, str]:
    """What runs: the package by its sources, whatever their commit, and what it stands on."""
    from poolformer_jax.experiment.environment import PACKAGES

    root = pathlib.Path(poolformer_jax.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes())
    sources = f"{poolformer_jax.__version__} with sources {digest.hexdigest()[:12]}"
    return {"poolformer_jax": sources} | {
        name: importlib.metadata.version(name) for name in PACKAGES
    }


def _check_coordinator(how: Distributed) -> None:
    """Sees that there is one: without, JAX would abort the program."""
    if how.process_id == 0:
        with socket.socket() as server:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                server.bind(("", how.address[1]))
            except OSError as error:
                raise UserError(
                    f"cannot listen on the port of --coordinator={how.coordinator} "
                    f"({error.strerror}); choose another port on all processes"
                ) from error
        _LOG.info("waiting at %s for %d processes", how.coordinator, how.num_processes)
        return
    deadline, told = time.monotonic() + how.timeout_seconds, False
    while True:
        try:
            socket.create_connection(how.address, timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"no answer from --coordinator={how.coordinator} within "
                    f"{how.timeout_seconds} s ({error.strerror or error}): is process 0 running "
                    "there, and the port open?"
                ) from error
        if not told:
            _LOG.info("waiting for process 0 at %s", how.coordinator)
            told = True
        time.sleep(0.5)


def _session() -> tuple[Any, int, int]:
    """The client of the coordination service, this process's number, and how many there are."""
    # JAX has no public way to its store; its multihost_utils and Orbax go this one. Its public
    # process_index would wait for the devices of all processes.
    from jax._src import distributed

    state = distributed.global_state
    return state.client, state.process_id, state.num_processes


def _prefix(number: int) -> str:
    return f"poolformer_jax/round_{number}/"


def _post(number: int, record: Mapping[str, Any]) -> None:
    client, process, _ = _session()
    client.key_value_set(f"{_prefix(number)}{process}", json.dumps(record, default=str))


def _collect(number: int, count: int, seconds: float) -> list[Mapping[str, Any]]:
    """Waits for the facts of the first `count` processes; raises the first error of any."""
    client, process, _ = _session()
    start, told = time.monotonic(), 0.0
    while True:
        found = {
            int(key.rpartition("/")[2]): json.loads(value)
            for key, value in client.key_value_dir_get(_prefix(number))
        }
        for other, record in sorted(found.items()):
            if "error" in record:
                raise UserError(f"process {other} stopped: {record['error']}")
        missing = [other for other in range(count) if other not in found]
        if not missing:
            return [found[other]["facts"] for other in range(count)]
        waited = time.monotonic() - start
        if waited > seconds:
            raise UserError(
                f"no answer from {_name(missing)} within {seconds:.0f} s, though connected; see "
                f"the output there, then {_ADVICE}"
            )
        if waited > told + 60:
            told = waited
            _LOG.info("process %d is waiting for %s", process, _name(missing))
        time.sleep(0.05)


def _appears(path: AnyPath) -> bool:
    """Whether a file that another host has just made is here too."""
    deadline = time.monotonic() + _LAG_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _cut(text: str, limit: int = 120) -> str:
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def _name(processes: Sequence[int]) -> str:
    if len(processes) == 1:
        return f"process {processes[0]}"
    if len(processes) > 4:
        return f"processes {', '.join(map(str, processes[:3]))} and {len(processes) - 3} more"
    return f"processes {', '.join(map(str, processes[:-1]))} and {processes[-1]}"
