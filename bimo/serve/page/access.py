"""Access control of the page: login with a key, only one's own pictures and sessions, and only those of gradio's routes
and values that the page needs.
"""

from __future__ import annotations

import io
import json
import re
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast
from urllib.parse import parse_qs

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import HTMLResponse, RedirectResponse

from bimo.core.messages import Message
from bimo.core.output_path import name_of
from bimo.serve.dependencies import file_of
from bimo.serve.enlarging import enlarged
from bimo.serve.gate import spoken
from bimo.serve.keys import LOCAL, Caller, KeyStore, Scope
from bimo.serve.page.gallery import escaped
from bimo.serve.problems import ApiError, answer
from bimo.serve.service import NO_SUCH_JOB, DrawingService

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Send
    from starlette.types import Scope as AsgiScope

COOKIE = "bimo_key"
#: Lifetime of the cookie in seconds.
REMEMBERED = 30 * 86400
#: The longer side of pictures in the gallery, in pixels.
SMALL = 320
#: The largest factor of enlargement.
LARGEST = 2
#: The routes of gradio's that the page's script uses: those that anybody may see, and those of a visitor. Uploads and
#: files are not among them: pictures are sent in the form, and served at ``/page/pictures``.
_STATIC = re.compile(
    r"/theme\.css|/favicon\.ico|/manifest\.json|/robots\.txt|/pwa_icon(/\d+)?|/(assets|static|svelte)/.*"
    r"|/gradio_api/theme\.css"
)
_OPEN = re.compile(
    r"/|/config|/gradio_api/(queue/(join|data)|heartbeat/[\w-]+|startup-events|info|cancel|reset|app_id)"
)
_JOIN = "/gradio_api/queue/join"
_CANCEL = "/gradio_api/cancel"
_DATA = "/gradio_api/queue/data"
_HEARTBEAT = "/gradio_api/heartbeat/"
#: How many tabs are remembered with their visitors, the latest.
MOST_SESSIONS = 10_000
_SESSION = re.compile(r"[\w-]{1,64}")
WRONG = Message("no such key; it may have been revoked")
CLOSED = Message("there is nothing here for a page to ask")
SENT = Message("the page sent what no form of it sends; load it again")
NO_KEY = Message("log in first: load the page again")

Identify = Callable[[Request], str | None]


def identified(keys: KeyStore | None) -> Identify:
    """A function that returns the name of a request's key, None without a valid one."""
    if keys is None:
        return lambda request: LOCAL.name

    def by_cookie(request: Request) -> str | None:
        caller = keys.caller(request.cookies.get(COOKIE, ""))
        return caller.name if caller is not None and caller.may(Scope.draw) else None

    return by_cookie


def router(service: DrawingService, identify: Identify, keys: KeyStore | None) -> APIRouter:
    """The page's own routes: the visitor's pictures, and with ``keys`` the login."""
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
        finished = await run_in_threadpool(service.job, job, user)
        if finished is None or kind not in ("png", "webp"):
            raise ApiError(404, NO_SUCH_JOB)
        content = await run_in_threadpool(file_of(finished, int(place)).read_bytes)
        drawn = next(each for each in finished.pictures if each.place == int(place))
        if kind == "webp":
            content = await run_in_threadpool(small, content)
        elif times > 1:
            content = await run_in_threadpool(enlarged, content, (times * drawn.width, times * drawn.height))
            credentials = service.settings.credentials
            content = content if credentials is None else await run_in_threadpool(credentials.signed, content)
        headers = {"Cache-Control": "private, max-age=86400, immutable", "X-Content-Type-Options": "nosniff"}
        if save:
            stem = name_of(str(finished.order.values.get("text", "")), 80)
            headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{_quoted(f'{stem}-{drawn.seed}.png')}"
        return Response(content, media_type=f"image/{kind}", headers=headers)

    if keys is not None:
        _login(routes, keys)
    return routes


def _quoted(name: str) -> str:
    from urllib.parse import quote

    return quote(name, safe="")


def small(png: bytes) -> bytes:
    """A thumbnail for the gallery, as WebP."""
    from PIL import Image

    with Image.open(io.BytesIO(png)) as image:
        thumbnail = image.convert("RGB")
    thumbnail.thumbnail((SMALL, SMALL))
    buffer = io.BytesIO()
    thumbnail.save(buffer, "WEBP", quality=85)
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
        response = RedirectResponse("/", 303)
        secure = request.url.scheme == "https" or request.headers.get("x-forwarded-proto") == "https"
        response.set_cookie(
            COOKIE, token, max_age=REMEMBERED, httponly=True, samesite="strict", secure=secure, path="/"
        )
        return response

    @routes.get("/logout")
    async def leave() -> Response:
        response = RedirectResponse("/login", 303)
        response.delete_cookie(COOKIE, path="/")
        return response


