"""`bimo serve`: the process that serves, from its options to its end."""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from typing import Any

import uvicorn

from bimo.core.errors import RequestError
from bimo.core.files import alone
from bimo.core.messages import say
from bimo.hub.options import LoadOptions
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.gate import Gate
from bimo.serve.job_store import JobStore
from bimo.serve.keys import KeyStore, Scope
from bimo.serve.page.layout import mount
from bimo.serve.page.session import Page
from bimo.serve.pool import EngineKey, pool_of
from bimo.serve.safety import PictureFilter, PromptFilter
from bimo.serve.service import DrawingService
from bimo.serve.settings import ServeSettings
from bimo.serve.workers import drawing_in

#: How long connections may take to end after the server was told to.
GRACE_SECONDS = 10


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own and nobody else's."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Announcing(uvicorn.Server):
    """Says where it serves once it does."""

    def __init__(self, config: uvicorn.Config, sentence: str) -> None:
        super().__init__(config)
        self.sentence = sentence

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            print(self.sentence, flush=True)


def serve(settings: ServeSettings, *, host: str, port: int, names: tuple[str, ...] = ()) -> None:
    """Loads the first model and serves until Ctrl-C, or until it is ended from outside: what is begun is drawn, what
    waits is drawn after the next start. ``names`` are further ones of this machine. Raises RequestError.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    with ExitStack() as stack:
        stack.enter_context(alone(settings.folder, RequestError))
        listening = stack.enter_context(_listening(host, port))
        keys = None
        if not is_loopback(host):
            keys = KeyStore(settings.folder)
            stack.callback(keys.close)
            _first_key(keys)
            if settings.label is None:
                told = say(
                    "Note: who offers generated pictures to the public in China must label them: --label CN --producer "
                    "NAME"
                )
                print(told, flush=True)
        service = make_service(settings)
        shown = Page(service, keys)
        own = (socket.gethostname().lower(), host.lower(), *(name.lower() for name in names))

        def gate(inner: object) -> Gate:
            return Gate(inner, own, keys=keys, limits=settings.limits, left=shown.left)

        app = create_app(service, gate=gate)
        unknown_paths(app)
        mount(app, shown)
        bound = listening.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        sentence = say("the page: {local} (Ctrl-C stops it)", local=f"http://{name}:{bound}/")
        config = uvicorn.Config(
            _ending_quietly(app),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            proxy_headers=False,
        )
        asyncio.run(_Announcing(config, sentence).serve([listening]))


def _ending_quietly(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """The application; a connection that is still open when the grace is over is cut, which is no fault to log."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return run


def make_service(settings: ServeSettings) -> DrawingService:
    """The service of some settings, its first model loaded. Raises WeightsError, RecipeError, RequestError."""
    several = settings.workers > 1
    # Of several processes the one that serves has a model to look at alone: what it takes, its words, its samplers.
    looked_at = LoadOptions(device="cpu", denoiser=settings.load_options.denoiser)
    pool = pool_of(replace(settings, load_options=looked_at) if several else settings)
    pool.load_now(EngineKey(pool.default))
    kept: dict[str, Any] = {}
    if settings.filter_prompts:
        kept["check_prompt"] = PromptFilter(settings.words).check
    if settings.filter_pictures:
        kept["inspect"] = PictureFilter().inspect
    if several:
        kept["executor"] = drawing_in(settings.workers)
    return DrawingService(settings, pool, JobStore(settings.folder), **kept)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, port))
        made.listen(128)
        return made
    except OSError as error:
        raise RequestError(
            "cannot serve on {host}:{port} ({error}); try another --port", host=host, port=port, error=error
        ) from None


def _first_key(keys: KeyStore) -> None:
    """A server beyond this machine is nobody's without a key: the first one is made, and shown once."""
    if keys.listed():
        return
    token = keys.add("first", (Scope.admin,))
    print(say("Note: who asks from other machines needs a key. The first one, shown this once: {token}", token=token))
