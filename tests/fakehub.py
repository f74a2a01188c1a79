"""A fake Hugging Face hub on 127.0.0.1, for testing the real download code without a network.

The client libraries read ``HF_ENDPOINT`` when they are imported, so run the code under test in a subprocess::

    with FakeHub(models={"org/name": folder}) as hub:
        subprocess.run([sys.executable, "-c", code], env=hub.env(tmp_path), check=True)
    assert ("GET", "/org/name/resolve/main/config.json") in hub.requests
"""

import hashlib
import json
import os
import re
import threading
from collections.abc import Collection, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path, PurePosixPath
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

_REPO = r"(?P<repo>[^/]+(?:/[^/]+)?)"
_RESOLVE = re.compile(rf"/(?:(?P<kind>datasets)/)?{_REPO}/(?P<action>resolve)/(?P<rev>[^/]+)/(?P<path>.+)")
_CALL = r"/(?P<action>revision|tree|paths-info)/(?P<rev>[^/]+)(?:/(?P<path>.+))?"
_API = re.compile(rf"/api/(?P<kind>models|datasets)/{_REPO}(?:{_CALL})?")
_CLIENT_VARIABLE = re.compile(r"(HF|HUGGING_?FACE|TRANSFORMERS|DATASETS)_.*|.*_proxy", re.IGNORECASE)


class HubError(Exception):
    """An error answer of the Hub: status, ``X-Error-Code`` and ``X-Error-Message``."""