def _login_page(language: str, wrong: Message | None = None) -> Response:
    title = escaped(Message("Your key").said(language))
    enter = escaped(Message("Enter").said(language))
    hint = escaped(Message("Whoever runs this server gives keys: bimo keys add NAME").said(language))
    alert = f'<p role="alert">{escaped(wrong.said(language))}</p>' if wrong else ""
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
{alert}<button>{enter}</button><p>{hint}</p></form></html>""",
        status_code=401 if wrong else 200,
        headers={"Cache-Control": "no-store"},
    )


class OnlyThePage:
    """ASGI middleware before gradio's application: admits only the routes and bodies that the page's script uses, only
    after login, and to a tab's session only whoever opened it. ``events`` has the number of values of each event.
    """

    def __init__(self, app: ASGIApp, identify: Identify, events: Mapping[int, int]) -> None:
        self.app, self.identify, self.events = app, identify, events
        self._owners: OrderedDict[str, str] = OrderedDict()

    async def __call__(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": ""})
            return
        request = Request(scope, receive)
        path = str(scope["path"]).rstrip("/") or "/"
        if _STATIC.fullmatch(path) is not None:
            await self.app(scope, receive, send)
            return
        try:
            if _OPEN.fullmatch(path) is None:
                raise ApiError(404, CLOSED)
            user = self.identify(request)
            if user is None:
                if path == "/":
                    await RedirectResponse("/login", 303)(scope, receive, send)
                    return
                raise ApiError(401, NO_KEY)
            scope.setdefault("state", {})["caller"] = Caller(user, frozenset((Scope.draw,)))  # for the audit log
            body = await self._checked(request, path, user)
        except ApiError as error:
            await answer(path, error, spoken(request.headers.get("accept-language")))(scope, receive, send)
            return
        messages: list[Any] = [] if body is None else [{"type": "http.request", "body": body, "more_body": False}]

        async def replayed() -> Any:
            return messages.pop() if messages else await receive()

        await self.app(scope, replayed, send)

    async def _checked(self, request: Request, path: str, user: str) -> bytes | None:
        """The body to pass on, None for that of the request itself. Raises ApiError for what the page does not send,
        and for a session of somebody else.
        """
        if path == _JOIN:
            event = self._event(await request.body())
            self._own(event["session_hash"], user)
            return json.dumps(event).encode()
        if path == _CANCEL:
            body = await request.body()
            self._own(_json(body).get("session_hash"), user)
            return body
        if path == _DATA:
            self._own(request.query_params.get("session_hash"), user)
        elif path.startswith(_HEARTBEAT):
            self._own(path.removeprefix(_HEARTBEAT), user)
        return None

    def _own(self, session: object, user: str) -> None:
        """Raises ApiError if a session is none, or another visitor's; who names it first has it."""
        if not isinstance(session, str) or _SESSION.fullmatch(session) is None:
            raise ApiError(422, SENT)
        if self._owners.setdefault(session, user) != user:
            raise ApiError(404, CLOSED)
        self._owners.move_to_end(session)
        if len(self._owners) > MOST_SESSIONS:
            self._owners.popitem(last=False)

    def _event(self, body: bytes) -> dict[str, Any]:
        """The event in a body, with the fields that are needed. Raises ApiError for one that the page does not send.

        Values are plain: gradio takes an object with a path or an address for a file, and would copy or fetch it.
        """
        message = _json(body)
        number, data, trigger = message.get("fn_index"), message.get("data"), message.get("trigger_id")
        if type(number) is not int or not isinstance(data, list) or not (trigger is None or type(trigger) is int):
            raise ApiError(422, SENT)
        values = cast("list[Any]", data)
        if len(values) != self.events.get(number) or not all(map(_is_plain, values)):
            raise ApiError(422, SENT)
        return {
            "fn_index": number,
            "data": values,
            "trigger_id": trigger,
            "session_hash": message.get("session_hash"),
        }


def _json(body: bytes) -> dict[str, Any]:
    """The object in a body. Raises ApiError."""
    try:
        parsed: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(422, SENT) from None
    if not isinstance(parsed, dict):
        raise ApiError(422, SENT)
    return cast("dict[str, Any]", parsed)


def _is_plain(value: object) -> bool:
    """Whether a value is one that a component of the page has: text, a number, a choice, or a list of choices."""
    if isinstance(value, list):
        return all(isinstance(one, str) for one in cast("list[object]", value))
    return value is None or isinstance(value, (str, int, float))
