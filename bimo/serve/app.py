"""The FastAPI application with all interfaces, its error handlers and audit log."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.routing import Match

from bimo import __version__
from bimo.core.errors import BimoError, RequestError
from bimo.core.messages import Message, speaking
from bimo.serve import a1111, dashscope, openai_images, v1
from bimo.serve.audit import Audit
from bimo.serve.dependencies import MEDIA, Format, Links, Service, encoded, file_of, language_of, links_of
from bimo.serve.finetuning.finetuner import Finetuner
from bimo.serve.gate import Gate
from bimo.serve.keys import Caller, KeyStore
from bimo.serve.metrics import CONTENT_TYPE, Metrics
from bimo.serve.problems import ApiError, Json, answer, described
from bimo.serve.service import NO_SUCH_JOB, DrawingService, QueueFullError, StoppingError

_log = logging.getLogger(__name__)
#: The description of errors outside of the interfaces.
PLAIN = described("/")
UNEXPECTED = Message("something went wrong on the server; its log says what")


def create_app(
    service: DrawingService,
    *,
    keys: KeyStore | None = None,
    own: tuple[str, ...] = (),
    gate: Callable[[Any], Any] | None = None,
    finetuner: Finetuner | None = None,
) -> FastAPI:
    """The application of a service, which starts and stops with it, as a ``finetuner`` does. ``own`` are the names of
    this machine; ``gate`` builds the outermost middleware, by default a `Gate` with ``keys`` and ``own``.
    """

    audit = Audit(service.settings.folder, service.store, service.settings.audit_prompts)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
        await run_in_threadpool(service.start)
        if finetuner is not None:
            await run_in_threadpool(finetuner.start)
        try:
            yield
        finally:
            if finetuner is not None:
                await run_in_threadpool(finetuner.stop)
            await run_in_threadpool(service.stop)
            audit.close()

    app = FastAPI(
        title="bimo 笔墨",
        version=__version__,
        description="From a sentence in Chinese or English to a picture.",
        lifespan=lifespan,
        docs_url=None,  # FastAPI's page loads scripts from a CDN
        redoc_url=None,
        default_response_class=Json,
    )
    app.state.service = service
    app.state.audit = audit
    app.state.links = Links(service.store.setting("links", _secret()), service.settings.url_seconds)
    app.state.metrics = metrics = Metrics(service)
    _handlers(app)
    _plain_routes(app, metrics)
    for router in (v1.router, openai_images.router, *a1111.ROUTERS, dashscope.router):
        app.include_router(router, responses=described(f"{router.prefix}/"))

    app.add_middleware(_CountedRequests, metrics=metrics, audit=audit)
    app.add_middleware(gate or (lambda inner: Gate(inner, own, keys=keys, limits=service.settings.limits)))
    return app


def _secret() -> str:
    import secrets

    return secrets.token_hex(32)


def _plain_routes(app: FastAPI, metrics: Metrics) -> None:
    @app.head("/healthz", include_in_schema=False)
    @app.get("/healthz", tags=["server"], responses=PLAIN, summary="Whether the process answers")
    async def healthz() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @app.head("/readyz", include_in_schema=False)
    @app.get("/readyz", tags=["server"], responses={**PLAIN, 503: {}}, summary="Whether jobs are taken")
    async def readyz(service: Service) -> Response:
        full = len(service.open_jobs()) >= service.settings.limits.waiting
        state = "stopping" if service.stopping else "full" if full else "ready" if service.ready else "starting"
        return Json({"status": state}, 200 if state == "ready" else 503)

    @app.get("/metrics", tags=["server"], responses=PLAIN, summary="Numbers for Prometheus", response_class=Response)
    async def numbers() -> Response:
        return Response(await run_in_threadpool(metrics.text), media_type=CONTENT_TYPE)

    @app.get("/files/{job}/{name}", tags=["server"], responses=PLAIN, summary="A picture by an address that expires")
    async def file(job: str, name: str, until: int, signature: str, request: Request, service: Service) -> Response:
        parts = re.fullmatch(r"([0-9]{1,5})(?:\.layer-([0-9]{1,3}))?\.([a-z]+)", name)
        if parts is None or parts[3] not in MEDIA or not links_of(request).good(job, name, until, signature):
            raise ApiError(403, Message("this address of a picture has expired, or was not made here"))
        stored_job = await run_in_threadpool(service.job, job)
        if stored_job is None:
            raise ApiError(404, NO_SUCH_JOB)
        kind: Format = parts[3]  # type: ignore[assignment]
        path = file_of(stored_job, int(parts[1]), int(parts[2] or 0))
        content = await run_in_threadpool(encoded, service, path, kind)
        return Response(content, media_type=MEDIA[kind], headers={"Cache-Control": "private, max-age=3600"})


def _handlers(app: FastAPI) -> None:
    async def handle(request: Request, error: Exception) -> Response:
        return answer(request.url.path, problem(error, request.url.path), language_of(request))

    for kind in (ApiError, BimoError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, handle)


def problem(error: Exception, path: str = "") -> ApiError:
    """Converts an exception to an ApiError."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, QueueFullError):
        return ApiError(429, error.message, code="queue_full", seconds=error.seconds)
    if isinstance(error, StoppingError):
        return ApiError(503, error.message, seconds=5)
    if isinstance(error, RequestError):
        return ApiError(400, error.message)
    if isinstance(error, BimoError):
        return ApiError(500, error.message)
    if isinstance(error, RequestValidationError):
        return _invalid(error, path)
    if isinstance(error, HTTPException):
        if error.status_code == 404:
            return ApiError(404, Message("there is nothing at {path}; /openapi.json lists what there is", path=path))
        if error.status_code == 405:
            return ApiError(405, Message("this address is not for that method"))
        return ApiError(error.status_code, Message("the request cannot be read: {detail}", detail=error.detail))
    _log.error("a request failed", exc_info=error)
    return ApiError(500, UNEXPECTED)


