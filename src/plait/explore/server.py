"""The server of the page: on this machine only unless told otherwise, one forward at a time."""

import ipaddress
import json
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from plait.explore.explored_model import ExploredModel, open_explored
from plait.explore.html import render
from plait.explore.token_paths import MAX_BYTES, TooLongError

MAX_BODY = 6 * MAX_BYTES + 1024  # JSON may write a byte as \u00XX
MAX_CONNECTIONS = 256
BODY_SECONDS = 20
"""that a request's body may take: a page sends it at once"""
LOOPBACK = "127.0.0.1"


class _RefusedError(Exception):
    """An answer to a request that is not to be served, as (status, message)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def application(models: list[ExploredModel], host: str = LOOPBACK) -> ASGIApp:
    """Build the server's application.

    `GET /` is the page, `GET /api/models` gives {"models": [`describe`…]}, and
    `POST /api/analyse` takes {"model": index, "text": str} and gives `analyse`. A refusal is
    {"error": message}.
    """
    described = {"models": [model.describe() for model in models]}
    html = render()
    one_at_a_time = anyio.CapacityLimiter(1)  # hooks and memory; torch uses all cores by itself

    async def page(request: Request) -> Response:
        return HTMLResponse(html)

    async def list_models(request: Request) -> Response:
        return JSONResponse(described)

    async def analyse(request: Request) -> Response:
        model, text = _question(await _body(request), models)
        answer = partial(model.analyse, text)
        try:
            found = await anyio.to_thread.run_sync(answer, limiter=one_at_a_time)
        except TooLongError as error:
            raise _RefusedError(413, str(error)) from None
        except ValueError as error:
            raise _RefusedError(400, str(error)) from None
        return JSONResponse(found)

    routes = [
        Route("/", page, methods=["GET"]),
        Route("/api/models", list_models, methods=["GET"]),
        Route("/api/analyse", analyse, methods=["POST"]),
    ]
    inner = Starlette(routes=routes, exception_handlers={_RefusedError: _refusal})
    return _Guard(inner, host)


def serve(
    runs: list[Path], host: str = LOOPBACK, port: int = 8765, device: str | None = None
) -> None:
    """Serve the page until interrupted.

    Args:
        runs: folders of runs, or of Hugging Face models.
        host: address to listen on; anything but loopback lets others in, and is warned of.
        port: 0 takes a free one.
        device: as torch names it; None: CUDA where there is one, else the CPU.

    Raises:
        ValueError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except (OSError, OverflowError) as error:
            said = error.strerror if isinstance(error, OSError) else error
            raise ValueError(
                f"cannot listen on {host} port {port} ({said}): give another --port"
            ) from None
        app = application(open_explored(runs, device), host)
        listener.listen()
        if not _is_loopback(host):
            print(
                f"warning: listening on {host}: whoever reaches this machine can use the page, and "
                "nothing is encrypted; leave out --host to keep it to yourself",
                file=sys.stderr,
            )
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{listener.getsockname()[1]}/   (Ctrl-C ends it)", flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,
            limit_concurrency=MAX_CONNECTIONS,
            ws="none",
            lifespan="off",
            server_header=False,
        )
        with suppress(KeyboardInterrupt):  # uvicorn ends in order, then raises it once more
            uvicorn.Server(config).run(sockets=[listener])


class _Guard:
    """Refuses requests that another site's page may have sent, and says how to treat answers.

    A name that an attacker points at this machine (DNS rebinding) comes as the request's Host, so
    only addresses and our own name are let through. Asking for JSON makes a browser ask for leave
    before it sends a request for another site, and nobody here gives it.
    """

    _HEADERS = (
        (b"x-content-type-options", b"nosniff"),
        (b"x-frame-options", b"DENY"),
        (b"content-security-policy", b"frame-ancestors 'none'"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-resource-policy", b"same-origin"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cache-control", b"no-store"),
    )

    def __init__(self, app: ASGIApp, host: str) -> None:
        self.app = app
        self.host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._HEADERS]
            await send(message)

        refused = self._refusal(Request(scope))
        await (refused or self.app)(scope, receive, send_guarded)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        if not self._is_ours(host):
            return _error(421, f"this server does not answer for {host!r}: open it by its address")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return _error(403, "this server answers its own page only")
        if request.method == "POST":
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                return _error(415, "send JSON, with content-type application/json")
        return None

    def _is_ours(self, authority: str) -> bool:
        name = authority.rpartition(":")[0] if not authority.endswith("]") else authority
        name = (name or authority).strip("[]").lower()
        if _is_loopback(name):
            return True
        if _is_loopback(self.host):
            return False
        return name == self.host.lower() or name == socket.gethostname().lower() or _is_ip(name)


async def _body(request: Request) -> bytes:
    body = b""
    try:
        with anyio.fail_after(BODY_SECONDS):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _RefusedError(
                        413, f"the text is longer than {MAX_BYTES:,} bytes: shorten it"
                    )
    except TimeoutError:
        raise _RefusedError(408, f"the request stalled for {BODY_SECONDS} seconds") from None
    except ClientDisconnect:  # nobody is there to read this
        raise _RefusedError(400, "the request broke off") from None
    return body


def _question(body: bytes, models: list[ExploredModel]) -> tuple[ExploredModel, str]:
    try:
        question: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise _RefusedError(400, "the request is not JSON") from None
    index = question.get("model") if isinstance(question, dict) else None
    text = question.get("text") if isinstance(question, dict) else None
    if type(index) is not int or not isinstance(text, str):
        raise _RefusedError(400, 'send {"model": index, "text": string}')
    if not 0 <= index < len(models):
        raise _RefusedError(400, f"there is no model {index}: there are {len(models)}")
    return models[index], text


async def _refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, _RefusedError)
    return _error(error.status, str(error))


def _error(status: int, message: str) -> Response:
    headers = {"connection": "close"} if status == 408 else None
    return JSONResponse({"error": message}, status, headers)


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name == "localhost" or (_is_ip(name) and ipaddress.ip_address(name).is_loopback)
