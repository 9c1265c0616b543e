"""A small Hugging Face Hub on the loopback interface, for tests without a network.

`with serve(models={"owner/name": folder}, datasets={…}) as endpoint:` answers what transformers,
datasets and huggingface_hub ask when HF_ENDPOINT names it: repository information, file trees,
files with ETag and ranges, and the Hub's own error codes. HF_ENDPOINT is read at import, so ask
from a fresh process with `environment(endpoint, …)`.
"""
import hashlib
import json
import os
import re
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

API = re.compile(r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info)/([^/]+)(?:/(.*))?)?")
FILE = re.compile(r"/(?:(datasets)/)?(.+?)/resolve/([^/]+)/(.+)")


class Request(NamedTuple):
    """One answered request: `sent` counts the bytes of the body."""
    method: str
    path: str
    status: int
    sent: int


class Endpoint(str):
    """The server's URL.

    `log` lists every Request answered so far, or of a silent one every connection.
    """
    log: list


class Repository:
    """A folder as a repository with a single commit."""

    def __init__(self, name, folder, gated):
        self.name, self.gated, self.root = name, gated, Path(folder)
        self.files = {path.relative_to(self.root).as_posix(): path
                      for path in sorted(self.root.rglob("*")) if path.is_file()}
        self.oids = {
            name: hashlib.sha1(path.read_bytes()).hexdigest() for name, path in self.files.items()
        }
        self.commit = hashlib.sha1(repr((name, self.oids)).encode()).hexdigest()

    def info(self):
        return {
            "id": self.name,
            "modelId": self.name,
            "sha": self.commit,
            "private": False,
            "disabled": False,
            "gated": "auto" if self.gated else False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": "2024-01-01T00:00:00.000Z",
            "createdAt": "2024-01-01T00:00:00.000Z",
            "siblings": [{"rfilename": name} for name in self.files],
        }

    def entry(self, name):
        if name in self.files:
            return {
                "type": "file",
                "path": name,
                "size": self.files[name].stat().st_size,
                "oid": self.oids[name],
            }
        return {
            "type": "directory",
            "path": name,
            "size": 0,
            "oid": hashlib.sha1(name.encode()).hexdigest(),
        }

    def folders(self):
        return {
            parent.as_posix()
            for name in self.files
            for parent in Path(name).parents
            if parent.as_posix() != "."
        }

    def tree(self, folder, recursive):
        """Entries below `folder`, None if there is no such folder."""
        if folder and folder not in self.folders():
            return None
        inside = [name for name in (*self.folders(), *self.files)
                  if (name.startswith(folder + "/") if folder else True) and name != folder]
        return [self.entry(name) for name in sorted(inside)
                if recursive or Path(name).parent.as_posix() == (folder or ".")]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        url = urlsplit(self.path)
        if match := API.fullmatch(url.path):
            self.api(*match.groups(), query=url.query)
        elif match := FILE.fullmatch(url.path):
            self.file(*match.groups())
        else:
            self.reply(404, error=("NotFound", "no such page"))

    do_HEAD = do_POST = do_GET

    def api(self, kind, name, what, revision, folder, query):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        repository = self.repository(kind, name, revision)
        if repository is None:
            return
        if what in (None, "revision"):
            return self.reply(200, repository.info())
        if what == "paths-info":
            known = {*repository.files, *repository.folders()}
            return self.reply(
                200, [repository.entry(path) for path in self.asked_paths(body) if path in known]
            )
        entries = repository.tree(unquote(folder or ""), "recursive=true" in query.lower())
        if entries is None:
            return self.reply(404, error=("EntryNotFound", "no such folder"))
        self.reply(200, entries)

    def asked_paths(self, body):
        try:
            paths = json.loads(body)["paths"]
        except ValueError:  # some versions send a form
            paths = [
                unquote(pair.split("=", 1)[1].replace("+", " "))
                for pair in body.decode().split("&")
                if pair.startswith("paths=")
            ]
        return [paths] if isinstance(paths, str) else paths

    def file(self, kind, name, revision, path):
        repository = self.repository(kind or "models", name, revision, files=True)
        if repository is None:
            return
        headers = {"X-Repo-Commit": repository.commit}
        if (path := unquote(path)) not in repository.files:
            return self.reply(404, error=("EntryNotFound", "Entry not found"), headers=headers)
        data = repository.files[path].read_bytes()
        headers |= {"ETag": f'"{repository.oids[path]}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", "")):
            first, last = asked.groups()
            start = int(first) if first else max(0, len(data) - int(last))
            stop = min(int(last) + 1, len(data)) if first and last else len(data)
            if start >= len(data):
                return self.reply(416, b"", headers | {"Content-Range": f"bytes */{len(data)}"})
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            return self.reply(206, data[start:stop], headers)
        self.reply(200, data, headers)

    def repository(self, kind, name, revision, files=False):
        """The repository asked for; None after an error has been sent.

        A gated one hides its files only.
        """
        repository = self.server.repositories.get((kind, unquote(name)))
        if repository is None:  # to those who are not logged in, the Hub says 401, not 404
            self.reply(401, error=("RepoNotFound", "Repository not found"))
        elif repository.gated:
            self.reply(401, error=("GatedRepo", "Access to this repository is restricted"))
        elif revision and unquote(revision) not in ("main", repository.commit):
            self.reply(404, error=("RevisionNotFound", "Invalid rev id"))
        else:
            return repository
        return None

    def reply(self, status, body=b"", headers=(), error=None):
        if error:
            headers = dict(headers) | {"X-Error-Code": error[0], "X-Error-Message": error[1]}
            body = {"error": error[1]}
        if not isinstance(body, bytes):
            body, headers = (
                json.dumps(body).encode(),
                dict(headers) | {"Content-Type": "application/json"},
            )
        sent = 0 if self.command == "HEAD" else len(body)
        self.server.log.append(
            Request(self.command, self.path, status, sent)
        )  # before the client can look
        self.send_response(status)
        for key, value in dict(headers).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if sent:
            self.wfile.write(body)

    def log_message(self, *arguments):
        """Keep quiet: the log is a list."""


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        """A client that hangs up in the middle of a stream is no event."""


@contextmanager
def serve(models=None, datasets=None, gated=()):
    """Serve folders as the repositories {id: folder}; ids in `gated` refuse access.

    Yields an Endpoint.
    """
    server = Server(("127.0.0.1", 0), Handler)
    server.log = []
    server.repositories = {(kind, name): Repository(name, folder, name in gated)
                           for kind, folders in (("models", models), ("datasets", datasets))
                           for name, folder in (folders or {}).items()}
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}")
    endpoint.log = server.log
    thread = threading.Thread(
        target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True
    )
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silent():
    """An endpoint that takes connections and never answers, as some firewalls do.

    Yields an Endpoint.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}")
        endpoint.log = []
        threading.Thread(target=_take, args=(listener, endpoint.log), daemon=True).start()
        yield endpoint


def _take(listener, taken):
    while True:
        try:
            taken.append(listener.accept()[0])
        except OSError:  # closed: the block is over
            return


def nowhere():
    """An endpoint that refuses connections: nobody listens on that port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def environment(endpoint, home):
    """Environment of a process for which `endpoint` is the Hub and `home` the (empty) cache."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("HF_", "HUGGING", "TRANSFORMERS_"))
        and not key.lower().endswith("_proxy")
    }
    return kept | {
        "HF_ENDPOINT": str(endpoint),
        "HF_HOME": str(home),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "NO_PROXY": "127.0.0.1",
    }
