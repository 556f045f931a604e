"""What ``bimo.draw`` draws: a request's pictures by its engine, and then the texts that must stand in them."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bimo.core.errors import RequestError
from bimo.core.installing import installing
from bimo.core.messages import say
from bimo.core.picture import Picture
from bimo.core.request import Request
from bimo.prompts.quoted_text import quoted

if TYPE_CHECKING:
    from bimo.engine.engine import AnyRequest, Engine, Progress
    from bimo.inscription.inscribe import OnCharacters


def draw(
    engine: Engine,
    request: AnyRequest,
    /,
    *,
    batch: int = 1,
    progress: Progress | None = None,
    **settings: Any,
) -> list[Picture]:
    """Draws a request, or a sentence with settings, with the texts asked for in it:
    ``draw(engine, "红苹果", seed=1)``, ``draw(engine, "红灯笼", inscribe=["福"])``.

    Texts are ``inscribe``, or else what stands in quotation marks in the prompt. Raises RequestError.
    """
    from bimo.engine.engine import Engine

    if not isinstance(engine, Engine):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(engine).__name__
        raise RequestError(
            "bimo.draw draws with what bimo.load gives and not with a {kind}; of a System make one: "
            "bimo.Engine(system)",
            kind=kind,
        )
    return list(stream(engine, request, batch=batch, progress=progress, **settings))


def stream(
    engine: Engine,
    request: AnyRequest,
    /,
    *,
    batch: int = 1,
    progress: Progress | None = None,
    inscribing: OnCharacters | None = None,
    **settings: Any,
) -> Iterator[Picture]:
    """As ``draw``, each picture as soon as it is done. The request, its texts and their fonts are checked at once."""
    prepared = engine.prepare(request, **settings)
    texts = texts_of(prepared.request)
    reason = check(prepared.request)
    plain = replace(prepared, request=prepared.request.model_copy(update={"inscribe": ()}))
    pictures = engine.stream(plain, batch=batch, progress=progress)
    return _inscribed(engine, pictures, prepared.request, bool(texts) and not reason, reason, inscribing)


def texts_of(request: Request) -> tuple[str, ...]:
    """The texts that must stand in the picture: ``inscribe``, or what is in quotation marks in the prompt."""
    return quoted(request.text) if request.inscribe is None else request.inscribe


def check(request: Request) -> str:
    """The warning for a request whose quoted texts cannot be set, "" if they can. For texts of ``inscribe`` it raises
    RequestError instead: if no font has their characters, if they are empty, or if their box is invalid.
    """
    if not texts_of(request):
        return ""
    try:
        from bimo.inscription.fonts import faces_for, find_faces
        from bimo.inscription.inscribe import requested
        from bimo.inscription.layout import characters_of

        faces = find_faces(request.font)
        for inscription in requested(request):
            faces_for(characters_of(inscription.text), faces)
    except (RequestError, ModuleNotFoundError) as error:
        return _unwritten(request, error)
    return ""


def _unwritten(request: Request, error: RequestError | ModuleNotFoundError) -> str:
    """The warning for quoted texts that are not written; of texts of ``inscribe`` it raises RequestError."""
    if isinstance(error, ModuleNotFoundError):
        command = installing("inscription")
        error = RequestError("{name} is not installed; run {command}", name=error.name, command=command)
    if request.inscribe is not None:
        raise error
    return say("what stands in quotation marks is drawn as the model can, and not checked: {why}", why=error)


def finished(engine: Engine, picture: Picture, request: Request, progress: OnCharacters | None = None) -> Picture:
    """A picture that was drawn without texts, with those of ``request`` in it: for callers that sample without
    ``stream``. Raises RequestError where texts were named by ``inscribe`` and cannot be written.
    """
    picture = replace(picture, request=request)
    if not texts_of(request):
        return picture
    if reason := check(request):
        return replace(picture, warnings=(*picture.warnings, reason))
    return _with_texts(engine, picture, progress)


def _inscribed(
    engine: Engine,
    pictures: Iterator[Picture],
    request: Request,
    wanted: bool,
    reason: str,
    progress: OnCharacters | None,
) -> Generator[Picture]:
    for picture in pictures:
        picture = replace(picture, request=request)
        if reason:
            picture = replace(picture, warnings=(*picture.warnings, reason))
        yield _with_texts(engine, picture, progress) if wanted else picture


def _with_texts(engine: Engine, picture: Picture, progress: OnCharacters | None) -> Picture:
    from bimo.inscription.inscribe import inscribe, requested

    request = picture.request
    try:
        return inscribe(engine, picture, requested(request), progress)
    except (RequestError, ModuleNotFoundError) as error:
        return replace(picture, warnings=(*picture.warnings, _unwritten(request, error)))
