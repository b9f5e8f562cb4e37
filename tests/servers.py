"""Servers on loopback for tests: an object store, a web server, and a proxy that does harm."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import itertools
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from pathlib import Path

__all__ = ["CREDENTIALS", "Bucket", "Faults", "faulty_proxy", "object_store", "web_server"]

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_REGION": "us-east-1",
}


@contextlib.contextmanager
def object_store() -> Iterator[str]:
    """moto's server, which speaks S3; its URL."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    environment = {key: value for key, value in os.environ.items() if not key.startswith("AWS_")}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            while True:
                assert process.poll() is None, "the object store did not start"
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.05)
            yield url
        finally:
            process.kill()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that was killed is no news."""
        del request, client_address


@contextlib.contextmanager
def _serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers over lasting connections, and says nothing.

    An answer is sent in one piece: the end of one that is sent in two waits for the client to
    acknowledge the beginning, which takes it 40 ms.
    """

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        del format, args


class _Files(_Handler, http.server.SimpleHTTPRequestHandler):
    """A folder, without listings: a web server tells no names."""

    def list_directory(self, path: object) -> None:
        del path
        self.send_error(403)


class _Ranges(_Files):
    """The same, and it answers with a part of a file where one is asked for."""

    def do_GET(self) -> None:
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        path = Path(self.translate_path(self.path))
        if asked is None or not path.is_file():
            super().do_GET()
            return
        content = path.read_bytes()
        size = len(content)
        first, last = asked.groups()
        begin = int(first) if first else max(0, size - int(last))
        end = min(size, int(last) + 1) if first and last else size
        self.send_response(206 if begin < end else 416)
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(max(0, end - begin)))
        self.end_headers()
        self.wfile.write(content[begin:end])


@contextlib.contextmanager
def web_server(folder: Path, *, ranges: bool = True) -> Iterator[str]:
    """A plain web server over a folder, which need not know ranges of bytes; its URL."""
    with _serving(functools.partial(_Ranges if ranges else _Files, directory=str(folder))) as url:
        yield url


@dataclass
class Faults:
    """What the proxy does to a request, by its number: nothing, unless `choose` names a fault.

    ``late``: answered late. ``busy``: 503, and not passed on. ``cut``: the connection is closed in
    the middle of the body. ``lost``: carried out, and the connection closed without an answer.
    ``down``: the connection is closed, and nothing is carried out. `signed` has what says who asks.
    """

    choose: Callable[[int, str, str], str | None] = lambda number, method, path: None
    seen: list[tuple[str, str]] = field(default_factory=list)
    signed: list[str] = field(default_factory=list)
    done: dict[str, int] = field(default_factory=dict)
    _numbers: Iterator[int] = field(default_factory=itertools.count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def next(self, method: str, path: str) -> str | None:
        with self._lock:
            self.seen.append((method, path))
            fault = self.choose(next(self._numbers), method, path)
            if fault is not None:
                self.done[fault] = self.done.get(fault, 0) + 1
            return fault


@dataclass(frozen=True)
class Bucket:
    """A bucket: its URL, the server behind it, and what happens to requests on their way."""

    url: str
    server: str
    faults: Faults


def _forwarder(target: str, faults: Faults) -> type[http.server.BaseHTTPRequestHandler]:
    host, port = target.removeprefix("http://").split(":")

    class Forward(_Handler):
        def _forward(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = self.rfile.read(length)
            faults.signed.append(self.headers.get("Authorization", ""))
            fault = faults.next(self.command, self.path)
            if fault == "down":
                self._hang_up()
                return
            if fault == "busy":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            if fault == "late":
                time.sleep(0.3)
            connection = http.client.HTTPConnection(host, int(port), timeout=60)
            kept = {k: v for k, v in self.headers.items() if k.lower() != "expect"}
            connection.request(self.command, self.path, body, kept)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
            if fault == "lost":
                self._hang_up()
                return
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            stated = answer.getheader("Content-Length") if self.command == "HEAD" else None
            self.send_header("Content-Length", stated or str(len(content)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault == "cut":
                self.wfile.write(content[: len(content) // 2])
                self._hang_up()
                return
            self.wfile.write(content)

        def _hang_up(self) -> None:
            with contextlib.suppress(OSError):
                self.wfile.flush()
                self.connection.shutdown(socket.SHUT_RDWR)
            self.close_connection = True

        do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = _forward  # noqa: N815

    return Forward


@contextlib.contextmanager
def faulty_proxy(target: str, faults: Faults) -> Iterator[str]:
    """A server that passes requests on to another, but for what `faults` does to them; its URL."""
    with _serving(_forwarder(target, faults)) as url:
        yield url
