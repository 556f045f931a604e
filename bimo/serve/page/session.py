"""Visitors of the page: their jobs, their history, and what their browser tabs wait for."""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import html
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import gradio as gr

from bimo.core.errors import BimoError, RequestError
from bimo.core.messages import Message, Sayable
from bimo.serve.audit import Audit
from bimo.serve.enlarging import enlarged
from bimo.serve.finetuning.finetuner import Finetuner
from bimo.serve.gate import spoken
from bimo.serve.jobs import LANGUAGE, Job, Order, State, StoredPicture
from bimo.serve.keys import LOCAL, KeyStore
from bimo.serve.page import gallery, models
from bimo.serve.page.comparison import Votes
from bimo.serve.page.form import Form
from bimo.serve.page.gallery import PictureName
from bimo.serve.page.judging import Judging
from bimo.serve.page.models import RATIOS, Offer
from bimo.serve.pool import EngineKey
from bimo.serve.service import DrawingService, QueueFullError

CLIENT = "page"
#: The factor of upscaling, and the strength of the second pass.
TIMES = 2
DRAWN_OVER = 0.35
LEAST_STEPS = 12
#: Number of previews of a picture.
PREVIEWS = 6
#: Jobs that the gallery shows at first, and how many more each time.
SHOWN = 24