class FakeHub:
    """Serves local folders in the Hub's layout while it is used as a context manager.

    Attributes:
        url: The endpoint, for ``HF_ENDPOINT``.
        requests: The ``(method, path)`` of every request so far; paths are unquoted and have no query.
    """

    def __init__(
        self,
        models: Mapping[str, str | Path] | None = None,
        datasets: Mapping[str, str | Path] | None = None,
        gated: Collection[str] = (),
    ) -> None:
        """Takes a free port; it is served inside the ``with`` block only.

        Args:
            models: Model repository id to the folder with its files.
            datasets: Dataset repository id to the folder with its files.
            gated: Repository ids whose files are refused with 403. As on the real Hub, one that is also in
                ``models`` or ``datasets`` still shows its metadata; one that is not is refused altogether.
        """
        self.repos = {"models": dict(models or {}), "datasets": dict(datasets or {})}
        self.gated = frozenset(gated)
        self.requests: list[tuple[str, str]] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @staticmethod
    def sha(repo: str) -> str:
        """Returns the one commit of a repository, the same in every run."""
        return hashlib.sha1(repo.encode()).hexdigest()

    def env(self, cache_dir: str | Path, **extra: str) -> dict[str, str]:
        """Returns the whole environment for a subprocess that uses this hub and keeps its caches apart.

        Args:
            cache_dir: Becomes ``HF_HOME``; an empty folder means that nothing is cached.
            **extra: Variables to add, such as ``HF_HUB_OFFLINE="1"``.
        """
        env = {name: value for name, value in os.environ.items() if not _CLIENT_VARIABLE.fullmatch(name)}
        env |= {"HF_ENDPOINT": self.url, "HF_HOME": str(cache_dir), "HF_HUB_DISABLE_XET": "1"}
        # datasets would otherwise count each load with a request to a fixed public address.
        env |= {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        return env | extra

    def files(self, kind: str, repo: str, revision: str, action: str) -> dict[str, Path]:
        """Returns a repository's files by path, or raises the HubError that the real Hub would answer."""
        folder = self.repos[kind].get(repo)
        if repo in self.gated and (folder is None or action == "resolve"):
            message = f"Access to {kind[:-1]} {repo} is restricted and you are not in the authorized list."
            raise HubError(403, "GatedRepo", message)
        if folder is None:
            raise HubError(401, "RepoNotFound", "Invalid username or password.")
        if revision not in ("main", self.sha(repo)):
            raise HubError(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        found = (file for file in sorted(Path(folder).rglob("*")) if file.is_file())
        return {file.relative_to(folder).as_posix(): file for file in found}


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    protocol_version = "HTTP/1.1"  # the clients keep connections open

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        # Read even where unused: what is left of a body would be taken for the next request.
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
        self.hub.requests.append((self.command, unquote(url.path)))
        # Matched while still quoted, since a revision such as refs%2Fpr%2F1 holds a slash.
        match = _API.fullmatch(url.path) or _RESOLVE.fullmatch(url.path)
        headers: dict[str, str] = {}
        try:
            if match is None:
                raise HubError(404, "NotFound", "Not served by the fake hub")
            part = {name: unquote(value) for name, value in match.groupdict().items() if value}
            repo, action = part["repo"], part.get("action", "revision")
            files = self.hub.files(part.get("kind", "models"), repo, part.get("rev", "main"), action)
            # Also on a missing file: the clients then remember offline that this commit does not have it.
            headers["X-Repo-Commit"] = self.hub.sha(repo)
            if action == "resolve":
                self._send_file(files, part["path"], headers)
            else:
                query = parse_qs(url.query) | parse_qs(body)
                self._send(200, self._metadata(repo, action, part.get("path", ""), files, query), headers)
        except HubError as error:
            status, code, message = error.args
            headers |= {"X-Error-Code": code, "X-Error-Message": message}
            self._send(status, {"error": message}, headers)

    do_HEAD = do_POST = do_GET  # noqa: N815  http.server looks for these names

    def log_message(self, format: str, *args: Any) -> None:
        """Keeps the test output quiet; ``FakeHub.requests`` is the log."""

    def _metadata(
        self, repo: str, action: str, folder: str, files: Mapping[str, Path], query: Mapping[str, list[str]]
    ) -> Any:
        if action == "tree":
            return _tree(files, folder, recursive=query.get("recursive") == ["true"])
        if action == "paths-info":
            return [entry for entry in _tree(files) if entry["path"] in query.get("paths", [])]
        sizes = {path: _blob(file) if "blobs" in query else {} for path, file in files.items()}
        siblings = [{"rfilename": path, **size} for path, size in sizes.items()]
        gated = "manual" if repo in self.hub.gated else False
        return {"id": repo, "sha": self.hub.sha(repo), "private": False, "gated": gated, "siblings": siblings}

    def _send_file(self, files: Mapping[str, Path], path: str, headers: dict[str, str]) -> None:
        if path not in files:
            raise HubError(404, "EntryNotFound", "Entry not found")
        data, status = files[path].read_bytes(), 200
        headers = headers | {"ETag": f'"{_blob(files[path])["blobId"]}"', "Accept-Ranges": "bytes"}
        if wanted := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(wanted[1]), min(int(wanted[2] or len(data)) + 1, len(data))
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(data)}"
            data, status = data[start:stop], 206
        self._send(status, data, headers)

    def _send(self, status: int, body: Any, headers: Mapping[str, str]) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


def _blob(file: Path) -> dict[str, Any]:
    data = file.read_bytes()
    return {"size": len(data), "blobId": hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()}


def _tree(files: Mapping[str, Path], folder: str = "", recursive: bool = True) -> list[dict[str, Any]]:
    """Lists what is in ``folder``, folders included, as the Hub's tree call does."""
    below = f"{folder}/" if folder else ""
    paths = {str(parent) for path in files for parent in PurePosixPath(path).parents} - {"."} | set(files)
    paths = {path for path in paths if path.startswith(below)}
    if folder and not paths:
        raise HubError(404, "EntryNotFound", f"{folder} does not exist")
    entries = []
    for path in sorted(path for path in paths if recursive or "/" not in path.removeprefix(below)):
        blob = _blob(files[path]) if path in files else {"size": 0, "blobId": FakeHub.sha(path)}
        kind = "file" if path in files else "directory"
        entries.append({"type": kind, "path": path, "size": blob["size"], "oid": blob["blobId"]})
    return entries
