"""A program: gcp-storage-emulator with what tensorstore and tests ask for besides. `python gcs_server.py PORT`.

Added are conditions on generations, ranges of names in listings, and faults: `PUT /faults` with a list of
`{"kind": ..., "path": REGEX, "count": N, "after": N}`. A kind is `unavailable` (503), `forbidden` (403), `expired`
(401), `cut` (the connection ends within the answer) or `slow` (half a second first).
"""

import json
import re
import sys
import threading
import time
from functools import partial
from http import HTTPStatus
from http.server import ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from gcp_storage_emulator import server
from gcp_storage_emulator.exceptions import NotFound

SLOW_SECONDS = 0.5
REFUSALS = {
    "unavailable": HTTPStatus.SERVICE_UNAVAILABLE,
    "forbidden": HTTPStatus.FORBIDDEN,
    "expired": HTTPStatus.UNAUTHORIZED,
}
FAULTS: list[dict] = []
LOCK = threading.Lock()  # the emulator is made for one request at a time
_OBJECT = re.compile(r"(?:/download|/upload)?/storage/v1/b/([^/]+)/o(?:/(.+))?")


class Handler(server.RequestHandler):
    """Answers one request of a connection."""

    def __getattribute__(self, name):
        if name.startswith("do_"):
            return partial(self.answer, name.removeprefix("do_"))
        return super().__getattribute__(name)

    def answer(self, method):
        if self.path == "/faults":
            FAULTS[:] = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            return self.say(HTTPStatus.OK)
        kind = fault(f"{method} {unquote(self.path)}")
        if kind == "slow":
            time.sleep(SLOW_SECONDS)
        elif kind in REFUSALS:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            return self.say(REFUSALS[kind])
        elif kind == "cut":
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"{")
            return self.connection.close()
        with LOCK:
            refused = self.condition(method)
            if refused:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                return self.say(refused)
            return server.Router(self).handle(method)

    def say(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def named(self):
        """(bucket, object's name or None, the query's last values)."""
        address = urlsplit(self.path)
        query = {key: values[-1] for key, values in parse_qs(address.query).items()}
        found = _OBJECT.fullmatch(address.path)
        return (unquote(found[1]), unquote(found[2] or query.get("name", "")) or None, query) if found else (None,) * 3

    def generation(self):
        """Of the object that is asked for; None where it is not there or no object is named."""
        bucket, name, _ = self.named()
        try:
            return self.storage.get_file_obj(bucket, name)["generation"] if name else None
        except NotFound:
            return None

    def condition(self, method):
        """The status of a request whose conditions don't hold, else None."""
        _, name, query = self.named()
        if not name:
            return None
        there = self.generation() or "0"
        if query.get("ifGenerationMatch", there) != there:
            return HTTPStatus.PRECONDITION_FAILED
        if query.get("ifGenerationNotMatch") == there:
            return HTTPStatus.NOT_MODIFIED if method == "GET" else HTTPStatus.PRECONDITION_FAILED
        return None

    def end_headers(self):
        _, _, query = self.named()
        if query and query.get("alt") == "media" and (generation := self.generation()):
            self.send_header("x-goog-generation", generation)
        super().end_headers()


def fault(request):
    """The kind of the first fault that is left for a request, which counts it."""
    with LOCK:
        for each in FAULTS:
            if each.get("count", 1) > 0 and re.search(each["path"], request):
                if each.get("after", 0) > 0:
                    each["after"] -= 1
                    continue
                each["count"] = each.get("count", 1) - 1
                return each["kind"]
    return None


def listed(ls, request, response, storage, *arguments, **options):
    """The emulator's list, between startOffset and endOffset."""
    ls(request, response, storage, *arguments, **options)
    low, high = (request.query.get(key, [None])[-1] for key in ("startOffset", "endOffset"))
    if response.status == HTTPStatus.OK and (low or high):
        found = json.loads(response._content)
        kept = [each for each in found["items"] if each["name"] >= (low or "") and (not high or each["name"] < high)]
        response.json({**found, "items": kept})


def main():
    ls = server.objects.ls
    for _, handlers in server.HANDLERS:
        for method, handler in handlers.items():
            if handler is ls:
                handlers[method] = partial(listed, ls)
    storage = server.Storage(use_memory_fs=True)
    server.buckets.create_bucket("bucket", storage)
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), partial(Handler, storage)).serve_forever()


if __name__ == "__main__":
    main()