class Page:
    """The page of a service: handles the requests of its visitors and tracks what their tabs wait for."""

    def __init__(
        self, service: DrawingService, keys: KeyStore | None = None, finetuner: Finetuner | None = None
    ) -> None:
        self.service = service
        self.finetuner = finetuner
        self.pool = service.pool
        self.keys = keys
        #: Where the visitors' jobs are written down; that of the application which the page is mounted in.
        self.audit: Audit | None = None
        self.votes = Votes(service.settings.folder / "preferences")
        reports = service.settings.reports
        self.judging = Judging(reports, service.settings.folder / "judgements") if reports else None
        #: The job that a tab's stage shows, by session; it may wait for others as well.
        self.staged: dict[str, str] = {}
        #: Jobs that a tab waits for, by session.
        self._waiting: dict[str, set[str]] = {}

    def closed(self, session: str) -> None:
        """To be called when a tab was closed: cancels the jobs it waits for."""
        self.stop(session)
        if self.judging is not None:
            self.judging.closed(session)

    def stop(self, session: str) -> None:
        """Cancels the jobs that a tab waits for; what has more of them to submit, submits no more."""
        for job in self._waiting.pop(session, ()):
            self.service.cancel(job)

    @contextmanager
    def submitting(self, who: Visitor) -> Generator[Callable[[], bool]]:
        """For what submits several jobs for a tab; the result says whether to go on, which is until `stop`."""
        mark = uuid.uuid4().hex
        self._waiting.setdefault(who.session, set()).add(mark)
        try:
            yield lambda: mark in self._waiting.get(who.session, ())
        finally:
            self.done(mark, who)

    def named(self, path: Path) -> Path:
        """A file of the server as its visitors may see it: with keys, they are not those who run it."""
        return path if self.keys is None else Path(path.parent.name, path.name)

    async def offer(self, model: str) -> Offer:
        """The settings that a model offers; loads it if necessary. Raises BimoError."""
        return Offer.of(await models.loaded(self.pool, model))

    async def accept(self, form: Form, who: Visitor) -> Job:
        """Submits the job of a form. Raises RequestError."""
        form = await self._fitted(form)
        engine = self.pool.resident(EngineKey(self.pool.model_name(form.model or None)))
        own = 0.0 if engine is None else engine.recipe.levels[-1].guidance.rescale
        return await self._accepted(
            who, lambda: (self.order(form, who.user, own, who.language), form.pictures(self.pool.controls))
        )

    async def _fitted(self, form: Form) -> Form:
        """A form without a model, with the size of the model that will draw it: the form has that of the default."""
        adapted = bool(form.loras or (form.control_image and form.control))
        size, redrawn = (form.width, form.height), bool(form.image)
        name = self.pool.model_for(form.model or None, form.text, adapted, size, redrawn)
        if form.model or name == self.pool.default:
            return form
        default, own = await self.offer(self.pool.default), await self.offer(name)
        sizes = ((default.width, default.height), *(default.shaped(ratio) for ratio in RATIOS))
        fitting = ((own.width, own.height), *(own.shaped(ratio) for ratio in RATIOS))
        width, height = dict(zip(sizes, fitting, strict=True)).get((form.width, form.height), (form.width, form.height))
        return replace(form, width=width, height=height)

    async def enlarge(self, job: Job, picture: StoredPicture, who: Visitor) -> Job:
        """Submits a job that upscales a picture with a second pass. Raises RequestError."""

        def upscaled_order() -> tuple[Order, dict[str, bytes]]:
            size = (TIMES * picture.width, TIMES * picture.height)
            values = {n: v for n, v in job.order.values.items() if n not in ("conditions", "inscribe")}
            values |= {"size": list(size), "count": 1, "seed": picture.seed, "strength": DRAWN_OVER}
            # With few steps, as distilled models take, none would be left for a third of the noise.
            values["steps"] = max(LEAST_STEPS, self.service.own_steps(job.order.model), values.get("steps", 0))
            order = self.service.order(
                values,
                key=who.user,
                client=CLIENT,
                model=job.order.model,
                loras=job.order.loras,
                previews=PREVIEWS,
                note={LANGUAGE: who.language},
            )
            return order, {"image": enlarged(picture.file.read_bytes(), size)}

        return await self._accepted(who, upscaled_order)

    async def _accepted(self, who: Visitor, build_order: Callable[[], tuple[Order, dict[str, bytes]]]) -> Job:
        if self.keys is not None and (seconds := self.keys.wait(who.user)):
            message = Message("this key asks too often; ask again in {seconds} seconds", seconds=seconds)
            raise QueueFullError(message, seconds)
        job = await asyncio.to_thread(lambda: self.service.accept(*build_order()))
        self._waiting.setdefault(who.session, set()).add(job.id)
        if (audit := self.audit) is not None:
            await asyncio.to_thread(
                lambda: audit.write(key=who.user, address=who.address, method="POST", path="/", status=202, job=job.id)
            )
        return job

    def order(self, form: Form, user: str, rescale: float = 0.0, language: str = "") -> Order:
        """The order of a form. Raises RequestError."""
        return self.service.order(
            form.values(rescale, self.pool.controls),
            key=user,
            client=CLIENT,
            model=form.model or None,
            loras=form.weighted_loras(),
            controls=(form.control,) if form.control_image and form.control in self.pool.controls else (),
            previews=PREVIEWS,
            note={LANGUAGE: language},
        )

    def done(self, job: str, who: Visitor) -> None:
        """Stops tracking a job of a tab."""
        waiting = self._waiting.get(who.session, set())
        waiting.discard(job)
        if not waiting:
            self._waiting.pop(who.session, None)

    async def history(self, who: Visitor, text: str = "", most: int = SHOWN) -> str:
        """The gallery of a visitor as HTML."""
        jobs = await asyncio.to_thread(self.service.store.jobs, who.user, State.done, text[:200], None, most)
        return gallery.history(jobs, who.language, text)

    async def picked(self, text: object, who: Visitor) -> tuple[Job, PictureName]:
        """The picture that a browser refers to, if it is the visitor's own. Raises RequestError."""
        named = PictureName.read(text)
        job = None if named is None else await asyncio.to_thread(self.service.job, named.job, who.user)
        if named is None or job is None or all(p.place != named.place for p in gallery.visible_pictures(job)):
            raise RequestError("that picture is gone; take another one")
        return job, named


@dataclass(frozen=True)
class Visitor:
    """A visitor of the page: the name of their key, the session of the tab, the language and address of the browser."""

    user: str
    session: str
    language: str
    address: str | None = None

    @classmethod
    def of(cls, browser: gr.Request) -> Visitor:
        """The visitor of a gradio request."""
        language = spoken(browser.headers.get("accept-language"))
        address = None if browser.client is None else browser.client.host
        return cls(browser.username or LOCAL.name, browser.session_hash or "", language, address)

    def says(self, message: Sayable) -> str:
        """A sentence in the visitor's language."""
        return message.said(self.language)

    def tell(self, sentence: str) -> None:
        """Shows a sentence over the page; gradio renders it as HTML."""
        gr.Info(html.escape(sentence, quote=False), duration=12, title=self.says(Message("Note")))

    def toast(self, error: BaseException) -> gr.Error:
        """An error to show over the page; gradio renders it as HTML."""
        if isinstance(error, MemoryError):
            sentence = self.says(Message("out of memory: draw a smaller picture"))
        else:
            assert isinstance(error, BimoError)
            sentence = error.message.said(self.language)
        title = self.says(Message("Cannot draw"))
        return gr.Error(html.escape(sentence, quote=False), duration=12, title=title, print_exception=False)