def _invalid(error: RequestValidationError, path: str) -> ApiError:
    first = error.errors()[0]
    where = ".".join(str(step) for step in first["loc"] if step not in ("body", "query", "path")) or "body"
    message = Message("{where} of the request is wrong: {first}", where=where, first=first["msg"])
    return ApiError(400 if path.startswith("/v1/images") else 422, message, param=where)


class _CountedRequests:
    """Middleware that measures requests, writes the audit log, and sets the language of messages to the client's."""

    def __init__(self, app: Any, metrics: Metrics, audit: Audit) -> None:
        self.app, self.metrics, self.audit = app, metrics, audit

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request, start, status = Request(scope), time.perf_counter(), 499

        async def send_and_note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            with speaking(language_of(request)):
                await self.app(scope, receive, send_and_note)
        finally:
            seconds = time.perf_counter() - start
            route: Any = scope.get("route")
            if isinstance(route, APIRoute):
                self.metrics.answered(request.method, route.path, status, seconds)
                self._write(request, status, seconds)

    def _write(self, request: Request, status: int, seconds: float) -> None:
        state = request.scope.get("state", {})
        caller: Caller | None = state.get("caller")
        self.audit.write(
            key=None if caller is None else caller.name,
            address=None if request.client is None else request.client.host,
            method=request.method,
            path=request.url.path,
            status=status,
            seconds=seconds,
            job=state.get("job"),
        )


def unknown_paths(app: FastAPI) -> None:
    """Adds routes that answer 404 and 405 for unknown paths of the interfaces, before the page's catch-all route."""

    async def unknown(request: Request, rest: str = "") -> Response:
        other_method = any(route.matches(request.scope)[0] is Match.PARTIAL for route in app.router.routes)
        raise HTTPException(405 if other_method else 404)

    methods = ["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"]
    for prefix in ("/v1", "/sdapi", "/internal", "/controlnet", "/api/v1", "/files", "/metrics", "/healthz", "/readyz"):
        app.add_api_route(f"{prefix}/{{rest:path}}", unknown, methods=methods, include_in_schema=False)
        app.add_api_route(prefix, unknown, methods=methods, include_in_schema=False)
