"""The server of the page: one model, which speaks for one listener after the other.

    GET  /             the page
    GET  /about        what the model can be asked for, as JSON
    POST /speak?...    a clip; the body is a WAV file to continue, or empty

A clip is answered as it is made: lines of JSON, of which {"samples": n} is followed by n samples of
16 bit. {"waiting": k} tells that k listeners come first, {"error": text} that the clip breaks off,
and {"done": true} that it is whole.

The server listens on 127.0.0.1 alone, and answers no page of another origin.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import http.server
import importlib.resources
import json
import logging
import math
import sys
import threading
import urllib.parse
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int16

from poolformer_jax.audio.wav import parse_wav

HOST = "127.0.0.1"
MAX_SECONDS = 30.0
"""Of a clip, and of a prompt, so that others get their turn."""
MAX_BODY = 4_000_000
"""Bytes of a prompt."""

_LOG = logging.getLogger(__name__)
_DRAINED = 64_000_000  # Bytes of a body that is too long: a browser reads no answer before its end.


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wish:
    """What a listener asks for.

    Attributes:
      seconds: Of sound, after the prompt.
      label: Class, in a model with classes; None is any.
      temperature: Divides the logits.
      guidance: Weight of classifier-free guidance; 1 is none.
      seed: Of the draw.
      prompt: What to continue, at the model's sample rate; None is silence.

    Raises:
      ValueError: On construction, if a number is out of range.
    """

    seconds: float
    label: int | None = None
    temperature: float = 1.0
    guidance: float = 1.0
    seed: int = 0
    prompt: Int16[np.ndarray, " t"] | None = None

    def __post_init__(self):
        for name, low, high in (
            ("seconds", 0.05, MAX_SECONDS),
            ("temperature", 0.0, 2.0),
            ("guidance", 0.0, 10.0),
            ("seed", 0, 2**32 - 1),
        ):
            value = getattr(self, name)
            if not low <= value <= high:
                raise ValueError(f"{name} {value:g} must be from {low:g} to {high:g}")


@runtime_checkable
class Speaker(Protocol):
    """A model as the page knows it.

    Attributes:
      sample_rate: In Hz.
      about: `model`, its name; `classes` and their `names`; whether there is `any` class and
        `guidance`.
    """

    sample_rate: int
    about: Mapping[str, Any]

    def speak(self, wish: Wish) -> Generator[Int16[np.ndarray, " t"], None, None]:
        """Checks the wish at once, and yields blocks of the clip, the prompt first.

        Raises:
          ValueError: If the model cannot do that.
        """
        ...


class Turns:
    """Who may use the model: those who ask, in the order in which they do."""

    def __init__(self):
        self._queue: collections.deque[object] = collections.deque()
        self._moved = threading.Condition()

    @contextlib.contextmanager
    def take(self, on_wait: Callable[[int], None]) -> Iterator[None]:
        """Waits for a turn, which lasts as long as the context.

        Args:
          on_wait: Called about once a second with the number of those who come first, in the end
            with 0; what it raises gives up the place.
        """
        ticket = object()
        with self._moved:
            self._queue.append(ticket)
        try:
            while first := self._first(ticket):
                on_wait(first)
                with self._moved:
                    self._moved.wait_for(lambda: self._first(ticket) < first, timeout=1.0)
            on_wait(0)
            yield
        finally:
            with self._moved:
                self._queue.remove(ticket)
                self._moved.notify_all()

    def _first(self, ticket: object) -> int:
        return self._queue.index(ticket)


class _RefusedError(Exception):
    """A request that gets no clip: a status and why."""

    def __init__(self, status: int, reason: str):
        super().__init__(reason)
        self.status = status


def make_server(speaker: Speaker, port: int) -> http.server.ThreadingHTTPServer:
    """Opens the port, 0 for any that is free; `serve_forever` of the result answers.

    Raises:
      OSError: If the port cannot be had.
    """
    return _Server((HOST, port), speaker)


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], speaker: Speaker):
        super().__init__(address, _Handler)
        self.speaker, self.turns = speaker, Turns()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Into the project's log; a listener who left is a detail."""
        left = isinstance(sys.exception(), ConnectionError | TimeoutError)
        _LOG.log(logging.DEBUG if left else logging.ERROR, "a request failed", exc_info=True)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    timeout = 60.0  # Of a listener who neither sends nor takes anything.

    def do_GET(self):
        """The page, and what it asks first."""
        with self._refusals():
            self._check_origin()
            if self.path == "/":
                self._answer(200, _page(), "text/html; charset=utf-8")
            elif self.path == "/about":
                about = {
                    "sample_rate": self.server.speaker.sample_rate,
                    "max_seconds": MAX_SECONDS,
                    **self.server.speaker.about,
                }
                self._answer(200, json.dumps(about).encode(), "application/json")
            else:
                raise _RefusedError(404, f"there is no {self.path}; open /")

    def do_POST(self):
        """A clip."""
        with self._refusals():
            self._check_origin()
            body = self._body()
            url = urllib.parse.urlsplit(self.path)
            if url.path != "/speak":
                raise _RefusedError(404, f"there is no {url.path}; open /")
            try:
                wish = _wish_of(urllib.parse.parse_qsl(url.query), body, self.server.speaker)
                clip = self.server.speaker.speak(wish)
            except ValueError as error:
                raise _RefusedError(400, str(error)) from error
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Cache-Control", "no-store")
            self.end_headers()
            # A listener who left ends the clip: the next one need not wait.
            with contextlib.suppress(ConnectionError, TimeoutError):
                self._stream(clip)

    def _stream(self, clip: Generator[Int16[np.ndarray, " t"], None, None]) -> None:
        with (
            self.server.turns.take(lambda first: self._line({"waiting": first})),
            contextlib.closing(clip),
        ):
            try:
                for block in clip:
                    self._line({"samples": len(block)})
                    self.wfile.write(block.astype("<i2").tobytes())
                self._line({"done": True})
            except (ConnectionError, TimeoutError):
                raise
            except Exception as error:  # Whatever it is, the listener has to know.
                _LOG.exception("a clip broke off")
                self._line({"error": f"the clip broke off: {error}"})

    def _line(self, content: Mapping[str, Any]) -> None:
        self.wfile.write(json.dumps(content).encode() + b"\n")

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isdecimal() and len(length) <= 12):
            raise _RefusedError(411, "the request does not tell the length of its body")
        if int(length) > MAX_BODY:
            left = min(int(length), _DRAINED)
            while left and (part := self.rfile.read(min(left, 1 << 16))):
                left -= len(part)
            size, most = f"{int(length) / 1e6:,.1f} MB", f"{MAX_BODY / 1e6:g} MB"
            raise _RefusedError(413, f"the recording has {size}; give at most {most}")
        return self.rfile.read(int(length))

    @contextlib.contextmanager
    def _refusals(self) -> Iterator[None]:
        """Tells a listener what is wrong."""
        try:
            yield
        except _RefusedError as error:
            content = json.dumps({"error": str(error)}).encode()
            with contextlib.suppress(ConnectionError, TimeoutError):
                self._answer(error.status, content, "application/json")
        except (ConnectionError, TimeoutError):
            pass  # The listener left.

    def _check_origin(self) -> None:
        """Only this machine's own page may ask: not one of another site in the same browser."""
        host, origin = self.headers.get("Host", ""), self.headers.get("Origin")
        name, _, _ = host.partition(":")  # A tunnel may lead from another port.
        if name not in (HOST, "localhost") or origin not in (None, f"http://{host}"):
            raise _RefusedError(403, f"open http://{HOST}:{self.server.server_port} itself")

    def _answer(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Into the project's log, where requests are details."""
        _LOG.debug(format, *args)


def _wish_of(query: list[tuple[str, str]], body: bytes, speaker: Speaker) -> Wish:
    """Reads numbers and the prompt.

    Raises:
      ValueError: If something is unknown, no number, or the prompt cannot be continued.
    """
    kinds: dict[str, Callable[[str], Any]] = {
        "seconds": _number,
        "label": _whole,
        "temperature": _number,
        "guidance": _number,
        "seed": _whole,
    }
    fields: dict[str, Any] = {}
    for name, text in query:
        if name not in kinds:
            raise ValueError(f"{name[:40]} is unknown; known: {', '.join(kinds)}")
        try:
            fields[name] = kinds[name](text)
        except ValueError:
            kind = "number" if kinds[name] is _number else "whole number from 0 on"
            raise ValueError(f"{name} {text[:40]!r} is no {kind}") from None
    if "seconds" not in fields:
        raise ValueError("seconds is missing")
    if body:
        fields["prompt"] = _prompt_of(body, speaker.sample_rate)
    return Wish(**fields)


def _prompt_of(body: bytes, sample_rate: int) -> Int16[np.ndarray, " t"]:
    fix = f"; give 16-bit mono PCM at {sample_rate} Hz"
    try:
        pcm, rate = parse_wav(body)
    except ValueError as error:
        raise ValueError(f"the recording {error}{fix}") from error
    if rate != sample_rate:
        raise ValueError(f"the recording has {rate} Hz{fix}")
    if not 0 < len(pcm) <= MAX_SECONDS * sample_rate:
        seconds = len(pcm) / sample_rate
        raise ValueError(f"the recording has {seconds:g} s; give at most {MAX_SECONDS:g} s")
    return pcm


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number


def _whole(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 10):
        raise ValueError(text)
    return int(text)


def _page() -> bytes:
    """The page, with the style of the other pages."""
    files = importlib.resources.files("poolformer_jax")
    style = files.joinpath("pages", "style.css").read_text("utf-8")
    page = files.joinpath("live", "page.html").read_text("utf-8")
    script = files.joinpath("live", "page.js").read_text("utf-8")
    return page.replace("/* style */", style).replace("/* script */", script).encode()
