"""Who sees the page and what of it: a login by a key, pictures of one's own alone, and of gradio's many addresses those
that the page needs.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse

from bimo.core.messages import Message
from bimo.core.output_path import name_of
from bimo.serve.asking import file_of
from bimo.serve.enlarging import enlarged
from bimo.serve.gate import spoken
from bimo.serve.keys import LOCAL, KeyStore, Scope
from bimo.serve.page.gallery import escaped
from bimo.serve.problems import ApiError, answer
from bimo.serve.service import NO_SUCH_JOB, DrawingService

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

COOKIE = "bimo_key"
#: Seconds that a browser remembers a key.
REMEMBERED = 30 * 86400
#: The longer side of pictures in the gallery, in pixels.
SMALL = 320
#: How many times as wide a picture is enlarged at most.
LARGEST = 2
#: What the page's own script asks of gradio. There is no upload and no file: pictures come and go by the form and by
#: ``/page/pictures``.
_OPEN = re.compile(
    r"/|/config|/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/pwa_icon(/\d+)?|/(assets|static|svelte)/.*"
    r"|/gradio_api/(queue/(join|data)|heartbeat/[\w-]+|startup-events|theme\.css|info|cancel|reset|app_id)"
)
_JOIN = "/gradio_api/queue/join"
_SESSION = re.compile(r"[\w-]{1,64}")
WRONG = Message("no such key; it may have been revoked")
CLOSED = Message("there is nothing here for a page to ask")
SENT = Message("the page sent what no form of it sends; load it again")

Identify = Callable[[Request], str | None]


def identified(keys: KeyStore | None) -> Identify:
    """Whose page a request comes from: the name of a key, None for nobody's."""
    if keys is None:
        return lambda request: LOCAL.name

    def by_cookie(request: Request) -> str | None:
        caller = keys.caller(request.cookies.get(COOKIE, ""))
        return caller.name if caller is not None and caller.may(Scope.draw) else None

    return by_cookie


def router(service: DrawingService, identify: Identify, keys: KeyStore | None) -> APIRouter:
    """The page's own addresses: pictures of whoever asks, and with ``keys`` the login."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/page/pictures/{job}/{name}")
    async def picture(
        job: str,
        name: str,
        request: Request,
        save: bool = False,
        times: Annotated[int, Query(ge=1, le=LARGEST)] = 1,
    ) -> Response:
        user = identify(request)
        place, _, kind = name.partition(".")
        if user is None or not (place.isascii() and place.isdecimal() and len(place) < 4):
            raise ApiError(404, NO_SUCH_JOB)
        found = await run_in_threadpool(service.job, job, user)
        if found is None or kind not in ("png", "webp"):
            raise ApiError(404, NO_SUCH_JOB)
        drawn = file_of(found, int(place))
        content = await run_in_threadpool(drawn.file.read_bytes)
        if kind == "webp":
            content = await run_in_threadpool(small, content)
        elif times > 1:
            content = await run_in_threadpool(enlarged, content, (times * drawn.width, times * drawn.height))
            credentials = service.settings.credentials
            content = content if credentials is None else await run_in_threadpool(credentials.signed, content)
        headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
        if save:
            stem = name_of(str(found.order.values.get("text", "")), 80)
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{_quoted(f'{stem}-{drawn.seed}.png')}"
        return Response(content, media_type=f"image/{kind}", headers=headers)

    if keys is not None:
        _login(routes, keys)
    return routes


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def small(png: bytes) -> bytes:
    """A picture for the gallery, as WebP."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        shown = image.convert("RGB")
    shown.thumbnail((SMALL, SMALL))
    buffer = io.BytesIO()
    shown.save(buffer, "WEBP", quality=85)
    return buffer.getvalue()


