"""A bucket on this machine: as much of Google's JSON API as gcsfs, TensorStore and Orbax use.

    python -m tests.bucket_server 9000

serves an empty bucket called `bucket`, in memory. Clients are told by environment variables, see
`variables`. As in the real one an object is there whole or not at all, has a generation that may be
asked for, and is listed as soon as it is written.
"""

import base64
import http.server
import itertools
import json
import re
import sys
import threading
import urllib.parse

OBJECT = re.compile(r"(?:/download)?/storage/v1/b/(\w+)/o/([^/]+)(?:/rewriteTo/b/\w+/o/([^/]+))?/?")
LIST = re.compile(r"/storage/v1/b/(\w+)/o/?")
UPLOAD = re.compile(r"(?:/resumable)?/upload/storage/v1/b/(\w+)/o/?")


def variables(port):
    """What a process needs in its environment."""
    place = f"http://127.0.0.1:{port}"
    return {
        "STORAGE_EMULATOR_HOST": place,
        "TENSORSTORE_GCS_HTTP_URL": place,
        "GOOGLE_AUTH_TOKEN_FOR_TESTING": "none",
        "GOOGLE_CLOUD_PROJECT": "none",
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "EPATH_USE_TF": "false",
    }


class Server(http.server.ThreadingHTTPServer):
    """The bucket: contents and generations of objects by name."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), _Handler)
        self.objects, self.uploads = {}, {}
        self.lock, self.numbers = threading.RLock(), itertools.count(1)

    @property
    def port(self):
        return self.server_address[1]

    def handle_error(self, request, client_address):
        if not isinstance(sys.exception(), ConnectionError):  # A client may be killed.
            super().handle_error(request, client_address)

    def download(self, prefix, folder):
        """Writes the objects whose names begin so to a folder; returns it."""
        with self.lock:
            found = {n: x for n, (x, _) in self.objects.items() if n.startswith(f"{prefix}/")}
        for name, content in found.items():
            path = folder / name.removeprefix(f"{prefix}/")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return folder


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, code, content=b"", **headers):
        self.send_response(code)
        for name, value in {"Content-Length": len(content), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(content)

    def answer_json(self, value, code=200):
        self.answer(code, json.dumps(value).encode(), Content_Type="application/json")

    def answer_missing(self, name):
        self.answer_json({"error": {"code": 404, "message": f"no object {name}"}}, 404)

    def parsed(self):
        """(path, query, body)."""
        path, _, query = self.path.partition("?")
        pairs = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            chunks = []
            while size := int(self.rfile.readline(), 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return path, pairs, b"".join(chunks)
        return path, pairs, self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def about(self, name):
        content, generation = self.server.objects[name]
        return {
            "kind": "storage#object",
            "bucket": "bucket",
            "name": name,
            "size": str(len(content)),
            "generation": str(generation),
            "timeCreated": "2026-01-01T00:00:00.000Z",
            "updated": "2026-01-01T00:00:00.000Z",
            "etag": base64.b64encode(str(generation).encode()).decode(),
        }

    def fits(self, name, query):
        """Whether the object is of the generation that the request asks for; answers if not."""
        _, generation = self.server.objects.get(name, (b"", 0))
        if int(query.get("ifGenerationMatch", generation)) != generation:
            self.answer(412)
        elif int(query.get("ifGenerationNotMatch", -1)) == generation:
            self.answer(304)
        else:
            return True
        return False

    def put(self, name, content, query):
        with self.server.lock:
            if self.fits(name, query):
                self.server.objects[name] = (content, next(self.server.numbers))
                self.answer_json(self.about(name))

    def do_GET(self):
        path, query, _ = self.parsed()
        with self.server.lock:
            if match := OBJECT.fullmatch(path):
                self.get(urllib.parse.unquote(match[2]), query)
            elif LIST.fullmatch(path):
                self.list(query)
            else:
                self.answer_json({"name": "bucket", "id": "bucket", "storageClass": "STANDARD"})

    def get(self, name, query):
        if name not in self.server.objects:
            self.answer_missing(name)
        elif query.get("alt") != "media":
            self.answer_json(self.about(name))
        elif self.fits(name, query):
            content, generation = self.server.objects[name]
            code, headers = 200, {"x_goog_generation": generation}
            wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
            if wanted:
                size = len(content)
                if wanted[1]:
                    start, end = int(wanted[1]), min(int(wanted[2] or size - 1), size - 1)
                else:
                    start, end = max(size - int(wanted[2]), 0), size - 1
                if start >= size:
                    return self.answer(416, Content_Range=f"bytes */{size}")
                content = content[start : end + 1]
                code, headers["Content_Range"] = 206, f"bytes {start}-{end}/{size}"
            self.answer(code, content, **headers)

    def list(self, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter")
        first, end = query.get("startOffset", ""), query.get("endOffset")
        items, prefixes = [], {}
        for name in sorted(self.server.objects):
            if not name.startswith(prefix) or name < first or (end and name >= end):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter or "\0")
            if found:
                prefixes[prefix + head + found] = None
            else:
                items.append(self.about(name))
        self.answer_json({"kind": "storage#objects", "items": items, "prefixes": [*prefixes]})

    def do_POST(self):
        path, query, body = self.parsed()
        if match := OBJECT.fullmatch(path):
            with self.server.lock:
                source, target = (urllib.parse.unquote(match[i]) for i in (2, 3))
                if source not in self.server.objects:
                    return self.answer_missing(source)
                content, _ = self.server.objects[source]
                self.server.objects[target] = (content, next(self.server.numbers))
                self.answer_json({"done": True, "resource": self.about(target)})
        elif "upload_id" in query:
            self.go_on(query, body)
        elif query.get("uploadType") == "multipart":
            boundary = re.search(r'boundary="?([^";]+)', self.headers["Content-Type"])[1].encode()
            _, about, content = body.split(b"--" + boundary, 2)
            name = json.loads(re.split(rb"\r?\n\r?\n", about, maxsplit=1)[1])["name"]
            content = re.split(rb"\r?\n\r?\n", content, maxsplit=1)[1]
            content = content[: content.rindex(b"--" + boundary)]
            self.put(name, content.removesuffix(b"\n").removesuffix(b"\r"), query)
        elif query.get("uploadType") == "resumable":
            number = str(next(self.server.numbers))
            name = query.get("name") or json.loads(body)["name"]
            self.server.uploads[number] = name, b""
            place = f"http://127.0.0.1:{self.server.port}/resumable{path}?upload_id={number}"
            self.answer(200, Location=place)
        else:
            assert UPLOAD.fullmatch(path) and "name" in query, self.path
            self.put(query["name"], body, query)

    def do_PUT(self):
        _, query, body = self.parsed()
        self.go_on(query, body)

    def go_on(self, query, body):
        """One more part of an upload; both methods are in use."""
        name, content = self.server.uploads[query["upload_id"]]
        content += body
        self.server.uploads[query["upload_id"]] = name, content
        if self.headers.get("Content-Range", "").endswith("/*"):
            self.answer(308, Range=f"bytes=0-{len(content) - 1}")
        else:
            self.put(name, content, {})

    def do_DELETE(self):
        path, query, _ = self.parsed()
        name = urllib.parse.unquote(OBJECT.fullmatch(path)[2])
        with self.server.lock:
            if name not in self.server.objects:
                self.answer_missing(name)
            elif self.fits(name, query):
                del self.server.objects[name]
                self.answer(204)


if __name__ == "__main__":
    Server(int(sys.argv[1])).serve_forever()
