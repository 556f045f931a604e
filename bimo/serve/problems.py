"""Error responses: one sentence in the client's language, in the format of the interface."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from starlette.responses import JSONResponse, Response

from bimo.core.messages import Sayable
from bimo.serve.jobs import Failure

#: OpenAI's error types by HTTP status.
_OPENAI = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}
_DASHSCOPE = {400: "InvalidParameter", 401: "InvalidApiKey", 403: "AccessDenied", 404: "NotFound", 429: "Throttling"}
#: DashScope's code for what cannot be done to a task in its state.
UNSUPPORTED = "UnsupportedOperation"
#: The most characters of a sentence: it may repeat what came, which may be megabytes.
MOST_SAID = 2000
NAMES = {
    400: "invalid_request",
    401: "invalid_api_key",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    409: "conflict",
    413: "too_large",
    415: "unsupported_media_type",
    421: "misdirected",
    422: "invalid_request",
    429: "too_many",
    500: "server_error",
    503: "unavailable",
    504: "deadline",
    507: "out_of_memory",
}


class ApiError(Exception):
    """An error response. ``param`` is the offending field, ``seconds`` the value of Retry-After."""

    def __init__(
        self, status: int, message: Sayable, *, code: str = "", param: str | None = None, seconds: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.seconds = status, message, param, seconds
        self.code = code or NAMES.get(status, "error")

    @classmethod
    def of(cls, failure: Failure) -> ApiError:
        """The error of a job's failure."""
        return cls(failure.status, failure, code=failure.code)


class Json(JSONResponse):
    """JSON that can contain any text of a request, lone surrogates included."""

    media_type = "application/json; charset=utf-8"

    def render(self, content: Any) -> bytes:
        """Encodes the content as UTF-8."""
        text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "backslashreplace")


def form(path: str, status: int, code: str, sentence: str, param: str | None = None) -> dict[str, Any]:
    """The body of an error in the format of the path's interface."""
    if path.startswith(("/sdapi/", "/internal/", "/controlnet/")):
        return {"error": code, "detail": sentence, "body": "", "errors": sentence}
    if path.startswith("/api/v1/"):
        kind = _DASHSCOPE.get(status, "InternalError" if status >= 500 else "InvalidParameter")
        return {"code": code if code == UNSUPPORTED else kind, "message": sentence, "request_id": ""}
    if path.startswith("/v1/"):
        kind = _OPENAI.get(status, "server_error" if status >= 500 else "invalid_request_error")
        return {"error": {"message": sentence, "type": kind, "param": param, "code": code}}
    return {"error": sentence}


def described(path: str) -> dict[int | str, dict[str, Any]]:
    """The OpenAPI description of an interface's errors, by the prefix of its paths."""
    body = form(path, 400, "", "")
    content = {"application/json": {"schema": _schema(body)}}
    return {
        "4XX": {"description": "What is wrong with the request, in one sentence", "content": content},
        "5XX": {"description": "What the server cannot do now, in one sentence", "content": content},
    }


def _schema(body: Mapping[str, Any]) -> dict[str, Any]:
    fields = {
        name: _schema(cast("Mapping[str, Any]", value)) if isinstance(value, dict) else {"type": "string"}
        for name, value in body.items()
    }
    if "param" in fields:
        fields["param"] = {"type": ["string", "null"]}
    return {"type": "object", "properties": fields, "required": list(fields)}


def answer(path: str, error: ApiError, language: str) -> Response:
    """The response for an error."""
    headers: Mapping[str, str] = {} if error.seconds is None else {"Retry-After": str(error.seconds)}
    if error.status == 401:
        headers = {**headers, "WWW-Authenticate": 'Bearer realm="bimo", Basic realm="bimo"'}
    sentence = error.message.said(language)
    if len(sentence) > MOST_SAID:
        sentence = sentence[: MOST_SAID - 1] + "…"
    body = form(path, error.status, error.code, sentence, error.param)
    return Json(body, error.status, headers=dict(headers))
