"""A small server that answers as the Hub does, with folders of this machine, and its client set to it.

`root/OWNER/NAME` is a repository of a model, `root/datasets/OWNER/NAME` one of a data set, and
`root/datasets/OWNER/NAME@BRANCH`, with %2F for a slash, another branch of that.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from huggingface_hub import constants

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = COMMIT[::-1]  # of a branch


@contextmanager
def hub_of(
    tmp_path: Path, patch: pytest.MonkeyPatch, errors: dict[str, tuple[int, str]] | None = None
) -> Iterator[Path]:
    """The folder of repositories that the client gets to see; its cache is empty."""
    patch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    patch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    patch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    patch.delenv("HF_TOKEN", raising=False)
    root = tmp_path / "served"
    (root / "owner").mkdir(parents=True)
    with serving(root, errors) as address:
        patch.setattr(constants, "ENDPOINT", address)
        template = f"{address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield root


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
            listed = parts[0] == "api"  # api/KIND/OWNER/NAME[/tree|revision/REVISION]
            if listed:
                kind, parts = parts[1], parts[2:]
            else:  # [datasets/]OWNER/NAME/resolve/REVISION/FILE
                kind = parts.pop(0) if parts[0] == "datasets" else "models"
            repo = "/".join([kind] * (kind != "models") + parts[:2])
            revision = unquote(parts[3]) if len(parts) > 3 else "main"
            if (found := self._found(repo, revision)) is None:
                return
            if listed:
                self._listing(*found, repo, "tree" in parts[2:3], body)
            else:
                self._file(*found, unquote("/".join(parts[4:])), body)

        def _found(self, repo: str, revision: str) -> tuple[Path, str] | None:
            """Folder and commit of a revision; None where that was refused."""
            status, code = (errors or {}).get(repo, (0, ""))
            branches = {"main": (root / repo, COMMIT), COMMIT: (root / repo, COMMIT)}
            for branch in (root / repo).parent.glob(f"{Path(repo).name}@*"):
                name = unquote(branch.name.partition("@")[2])
                branches |= {name: (branch, OTHER), OTHER: (branch, OTHER)}
            if not status and not (root / repo).is_dir():
                status, code = 404, "RepoNotFound"
            elif not status and revision not in branches:
                status, code = 404, "RevisionNotFound"
            if status:
                self._send(status, b"", {"X-Error-Code": code, "X-Error-Message": code}, False)
                return None
            return branches[revision]

        def _listing(self, folder: Path, commit: str, repo: str, tree: bool, body: bool) -> None:
            files = {
                str(file.relative_to(folder)): file
                for file in sorted(folder.rglob("*"))
                if file.is_file()
            }
            content: Any = {
                "id": repo.removeprefix("datasets/"),
                "sha": commit,
                "siblings": [{"rfilename": n} for n in files],
            }
            if tree:
                content = [
                    {"type": "file", "path": name, "oid": commit, "size": file.stat().st_size}
                    for name, file in files.items()
                ]
            self._send(
                200, json.dumps(content).encode(), {"Content-Type": "application/json"}, body
            )

        def _file(self, folder: Path, commit: str, name: str, body: bool) -> None:
            file = folder / name
            if not file.is_file():
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, False)
                return
            content = file.read_bytes()
            tag = hashlib.sha256(content).hexdigest()
            self._send(200, content, {"ETag": f'"{tag}"', "X-Repo-Commit": commit}, body)

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