def _login(routes: APIRouter, keys: KeyStore) -> None:
    @routes.get("/login")
    async def ask(request: Request) -> Response:
        return _login_page(spoken(request.headers.get("accept-language")))

    @routes.post("/login")
    async def enter(request: Request) -> Response:
        try:
            token = parse_qs((await request.body()).decode(), max_num_fields=4).get("key", [""])[0].strip()
        except ValueError:
            token = ""
        caller = await run_in_threadpool(keys.caller, token)
        if caller is None or not caller.may(Scope.draw):
            return _login_page(spoken(request.headers.get("accept-language")), WRONG)
        entered = RedirectResponse("/", 303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        entered.set_cookie(COOKIE, token, max_age=REMEMBERED, httponly=True, samesite="strict", secure=secure, path="/")
        return entered

    @routes.get("/logout")
    async def leave() -> Response:
        left = RedirectResponse("/login", 303)
        left.delete_cookie(COOKIE, path="/")
        return left


def _login_page(language: str, wrong: Message | None = None) -> Response:
    title = escaped(Message("Your key").said(language))
    enter = escaped(Message("Enter").said(language))
    hint = escaped(Message("Whoever runs this server gives keys: bimo keys add NAME").said(language))
    said = f'<p role="alert">{escaped(wrong.said(language))}</p>' if wrong else ""
    return HTMLResponse(
        f"""<!doctype html><html lang="{language}"><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>笔墨 bimo</title><style>
:root {{ color-scheme: light dark; font: 16px/1.5 system-ui, "Noto Sans CJK SC", sans-serif; }}
body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: light-dark(#f7f4ee, #1c1917); }}
form {{ width: min(22rem, 84vw); display: grid; gap: .8rem; }}
h1 {{ margin: 0; letter-spacing: .06em; }} p {{ margin: 0; opacity: .8; }}
p[role] {{ color: light-dark(#a02f22, #ff9a8a); opacity: 1; }}
input, button {{ font: inherit; padding: .6rem .8rem; border-radius: 8px; border: 1px solid #8886; }}
button {{ background: #b93a2b; color: white; border: 0; }}</style>
<form method="post" action="/login"><h1>笔墨 bimo</h1><label for="key">{title}</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus>
{said}<button>{enter}</button><p>{hint}</p></form></html>""",
        status_code=401 if wrong else 200,
        headers={"Cache-Control": "no-store"},
    )


class OnlyThePage:
    """Before gradio's application: of its addresses those that the page's script asks, bodies as its forms send them,
    and nothing for who has not logged in. ``events`` says of each event how many values it takes.
    """

    def __init__(self, app: ASGIApp, identify: Identify, events: Mapping[int, int]) -> None:
        self.app, self.identify, self.events = app, identify, events

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Hands a request on, or answers that it is refused."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        request = Request(scope, receive)
        path = str(scope["path"]).rstrip("/") or "/"
        language = spoken(request.headers.get("accept-language"))
        if _OPEN.fullmatch(path) is None:
            await answer(path, ApiError(404, CLOSED), language)(scope, receive, send)
        elif self.identify(request) is None and path == "/":
            await RedirectResponse("/login", 303)(scope, receive, send)
        elif path == _JOIN:
            body = await request.body()
            if not self._sent(body):
                await answer(path, ApiError(422, SENT), language)(scope, receive, send)
                return
            waiting = [{"type": "http.request", "body": body, "more_body": False}]

            async def replayed() -> Any:
                return waiting.pop() if waiting else await receive()

            await self.app(scope, replayed, send)
        else:
            await self.app(scope, receive, send)

    def _sent(self, body: bytes) -> bool:
        """Whether a body is what an event of the page sends."""
        try:
            found: Any = json.loads(body)
        except (ValueError, RecursionError):
            return False
        if not isinstance(found, dict):
            return False
        sent = cast("dict[str, Any]", found)
        number, data, session = sent.get("fn_index"), sent.get("data"), sent.get("session_hash")
        if not isinstance(number, int) or isinstance(number, bool) or number not in self.events:
            return False
        named = isinstance(session, str) and _SESSION.fullmatch(session) is not None
        return named and isinstance(data, list) and len(cast("list[Any]", data)) == self.events[number]
