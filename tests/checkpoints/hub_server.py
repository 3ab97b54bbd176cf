"""A small server that answers as the Hub does, with folders of this machine."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@contextmanager
def serving(root: Path, errors: dict[str, tuple[int, str]] | None = None) -> Iterator[str]:
    """Serve `root/OWNER/NAME` as repositories; the address.

    Args:
        root: Folders of repositories.
        errors: Of a repository, the status and the Hub's error code that it answers with.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def log_message(self, *_: Any) -> None:
            pass

        def _answer(self, body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                tree = parts[4:5] == ["tree"]
                revision = parts[5] if len(parts) > 5 else "main"
                self._listing("/".join(parts[2:4]), revision, tree, body)
            else:  # OWNER/NAME/resolve/REVISION/FILE
                self._file("/".join(parts[:2]), "/".join(parts[4:]), body)

        def _refused(self, repo: str, revision: str = "main") -> bool:
            status, code = (errors or {}).get(repo, (0, ""))
            if not status and not (root / repo).is_dir():
                status, code = 404, "RepoNotFound"
            elif not status and revision not in ("main", COMMIT):
                status, code = 404, "RevisionNotFound"
            if status:
                self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code}, False)
            return bool(status)

        def _listing(self, repo: str, revision: str, tree: bool, body: bool) -> None:
            if self._refused(repo, revision):
                return
            files = {str(f.relative_to(root / repo)): f for f in sorted((root / repo).rglob("*"))}
            content: Any = {
                "id": repo,
                "sha": COMMIT,
                "siblings": [{"rfilename": n} for n in files],
            }
            if tree:
                content = [
                    {"type": "file", "path": name, "oid": COMMIT, "size": file.stat().st_size}
                    for name, file in files.items()
                ]
            self._send(
                200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body
            )

        def _file(self, repo: str, name: str, body: bool) -> None:
            if self._refused(repo):
                return
            file = root / repo / name
            if not file.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, False)
                return
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, body)

        def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
