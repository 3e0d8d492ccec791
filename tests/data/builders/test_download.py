"""Downloads, through the real client, from a small server that answers like the Hub."""

import http.server
import os
import sys
import threading

import pytest

from poolformer_jax.data.builders import prepare
from poolformer_jax.data.config import DataConfig
from poolformer_jax.data.source import open_splits
from tests.data.builders import published

pytest.importorskip("huggingface_hub")


class Hub(http.server.BaseHTTPRequestHandler):
    """Serves `server.files`; the repositories in `server.gated` open for one token."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        _, _, owner, repository, *_, file_name = self.path.split("/")
        self.server.requests.append((self.command, f"{owner}/{repository}", file_name))
        allowed = self.headers.get("authorization") == "Bearer hf_good"
        if f"{owner}/{repository}" in self.server.gated and not allowed:
            return self.reply(401, {"X-Error-Code": "GatedRepo"})
        content = self.server.files.get(f"{owner}/{repository}/{file_name}")
        if content is None:
            return self.reply(404, {"X-Error-Code": "EntryNotFound"})
        self.reply(200, {"ETag": f'"{len(content)}"'}, content)
        return None

    def reply(self, status, headers, content=b""):
        self.send_response(status)
        for name, value in (headers | {"X-Repo-Commit": "0" * 40}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            part = content[: len(content) // 2] if self.server.dropping else content
            self.wfile.write(part)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def archives(tmp_path_factory):
    folder = tmp_path_factory.mktemp("archives")
    return {
        "krandiash/sc09/sc09.zip": published.write_zip(folder / "a.zip", published.sc09_files()),
        # The second of its two names.
        "krandiash/youtubemix/youtubemix.zip": published.write_zip(
            folder / "b.zip", published.youtubemix_files()
        ),
    }


@pytest.fixture
def hub(archives, tmp_path, monkeypatch):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.files = {name: path.read_bytes() for name, path in archives.items()}
        server.gated = {"krandiash/youtubemix", "krandiash/beethoven"}
        server.requests = []
        server.dropping = False  # Whether the connection breaks in the middle of a file.
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        for key in os.environ:
            if key.startswith("HF_"):
                monkeypatch.delenv(key)
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        unload_client()
        yield server
        unload_client()
        server.shutdown()


def unload_client():
    """The client reads its environment on import, which happens on use."""
    for name in [*sys.modules]:
        if name.split(".")[0] == "huggingface_hub":
            del sys.modules[name]


def download(name, data_dir):
    """Prepares from what the client downloads; returns the number of training clips."""
    config = DataConfig(name=name, data_dir=str(data_dir), partial=True)
    prepare.prepare(config, download=True)
    return len(open_splits(config)["train"])


def test_archive_is_downloaded_once_and_prepared(hub, tmp_path):
    assert download("sc09", tmp_path / "data") == 40
    assert ("GET", "krandiash/sc09", "sc09.zip") in hub.requests
    hub.requests.clear()
    assert download("sc09", tmp_path / "other") == 40
    assert "GET" not in {request[0] for request in hub.requests}


def test_gated_archive_needs_a_token_and_may_have_another_name(hub, tmp_path, monkeypatch):
    message = (
        "^huggingface.co/datasets/krandiash/youtubemix is gated.*accept its terms.*"
        "huggingface.co/settings/tokens.*HF_TOKEN"
    )
    for token in ("", "hf_bad"):
        monkeypatch.setenv("HF_TOKEN", token)
        with pytest.raises(PermissionError, match=message):
            download("youtubemix", tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    assert download("youtubemix", tmp_path) == 212


def test_archive_that_is_gone_is_named(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    with pytest.raises(OSError, match=r"has no file beethoven.zip any more; get the archive else"):
        download("beethoven", tmp_path)


@pytest.mark.slow  # The client tries again, for ten seconds.
def test_dropped_connection_is_one_error(hub, tmp_path):
    hub.dropping = True
    message = r"cannot download sc09.zip from huggingface.co/.* goes on where it stopped"
    with pytest.raises(OSError, match=message):
        download("sc09", tmp_path)
    hub.dropping = False
    assert download("sc09", tmp_path) == 40


def test_unreachable_hub_is_named(hub, tmp_path, monkeypatch):
    # Offline mode fails like a dead network, but without minutes of retries.
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = r"(?s)cannot reach huggingface.co/datasets/krandiash/sc09.*folder as --manual_dir"
    with pytest.raises(OSError, match=message):
        download("sc09", tmp_path)


def test_missing_client_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match="downloading needs huggingface_hub: pip install"):
        download("sc09", tmp_path)
