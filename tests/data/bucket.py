"""A bucket on this machine: what a folder holds, over HTTP, as Google Cloud Storage and as S3 answer."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: "_Server"

    def do_GET(self) -> None:
        address = urlsplit(self.path)
        self.server.asked.append((address.path, self.headers.get("Range", "")))
        found = re.fullmatch(r"(?:/download)?/storage/v1/b/([^/]+)/o(?:/(.*))?", address.path)
        query = {key: values[0] for key, values in parse_qs(address.query).items()}
        if found is None:  # S3: /bucket/key
            self._object(unquote(address.path).removeprefix("/bucket/"), is_media=True)
        elif found[2] is None:
            self._list(query)
        else:
            self._object(unquote(found[2]), is_media=query.get("alt") == "media")

    def _list(self, query: dict[str, str]) -> None:
        files = (file for file in sorted(self.server.folder.rglob("*")) if file.is_file())
        names = [file.relative_to(self.server.folder).as_posix() for file in files]
        names = [name for name in names if name.startswith(query.get("prefix", ""))]
        names = [name for name in names if query.get("startOffset", "") <= name < query.get("endOffset", "\U0010ffff")]
        self._answer(200, json.dumps({"kind": "storage#objects", "items": [{"name": name} for name in names]}).encode())

    def _object(self, name: str, *, is_media: bool) -> None:
        file = self.server.folder / name
        if not file.is_file():
            self._answer(404, b"{}")
            return
        content, generation = file.read_bytes(), str(file.stat().st_mtime_ns)
        if not is_media:
            about = {"kind": "storage#object", "name": name, "bucket": "bucket"}
            self._answer(200, json.dumps({**about, "size": str(len(content)), "generation": generation}).encode())
            return
        headers = {
            "x-goog-generation": generation,
            "ETag": f'"{generation}"',
            "Content-Type": "application/octet-stream",
        }
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted is None:
            self._answer(200, content, headers)
            return
        start = int(wanted[1]) if wanted[1] else max(0, len(content) - int(wanted[2]))
        stop = min(len(content), int(wanted[2]) + 1) if wanted[1] and wanted[2] else len(content)
        if start >= len(content):
            self._answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
            return
        self._answer(206, content[start:stop], {**headers, "Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    def _answer(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    folder: Path
    asked: list[tuple[str, str]]


@contextmanager
def served(folder: Path) -> Iterator[_Server]:
    """A server of `gs://bucket/...` and `s3://bucket/...`; `asked` has the path and range of every request."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.folder, server.asked = folder, []
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
