"""A speaker of tones, the server in a thread, and a listener that reads what it sends."""

import contextlib
import http.client
import json
import threading

import numpy as np

from poolformer_jax.live.server import make_server

RATE = 16_000
BLOCK = 800


class Tone:
    """Answers with the prompt and a tone whose pitch tells the label.

    `begun` is set when a clip is, and `go` lets its blocks out.
    """

    sample_rate = RATE

    def __init__(self, *, classes=3):
        names = ["zero", "one", "two"][:classes]
        self.about = {
            "model": "Tones",
            "classes": classes,
            "names": names,
            "any": True,
            "guidance": bool(classes),
        }
        self.wishes, self.fault = [], None
        self.go, self.begun = threading.Event(), threading.Event()
        self.go.set()

    def speak(self, wish):
        if wish.label is not None and wish.label >= self.about["classes"]:
            raise ValueError(f"label {wish.label} must be below {self.about['classes']}")
        self.wishes.append(wish)
        return self._blocks(wish)

    def _blocks(self, wish):
        self.begun.set()
        if wish.prompt is not None:
            yield wish.prompt
        time = np.arange(round(wish.seconds * RATE))
        tone = 16_000 * np.sin(2 * np.pi * 440 * (1 + (wish.label or 0)) * time / RATE)
        for first in range(0, len(tone), BLOCK):
            self.go.wait(30)
            if self.fault and first:
                raise self.fault
            yield tone[first : first + BLOCK].astype(np.int16)


@contextlib.contextmanager
def serving(speaker):
    """The port of a server that runs meanwhile."""
    server = make_server(speaker, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def ask(port, method, path, body=None, **headers):
    """The answer, with its content still to be read."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body=body, headers=headers)
    return connection.getresponse()


def lines_of(answer):
    """The lines of a clip as they come; samples stand in for those that announce them."""
    while text := answer.readline():
        line = json.loads(text)
        if "samples" in line:
            content = answer.read(2 * line["samples"])
            line["samples"] = np.frombuffer(content, "<i2")
        yield line


def clip_of(port, query, body=b""):
    """All samples of a clip."""
    answer = ask(port, "POST", f"/speak?{query}", body)
    assert answer.status == 200, answer.read()
    return whole_of(answer)


def whole_of(answer):
    """All samples of a clip that is whole."""
    *lines, last = lines_of(answer)
    assert last == {"done": True}
    return np.concatenate([line["samples"] for line in lines if "samples" in line])
