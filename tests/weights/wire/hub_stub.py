"""As much of the Hub as huggingface-hub asks for, with large files on another host."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Repo:
    """``lfs`` names the files that are redirected to the content network."""

    files: dict[str, bytes]
    lfs: frozenset[str] = frozenset()
    private: bool = False
    gated: bool = False

    @property
    def commit(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()

    def etag(self, path: str) -> str:
        data = self.files[path]
        if path in self.lfs:
            return hashlib.sha256(data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


@dataclass
class Hub:
    repos: dict[str, Repo] = field(default_factory=dict)
    token: str = "hf_canarytoken"
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    cdn_requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    failures: list[int] = field(default_factory=list)
    cdn_failures: list[int] = field(default_factory=list)
    redirect_to: str = ""
    cdn_damage: int = 0
    generation: int = 0
    url: str = ""
    cdn_url: str = ""

    def asked(self, method: str, part: str) -> list[dict[str, str]]:
        return [headers for verb, path, headers in self.requests if verb == method and part in path]


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    hub = Hub()
    servers = []
    for kind in (_hub_handler(hub), _cdn_handler(hub)):
        server = _Server(("127.0.0.1", 0), kind)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    hub.url, hub.cdn_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, address: Any) -> None:
        # A client that broke off is no news.
        pass


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        raise NotImplementedError

    def lower(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def send(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_bytes(self, data: bytes, etag: str, **headers: str) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not wanted:
            self.send(200, data, ETag=f'"{etag}"', **headers)
            return
        start = int(wanted[1])
        stop = min(int(wanted[2]) + 1, len(data)) if wanted[2] else len(data)
        shown = f"bytes {start}-{stop - 1}/{len(data)}"
        self.send(206, data[start:stop], ETag=f'"{etag}"', Content_Range=shown, **headers)


def _hub_handler(hub: Hub) -> type[_Handler]:
    class Handler(_Handler):
        def answer(self) -> None:
            path = unquote(urlsplit(self.path).path)
            hub.requests.append((self.command, self.path, self.lower()))
            if hub.redirect_to:
                self.send(302, Location=hub.redirect_to + self.path)
                return
            if hub.failures:
                self.send(hub.failures.pop(0), Retry_After="0")
                return
            found = re.fullmatch(
                r"(?:/api/models)?/([^/]+/[^/]+)(?:/(resolve|revision|tree)/([^/]+)/?(.*))?", path
            )
            repo = hub.repos.get(found[1]) if found else None
            logged_in = self.headers.get("Authorization") == f"Bearer {hub.token}"
            if repo is None or found is None or (repo.private and not logged_in):
                self.send(401 if not logged_in else 404, X_Error_Code="RepoNotFound")
            elif repo.gated:
                self.send(403, X_Error_Code="GatedRepo")
            elif found[3] not in (None, "main", repo.commit):
                self.send(404, X_Error_Code="RevisionNotFound")
            elif found[2] == "resolve":
                self.resolve(repo, found[1], found[4])
            elif found[2] == "tree":
                self.send(200, json.dumps(_tree(repo)).encode(), Content_Type="application/json")
            else:
                info = {"id": found[1], "sha": repo.commit, "siblings": [], "tags": []}
                self.send(200, json.dumps(info).encode(), Content_Type="application/json")

        def resolve(self, repo: Repo, name: str, path: str) -> None:
            if path not in repo.files:
                self.send(404, X_Error_Code="EntryNotFound")
                return
            etag = repo.etag(path)
            if path not in repo.lfs:
                self.send_bytes(repo.files[path], etag, X_Repo_Commit=repo.commit)
                return
            hub.generation += 1
            self.send(
                302,
                Location=f"{hub.cdn_url}/{name}/{path}?Signature=canarysig{hub.generation}",
                X_Repo_Commit=repo.commit,
                X_Linked_Etag=f'"{etag}"',
                X_Linked_Size=str(len(repo.files[path])),
            )

    return Handler


def _cdn_handler(hub: Hub) -> type[_Handler]:
    class Handler(_Handler):
        def answer(self) -> None:
            hub.cdn_requests.append((self.command, self.path, self.lower()))
            if hub.cdn_failures:
                self.send(hub.cdn_failures.pop(0))
                return
            _, owner, name, path = unquote(urlsplit(self.path).path).split("/", 3)
            data = hub.repos[f"{owner}/{name}"].files[path]
            if hub.cdn_damage:
                hub.cdn_damage -= 1
                # Every byte, since any range may come first.
                data = bytes(byte ^ 1 for byte in data)
            self.send_bytes(data, "an-etag-of-the-cdn")

    return Handler


def _tree(repo: Repo) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    for path, data in repo.files.items():
        entry: dict[str, Any] = {"type": "file", "path": path, "size": len(data)}
        entry["oid"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        if path in repo.lfs:
            entry["lfs"] = {"oid": repo.etag(path), "size": len(data), "pointerSize": 134}
        entries.append(entry)
        if "/" in path:
            entries.append({"type": "directory", "path": path.rpartition("/")[0], "oid": "0" * 40})
    return entries
