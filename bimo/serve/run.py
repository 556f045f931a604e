"""Runs the server of `bimo serve`: socket, keys, service, application."""

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
from bimo.serve.finetuning.finetuner import Finetuner
from bimo.serve.gate import Gate
from bimo.serve.job_store import JobStore
from bimo.serve.keys import KeyStore, Scope
from bimo.serve.page.layout import mount
from bimo.serve.page.session import Page
from bimo.serve.pool import EngineKey, pool_of
from bimo.serve.safety import PictureFilter, PromptFilter
from bimo.serve.service import DrawingService
from bimo.serve.settings import ServeSettings
from bimo.serve.workers import process_executor

#: Seconds that open connections have to end at shutdown.
GRACE_SECONDS = 10


def is_loopback(host: str) -> bool:
    """Whether an address is only reachable from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class _Announcing(uvicorn.Server):
    """Prints the address once the server has started."""

    def __init__(self, config: uvicorn.Config, sentence: str) -> None:
        super().__init__(config)
        self.sentence = sentence

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            print(self.sentence, flush=True)


def serve(settings: ServeSettings, *, host: str, port: int, names: tuple[str, ...] = ()) -> None:
    """Loads the first model and serves until Ctrl-C or a signal: started pictures are finished, waiting jobs are
    resumed at the next start. ``names`` are additional host names of this machine. Raises RequestError.
    """
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda number, _: sys.exit(128 + number))
    with ExitStack() as stack:
        stack.enter_context(alone(settings.folder, RequestError))
        listening_socket = stack.enter_context(_listening(host, port))
        keys = None
        if not is_loopback(host):
            keys = KeyStore(settings.folder)
            stack.callback(keys.close)
            _first_key(keys)
            if settings.label is None:
                note = say(
                    "Note: who offers generated pictures to the public in China must label them: --label CN --producer "
                    "NAME"
                )
                print(note, flush=True)
        service = make_service(settings)
        finetuner = Finetuner(settings, service.pool, service.check_prompt) if settings.finetuning else None
        page = Page(service, keys, finetuner)
        if page.judging is not None and (missing := page.judging.pairs.missing):
            print(say("{count} pictures that the reports name are not there", count=missing), flush=True)
        own_names = (socket.gethostname().lower(), host.lower(), *(name.lower() for name in names))

        def gate(inner: object) -> Gate:
            return Gate(inner, own_names, keys=keys, limits=settings.limits, on_page_closed=page.closed)

        app = create_app(service, gate=gate, finetuner=finetuner)
        unknown_paths(app)
        mount(app, page)
        bound_port = listening_socket.getsockname()[1]
        name = f"[{host}]" if ":" in host else host
        sentence = say("the page: {local} (Ctrl-C stops it)", local=f"http://{name}:{bound_port}/")
        config = uvicorn.Config(
            _ending_quietly(app),
            http="h11",  # and not what else is installed: how broken requests are answered is tested with it
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=GRACE_SECONDS,
            proxy_headers=False,
        )
        asyncio.run(_Announcing(config, sentence).serve([listening_socket]))


def _ending_quietly(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Wraps the application so that connections cancelled after the grace period log no error."""

    async def run(scope: Any, receive: Any, send: Any) -> None:
        with suppress(asyncio.CancelledError):
            await app(scope, receive, send)

    return run


def make_service(settings: ServeSettings) -> DrawingService:
    """The service for some settings, with its first model loaded. Raises WeightsError, RecipeError, RequestError."""
    several = settings.workers > 1 or settings.on == "ray"
    # With worker processes, the server's own model is only inspected, for validation, tokens and samplers.
    given = settings.load_options
    inspection_options = LoadOptions(device="cpu", denoiser=given.denoiser, text_encoder=given.text_encoder)
    pool = pool_of(replace(settings, load_options=inspection_options) if several else settings)
    pool.load_now(EngineKey(pool.default))
    options: dict[str, Any] = {}
    if settings.filter_prompts:
        options["check_prompt"] = PromptFilter(settings.words).check
    if settings.filter_pictures:
        options["inspect"] = PictureFilter().inspect
    if settings.on == "ray":
        from bimo.serve.ray_replicas import ray_executor

        options["executor"] = ray_executor(settings.workers)
    elif several:
        options["executor"] = process_executor(settings.workers)
    return DrawingService(settings, pool, JobStore(settings.folder), **options)


def _listening(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        server_socket = socket.socket(family, socket.SOCK_STREAM)
        server_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server_socket.bind((host, port))
        server_socket.listen(128)
        return server_socket
    except OSError as error:
        raise RequestError(
            "cannot serve on {host}:{port} ({error}); try another --port", host=host, port=port, error=error
        ) from None


def _first_key(keys: KeyStore) -> None:
    """Creates the first key of a server that other machines can reach, and shows it once."""
    if keys.listed():
        return
    token = keys.add("first", (Scope.admin,))
    print(say("Note: who asks from other machines needs a key. The first one, shown this once: {token}", token=token))
