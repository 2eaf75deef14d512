"""One small live server: pages that are built when they are asked for, and actions registered by name.

It listens on the loopback address alone, and answers only who brings the random token of its URL (kept as a cookie
afterwards) and names it by its own host (so no foreign site reaches it by a rebound name). Bodies are bounded.
"""

from __future__ import annotations

import hmac
import http.server
import json
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from http import HTTPStatus
from http.cookies import SimpleCookie
from types import TracebackType
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

from stepwell.core.errors import InvalidValueError, StepwellError
from stepwell.core.log import logger
from stepwell.view.page import POLICY, Page, plotly_js

Json: TypeAlias = "str | int | float | bool | list[Json] | dict[str, Json] | None"
View: TypeAlias = Callable[[], Page]
Action: TypeAlias = Callable[[Json], Json]

HOST = "127.0.0.1"
PLOTLY_PATH = "/plotly.js"
READ_TIMEOUT_S = 15


@dataclass(frozen=True)
class _Site:
    """What the server shows and to whom."""

    pages: Mapping[str, View]
    actions: Mapping[str, Action]
    token: str
    max_body_bytes: int
    lock: threading.Lock

    @cached_property
    def plotly(self) -> bytes:
        return plotly_js().encode()


class Server:
    """Serves pages on the loopback address to whoever holds its URL.

    Views and actions run one at a time, on the server's threads: they need no locks among themselves.

    Args:
        pages: Path (`/`, `/queue`) to a function that builds the page.
        actions: Name to a function from the JSON of a POST to `/action/<name>` to a JSON answer. A `StepwellError` it
            raises is shown to the reader; any other error is logged and answered with a plain failure.
        port: Port to listen on, 0 for any free one.
        max_body_bytes: Larger bodies are refused unread.

    Raises:
        InvalidValueError: If a path does not start with `/` or the bound is below 1.

    Example:
        >>> with Server({"/": lambda: Page("Live")}) as server:
        ...     server.url.startswith("http://127.0.0.1:")
        True
    """

    def __init__(
        self,
        pages: Mapping[str, View],
        actions: Mapping[str, Action] | None = None,
        *,
        port: int = 0,
        max_body_bytes: int = 1 << 20,
    ) -> None:
        for path in pages:
            if not path.startswith("/"):
                raise InvalidValueError("pages", path, "paths that start with '/'")
        if max_body_bytes < 1:
            raise InvalidValueError("max_body_bytes", max_body_bytes, "at least 1")
        self.token = secrets.token_urlsafe(24)
        site = _Site(dict(pages), dict(actions or {}), self.token, max_body_bytes, threading.Lock())
        self._http = http.server.ThreadingHTTPServer((HOST, port), partial(_Handler, site))
        self._http.daemon_threads = True
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on."""
        return int(self._http.server_address[1])

    @property
    def url(self) -> str:
        """The address to open, token included; whoever holds it may do everything."""
        return f"http://{HOST}:{self.port}/?token={self.token}"

    def start(self) -> None:
        """Serve on a background thread until `stop`."""
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), name="stepwell-view", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Block until the server is stopped or the user interrupts."""
        try:
            while self._thread is not None and self._thread.is_alive():
                self._thread.join(0.5)
        except KeyboardInterrupt:
            self.stop()

    def stop(self) -> None:
        """Stop serving and free the port."""
        if self._thread is not None:
            self._http.shutdown()
            self._thread.join()
            self._thread = None
        self._http.server_close()

    def __enter__(self) -> Server:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


