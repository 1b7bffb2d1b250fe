"""A real S3 server (moto's) and a web server with ranges, on loopback, in threads of the tests' process."""

import http.server
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

BUCKET = "bucket"


@dataclass(frozen=True)
class Request:
    """What a client asked."""

    method: str
    path: str
    query: str
    range: tuple[int, int] | None
    """The first and the last byte."""
    is_guarded: bool
    """Whether the answer depends on the object being the same."""


@dataclass
class ObjectServer:
    """moto's S3 with a record of the requests; `answer` may answer one in its stead, by a status."""

    requests: list[Request] = field(default_factory=list)
    answer: Callable[[Request], int | None] = lambda _: None

    def start(self) -> Self:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its libraries', not ours
            from moto.server import DomainDispatcherApplication, create_backend_app
            from werkzeug.serving import WSGIRequestHandler, make_server

        class Quiet(WSGIRequestHandler):
            protocol_version = "HTTP/1.0"  # moto answers some requests without a length

            def log(self, *_: object, **__: object) -> None: ...

        self._app = DomainDispatcherApplication(create_backend_app)
        self._server = make_server("127.0.0.1", 0, self._respond, threaded=True, request_handler=Quiet)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    @property
    def environment(self) -> dict[str, str]:
        keys = {"AWS_ACCESS_KEY_ID": "AKIAOFATEST", "AWS_SECRET_ACCESS_KEY": "secret/of+a/test"}
        return {**keys, "AWS_ENDPOINT_URL": self.url, "AWS_REGION": "us-east-1"}

    def reset(self) -> None:
        """Forget all objects, and make the bucket again."""
        self.answer = lambda _: None
        self.ask("POST", "/moto-api/reset")
        self.ask("PUT", f"/{BUCKET}")
        self.requests.clear()

    def ask(self, method: str, path: str, data: bytes = b"") -> bytes:
        """Ask past the record."""
        from werkzeug.test import Client

        # moto does not check signatures, but takes a request without one for a stranger's.
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=K/20260101/us-east-1/s3/aws4_request"}
        answer = Client(self._app).open(path, base_url=self.url, method=method, data=data, headers=headers)
        assert answer.status_code < 300 or method == "GET", answer.status
        return answer.data

    def put(self, root: Path, prefix: str) -> str:
        """Store a file, or the files of a folder; return the URL."""
        for path in [root] if root.is_file() else sorted(root.rglob("*")):
            if path.is_file():
                name = path.relative_to(root).as_posix()
                self.ask("PUT", f"/{BUCKET}/{prefix}" + (f"/{name}" if name != "." else ""), path.read_bytes())
        return f"s3://{BUCKET}/{prefix}"

    def objects(self) -> dict[str, bytes]:
        """All objects by key."""
        import re

        listing = self.ask("GET", f"/{BUCKET}?list-type=2").decode()
        keys = re.findall(r"<Key>([^<]*)</Key>", listing)
        return {key: self.ask("GET", f"/{BUCKET}/{key}") for key in keys}

    def unfinished(self) -> list[str]:
        """Keys of the uploads that were begun and neither completed nor aborted."""
        import re

        return re.findall(r"<Key>([^<]*)</Key>", self.ask("GET", f"/{BUCKET}?uploads").decode())

    def _respond(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        span = environ.get("HTTP_RANGE", "").removeprefix("bytes=").split("-")
        request = Request(
            method=environ["REQUEST_METHOD"],
            path=environ["PATH_INFO"].removeprefix(f"/{BUCKET}/"),
            query=environ.get("QUERY_STRING", ""),
            range=(int(span[0]), int(span[1])) if len(span) == 2 and all(span) else None,
            is_guarded="HTTP_IF_MATCH" in environ,
        )
        self.requests.append(request)
        status = self.answer(request)
        if status is None:
            return self._app(environ, start_response)
        environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        start_response(f"{status} Injected", [("Content-Length", "0")])
        return [b""]


class RangeHandler(http.server.BaseHTTPRequestHandler):
    """Serves the files of `root` with ranges and ETags; with `key`, to those who know it alone."""

    protocol_version = "HTTP/1.1"
    root: ClassVar[Path]
    key: ClassVar[str] = ""
    asked: ClassVar[list[str]] = []

    def log_message(self, *_: object) -> None: ...

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name, _, query = self.path.partition("?")
        self.asked.append(f"{self.command} {name}")
        path = self.root / name.strip("/")
        if not path.is_file() or (self.key and query != f"key={self.key}"):
            self._send(403 if path.is_file() else 404, b"")
            return
        data = path.read_bytes()
        begin, end = 0, len(data) - 1
        if (span := self.headers.get("Range")) is not None:
            first, _, last = span.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last or end), end)
        headers = {"ETag": f'"{hash(data)}"', "Content-Range": f"bytes {begin}-{end}/{len(data)}"}
        self._send(200 if span is None else 206, data[begin : end + 1], headers)

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
