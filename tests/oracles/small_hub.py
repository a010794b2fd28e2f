"""A small hub on the loopback that speaks what huggingface_hub asks of a big one."""

import contextlib
import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Its repositories, what was asked of it, and how it misbehaves."""

    def __init__(self):
        self.files = {}  # (repository, file) -> bytes
        self.asked = []  # "METHOD path" of files
        self.broken = False  # closes the connection in the middle of a file
        self.short = False  # sends half a file as though it were the whole
        self.error = ""  # X-Error-Code of every answer
        self.url = ""

    def answer(self, path: str) -> tuple[int, bytes, str]:
        """Returns (status, content, error code) of OWNER/NAME/resolve/REVISION/FILE."""
        repository, _, rest = path.strip("/").partition("/resolve/")
        revision, _, file = rest.partition("/")
        if self.error:
            return 403, b"", self.error
        if repository not in {found for found, _ in self.files}:
            return 404, b"", "RepoNotFound"
        if revision not in ("main", COMMIT):
            return 404, b"", "RevisionNotFound"
        if (repository, file) not in self.files:
            return 404, b"", "EntryNotFound"
        return 200, self.files[repository, file], ""


@contextlib.contextmanager
def small_hub() -> Iterator[Hub]:
    """Serves a hub on 127.0.0.1 while the context is open."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body: bool):
            if "/resolve/" in self.path:
                hub.asked.append(f"{self.command} {self.path}")
            status, content, error = hub.answer(self.path)
            sent = content
            if body and (hub.short or hub.broken):
                sent = content[: len(content) // 2]
            self.send_response(status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
            length = len(content) if hub.broken else len(sent)
            self.send_header("Content-Length", str(length))
            if error:
                self.send_header("X-Error-Code", error)
            self.end_headers()
            if body:
                self.wfile.write(sent)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