class _Refused(Exception):
    """A request that gets an error answer."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "stepwell"
    sys_version = ""
    timeout = READ_TIMEOUT_S

    def __init__(self, site: _Site, *args: object) -> None:
        self.site = site
        super().__init__(*args)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        logger(__name__).debug("%s %s", self.command, urlsplit(self.path).path)  # never the token

    def do_GET(self) -> None:
        self._guarded(self._get)

    def do_POST(self) -> None:
        self._guarded(self._post)

    def _guarded(self, answer: Callable[[], None]) -> None:
        try:
            self._check_caller()
            answer()
        except _Refused as refused:
            self.close_connection = True  # an unread body must not be taken for the next request
            self._send(refused.status, _json({"error": str(refused)}), "application/json")
        except Exception:
            logger(__name__).exception("a request to the live server failed")
            self._send(HTTPStatus.INTERNAL_SERVER_ERROR, _json({"error": "This failed; the log says why."}))

    @property
    def _port(self) -> int:
        return int(self.connection.getsockname()[1])

    @property
    def _cookie(self) -> str:
        return f"stepwell-{self._port}"

    def _check_caller(self) -> None:
        own = {f"{name}:{self._port}" for name in (HOST, "localhost")}
        if self.headers.get("Host") not in own:
            raise _Refused(HTTPStatus.FORBIDDEN, "This server answers to its own name only.")
        origin = self.headers.get("Origin")
        if origin is not None and origin not in {f"http://{name}" for name in own}:
            raise _Refused(HTTPStatus.FORBIDDEN, "This server answers its own pages only.")
        if not hmac.compare_digest(self._brought_token().encode(), self.site.token.encode()):
            raise _Refused(HTTPStatus.FORBIDDEN, "Open the address with the token that was printed at the start.")

    def _brought_token(self) -> str:
        header = self.headers.get("X-Stepwell-Token")
        if header:
            return header
        query = parse_qs(urlsplit(self.path).query).get("token")
        if query and self.command == "GET":
            return query[0]
        found = SimpleCookie(self.headers.get("Cookie", "")).get(self._cookie)
        return found.value if found else ""

    def _get(self) -> None:
        parts = urlsplit(self.path)
        if "token" in parse_qs(parts.query):  # keep the token out of the history and of what pages link to
            path = "/" + parts.path.lstrip("/")
            return self._send(HTTPStatus.SEE_OTHER, b"", extra={"Location": path, "Set-Cookie": self._set_cookie()})
        if parts.path == PLOTLY_PATH:
            return self._send(HTTPStatus.OK, self.site.plotly, "text/javascript", {"Cache-Control": "max-age=86400"})
        view = self.site.pages.get(parts.path)
        if view is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"There is no page {parts.path}.")
        with self.site.lock:
            page = view()
        return self._send(HTTPStatus.OK, page.html(PLOTLY_PATH).encode(), "text/html")

    def _post(self) -> None:
        path = urlsplit(self.path).path
        action = self.site.actions.get(path.removeprefix("/action/")) if path.startswith("/action/") else None
        body = self._body()
        if action is None:
            raise _Refused(HTTPStatus.NOT_FOUND, f"There is no action at {path}.")
        try:
            with self.site.lock:
                result = action(body)
        except StepwellError as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, str(error)) from error
        self._send(HTTPStatus.OK, _json(result), "application/json")

    def _body(self) -> Json:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            raise _Refused(HTTPStatus.LENGTH_REQUIRED, "A body needs its length.")
        if int(length) > self.site.max_body_bytes:
            raise _Refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"At most {self.site.max_body_bytes} bytes are read.")
        if self.headers.get_content_type() != "application/json":
            raise _Refused(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "A body must be JSON.")
        try:
            body: Json = json.loads(self.rfile.read(int(length)))
        except (ValueError, RecursionError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, "The body is no valid JSON.") from error
        return body

    def _set_cookie(self) -> str:
        return f"{self._cookie}={self.site.token}; HttpOnly; SameSite=Strict; Path=/"

    def _send(
        self, status: HTTPStatus, body: bytes, kind: str = "application/json", extra: Mapping[str, str] | None = None
    ) -> None:
        headers = {
            "Content-Type": f"{kind}; charset=utf-8",
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "Content-Security-Policy": f"{POLICY}; frame-ancestors 'none'",
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
        }
        self.send_response(status)
        for name, value in {**headers, **(extra or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _json(value: Json) -> bytes:
    return json.dumps(value).encode()
