"""Downloads, through the real client, from a small server that answers like the Hub."""

import http.server
import os
import subprocess
import sys
import threading

import pytest

from tests.data.builders import published

pytest.importorskip("huggingface_hub")

CODE = """
import sys
from poolformer_jax.data.builders import prepare
from poolformer_jax.data.config import DataConfig
config = DataConfig(name=sys.argv[1], data_dir=sys.argv[2], partial=True)
try:
    prepare.prepare(config, download=True)
except (OSError, ImportError) as error:
    sys.exit(f"{type(error).__name__}: {error}")
print(len(prepare.open_splits(config)["train"]))
"""


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


@pytest.fixture
def hub(tmp_path):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        sc09 = published.write_zip(tmp_path / "a.zip", published.sc09_files()).read_bytes()
        mix = published.write_zip(tmp_path / "b.zip", published.youtubemix_files()).read_bytes()
        server.files = {
            "krandiash/sc09/sc09.zip": sc09,
            "krandiash/youtubemix/youtubemix.zip": mix,  # The second of its two names.
        }
        server.gated = {"krandiash/youtubemix", "krandiash/beethoven"}
        server.requests = []
        server.dropping = False  # Whether the connection breaks in the middle of a file.
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def prepare(hub, tmp_path, name, **environment):
    """Prepares in a process of its own, because the client reads its environment on import."""
    environment = {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "hub"),
        **environment,
    }
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-c", CODE, name, str(tmp_path / "data")],
        env=clean | environment,
        capture_output=True,
        text=True,
    )


def test_archive_is_downloaded_once_and_prepared(hub, tmp_path):
    result = prepare(hub, tmp_path, "sc09")
    assert result.stdout == "40\n", result
    assert ("GET", "krandiash/sc09", "sc09.zip") in hub.requests
    hub.requests.clear()
    result = prepare(hub, tmp_path / "other", "sc09", HF_HOME=str(tmp_path / "hub"))
    assert result.stdout == "40\n", result
    assert "GET" not in {request[0] for request in hub.requests}


@pytest.mark.slow
def test_gated_archive_needs_a_token_and_may_have_another_name(hub, tmp_path):
    for environment in ({}, {"HF_TOKEN": "hf_bad"}):
        result = prepare(hub, tmp_path, "youtubemix", **environment)
        assert result.returncode == 1
        for text in (
            "PermissionError: huggingface.co/datasets/krandiash/youtubemix is gated",
            "accept its terms",
            "huggingface.co/settings/tokens",
            "HF_TOKEN",
        ):
            assert text in result.stderr, result
    result = prepare(hub, tmp_path, "youtubemix", HF_TOKEN="hf_good")
    assert result.stdout == "212\n", result


def test_archive_that_is_gone_is_named(hub, tmp_path):
    result = prepare(hub, tmp_path, "beethoven", HF_TOKEN="hf_good")
    assert "has no file beethoven.zip any more; get the archive elsewhere" in result.stderr, result


@pytest.mark.slow
def test_dropped_connection_is_one_error(hub, tmp_path):
    hub.dropping = True
    result = prepare(hub, tmp_path, "sc09")
    assert "OSError: cannot download sc09.zip from huggingface.co/" in result.stderr, result
    assert "goes on where it stopped" in result.stderr
    assert result.stderr.count("Traceback") == 0
    hub.dropping = False
    assert prepare(hub, tmp_path, "sc09").stdout == "40\n"


def test_unreachable_hub_is_named(hub, tmp_path):
    # Offline mode fails like a dead network, but without minutes of retries.
    result = prepare(hub, tmp_path, "sc09", HF_HUB_OFFLINE="1")
    assert "OSError: cannot reach huggingface.co/datasets/krandiash/sc09" in result.stderr, result
    assert "pass its folder as --manual_dir" in result.stderr


def test_missing_client_names_the_extra(tmp_path):
    code = f"import sys; sys.modules['huggingface_hub'] = None\n{CODE}"
    command = [sys.executable, "-c", code, "sc09", str(tmp_path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert "ImportError: downloading needs huggingface_hub: pip install" in result.stderr, result
