"""The drawing service of a server: validates, stores and schedules jobs, and publishes their events.

The interfaces (OpenAI's, AUTOMATIC1111's, DashScope's, our own, the page) convert requests to an `Order` and submit it
here; none of them touches a model.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bimo.core.errors import BimoError, RequestError
from bimo.core.label import marked
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message, language
from bimo.core.picture import Picture
from bimo.core.recipe import Recipe
from bimo.hub import registry
from bimo.inscription import drawing as inscription
from bimo.prompts.a1111 import lora_tags
from bimo.prompts.styles import style_named
from bimo.serve.admission import check_amounts, check_drawable, check_ranges, check_size, check_texts
from bimo.serve.events import Event, Events
from bimo.serve.executor import CANCELLED, Executor, Listener, Source, failure_of
from bimo.serve.infotext import png_with_infotext
from bimo.serve.job_store import JobStore
from bimo.serve.jobs import CHOSEN, ENDED, LANGUAGE, Failure, Job, Order, State
from bimo.serve.pool import EngineKey, EnginePool, weight_files
from bimo.serve.scheduler import Scheduler
from bimo.serve.settings import ServeSettings

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)
#: Seconds between deletions of old jobs.
CLEANUP_SECONDS = 300
#: The error for an unknown job.
NO_SUCH_JOB = Message("there is no such job; it may have been forgotten, or be somebody else's")


class QueueFullError(RequestError):
    """The queue is full; ``seconds`` is when to try again."""

    def __init__(self, message: Message, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class StoppingError(RequestError):
    """The server is shutting down."""


#: Inspects a picture before it is stored; returns a failure to withhold it.
Inspect = Callable[[Picture], Failure | None]


def thread_executor(pool: EnginePool, source: Source, listener: Listener, settings: ServeSettings) -> Executor:
    """The executor that draws in a thread of this process."""
    return Scheduler(pool, source, listener, batch=settings.batch)


class DrawingService:
    """Accepts jobs, draws them, and stores the results. Methods are thread-safe, except for ``events`` and ``wait``,
    which need an event loop.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pool: EnginePool,
        store: JobStore,
        *,
        inspect: Inspect = lambda picture: None,
        check_prompt: Callable[[str], None] = lambda text: None,
        executor: Callable[[EnginePool, Source, Listener, ServeSettings], Executor] = thread_executor,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.store = store
        self.inspect = inspect
        self.check_prompt = check_prompt
        self.executor = executor(pool, store, self, settings)
        self.ready = False
        self.stopping = False
        #: Options that clients of A1111's interface have set, by key.
        self.client_options: dict[str, dict[str, Any]] = {}
        #: Names of the embeddings that every model has.
        self.embeddings = tuple(weight_files(settings.embeddings))
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._open: dict[str, Order] = {}
        self._progress: dict[str, Event] = {}
        self._previews: dict[str, Image.Image] = {}
        self._events = Events(lambda job: job in self._open, self._lock)
        self._finishing: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._finisher = threading.Thread(target=self._finish, name="bimo-finish", daemon=True)
        self._last_cleanup = 0.0

    def start(self) -> None:
        """Resumes the jobs of an earlier process, and starts drawing."""
        self._finisher.start()
        self.executor.start()
        for job in self.store.recover():
            with self._lock:
                self._open[job.id] = job.order
            self.executor.submit(job.order, frozenset(drawn.place for drawn in job.pictures))
        self.ready = True

    def stop(self, seconds: float = 10.0) -> None:
        """Finishes started pictures, for at most ``seconds``; the rest is resumed at the next start."""
        self.stopping, self.ready = True, False
        self.executor.stop(drain=True, seconds=seconds)
        self._finishing.put(None)
        self._finisher.join()
        self.pool.close()
        self.store.close()

    def order(
        self,
        values: Mapping[str, Any],
        *,
        key: str,
        client: str,
        model: str | None = None,
        loras: Sequence[tuple[str, LoraWeight]] = (),
        controls: Sequence[str] = (),
        priority: int = 0,
        previews: int = 0,
        seconds: float | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> Order:
        """Creates an order with an id, seed and deadline, and checks everything that does not need the pictures.

        ``values`` are the fields of a Request without pictures; <lora:name:weight> tags in the prompt are added to
        ``loras``; ``seconds`` is the client's timeout. Raises RequestError.
        """
        limits = self.settings.limits
        values = {field: value for field, value in values.items() if value is not None}
        if values.get("seed") is None:
            values["seed"] = secrets.randbelow(2**32)
        check_texts(values, limits)
        weights = dict(loras)
        if isinstance(values.get("text"), str):
            values["text"], tags = lora_tags(values["text"])
            weights |= {tag.name: tag.weight for tag in tags}
        check_amounts(values, weights, controls, limits)
        redrawn = "strength" in values or values.get("draft") == 0
        text, size = str(values.get("text", "")), values.get("size")
        chosen = self.pool.model_for(model, text, bool(weights or controls), size, redrawn)
        choice = {CHOSEN: chosen} if chosen != self.pool.model_name(model) else {}
        timeout = min((s for s in (seconds, limits.seconds) if s is not None), default=None)
        now = time.time()
        return Order(
            id=uuid.uuid4().hex,
            model=chosen,
            values=values,
            key=key,
            client=client,
            loras=tuple((self.pool.lora(lora, key), weight) for lora, weight in weights.items()),
            controls=tuple(self.pool.control(name) for name in controls),
            priority=max(-1, min(1, priority)),
            previews=max(0, min(limits.previews, previews)),
            deadline=None if timeout is None else now + timeout,
            created=now,
            note={LANGUAGE: language(), **(note or {}), **choice},
        )

    def accept(self, order: Order, pictures: Mapping[str, bytes], idempotency: str | None = None) -> Job:
        """Submits an order durably, or returns the existing job with the same ``idempotency`` key.

        Raises RequestError for invalid requests, QueueFullError if too many jobs wait, StoppingError.
        """
        if self.stopping:
            raise StoppingError(Message("the server is stopping; ask again in a moment"))
        request = order.request(pictures)
        self.check_prompt(request.text)
        if request.style:
            style_named(request.style)
        if request.inscribe:
            inscription.check(request)
        own = self.recipe(order.model).request.size if request.hires and request.size is None else None
        check_size(request, self.settings, own)
        # Conditions of a ControlNet are only known to the engine that has it attached.
        if (engine := self.pool.resident(EngineKey(order.model, (), order.controls))) is not None:
            check_drawable(engine, request, self.settings)
        if (plain := self.pool.resident(EngineKey(order.model))) is not None:
            check_ranges(plain, order.loras)
        with self._lock:
            limits = self.settings.limits
            jobs_of_key = sum(other.key == order.key for other in self._open.values())
            if len(self._open) >= limits.waiting or jobs_of_key >= limits.waiting_of_key:
                seconds = max(1, min(600, round(self.executor.seconds_ahead() / max(1, len(self._open)))))
                message = Message(
                    "{count} jobs are waiting, and no more are taken; ask again in {seconds} seconds",
                    count=len(self._open),
                    seconds=seconds,
                )
                raise QueueFullError(message, seconds)
            self._open[order.id] = order
        try:
            job = self.store.accept(order, pictures, idempotency)
        except BaseException:
            self._open.pop(order.id, None)
            raise
        if job.id != order.id:  # a repeated request
            self._open.pop(order.id, None)
            return job
        self.executor.submit(order)
        return job

    def recipe(self, model: str | None = None) -> Recipe:
        """The recipe of a model, read from its files if it is not loaded. Raises RequestError."""
        name = self.pool.model_name(model)
        engine = self.pool.resident(EngineKey(name))
        return registry.recipe(self.pool.models[name]) if engine is None else engine.recipe

    def own_steps(self, model: str | None = None) -> int:
        """The default number of steps of a model."""
        recipe = self.recipe(model)
        return recipe.request.steps or recipe.levels[-1].steps

    def tokens(self, order: Order) -> int:
        """The number of tokens of a prompt in the first text encoder; 0 if the model is not loaded."""
        engine = self.pool.resident(EngineKey(order.model))
        budgets = [] if engine is None else engine.system.budgets(str(order.values["text"]))
        return budgets[0].used if budgets else 0

    def cancel(self, job: str, failure: Failure = CANCELLED) -> bool:
        """Cancels a job before its next step; False if it had ended."""
        with self._lock:
            is_open = job in self._open
        if is_open:
            self.executor.cancel(job, failure)
        return is_open

    def skip(self, job: str) -> None:
        """Ends the pictures of a job that are being drawn as they are, before their next step."""
        self.executor.skip(job)

    def interrupt(self, job: str) -> None:
        """Cancels a job, and keeps its pictures that are being drawn as they are."""
        self.executor.skip(job, CANCELLED)

    def open_jobs(self, key: str | None = None) -> list[Order]:
        """Unfinished jobs of one key or of all, the oldest first."""
        with self._lock:
            orders = [order for order in self._open.values() if key in (None, order.key)]
        return sorted(orders, key=lambda order: order.created)

    def progress(self, job: str) -> Event | None:
        """The last step event of a job."""
        return self._progress.get(job)

    def preview(self, job: str) -> Image.Image | None:
        """The last preview of a job."""
        return self._previews.get(job)

    def job(self, name: str, key: str | None = None) -> Job | None:
        """A job by its id; None if there is none, or if it is not of ``key``, unless that is None."""
        job = self.store.job(name)
        return job if job is not None and key in (None, job.order.key) else None

    def events(self, job: str) -> AsyncIterator[Event]:
        """The events of a job from now on; the last is "ended". Empty if it has ended."""
        return self._events.subscribe(job)

    async def wait(self, job: str) -> Job:
        """Waits for a job to end."""
        async for _ in self.events(job):
            pass
        return self._ended(job)

    def wait_here(self, job: str, on_event: Callable[[Event], object] | None = None) -> Job:
        """As ``wait``, in a thread. If ``on_event`` raises, the job is cancelled and the exception passed on."""
        try:
            for event in self._events.iterate(job):
                if on_event is not None:
                    on_event(event)
        except BaseException:
            self.cancel(job)
            raise
        return self._ended(job)

    def _ended(self, job: str) -> Job:
        ended_job = self.store.job(job)
        assert ended_job is not None
        assert ended_job.state in ENDED
        return ended_job

    # Callbacks of the executor, in its thread: see Listener.

    def began(self, job: str) -> None:
        """A job has started."""
        self._finishing.put(lambda: self.store.begin(job))
        self._events.tell(job, Event("began"))

    def stepped(self, job: str, place: int, done: int, steps: int, preview: Image.Image | None) -> None:
        """A step is done."""
        if preview is not None and (label := self.settings.label) is not None:
            preview = marked(preview)
            preview.info["xmp"] = label.xmp(f"{job}-{place}")
        event = Event("step", place, done, steps, preview)
        self._progress[job] = event
        if preview is not None:
            self._previews[job] = preview
        self._events.tell(job, event)

    def drew(self, job: str, picture: Picture) -> None:
        """A picture is finished: it is inspected, written and published in another thread."""
        self._finishing.put(lambda: self._store(job, picture))

    def ended(self, job: str, failure: Failure | None) -> None:
        """A job has ended; its pictures may still be in the queue for writing."""
        self._finishing.put(lambda: self._end(job, failure))

    def _finish(self) -> None:
        while (work := self._finishing.get()) is not None:
            try:
                work()
            except Exception:  # an error of one job must not end the thread of all
                _log.exception("finishing a job")
            if time.time() - self._last_cleanup > CLEANUP_SECONDS:
                self._last_cleanup = time.time()
                retention = self.settings.retention
                self.store.retain(retention.seconds, retention.bytes)

    def _store(self, job: str, picture: Picture) -> None:
        order = self._open.get(job)
        if order is None:
            return
        try:
            job_state = Job(order, State.running)
            every = (picture, *(replace(picture, image=layer, layers=()) for layer in picture.layers))
            flagged = next((failure for one in every if (failure := self.inspect(one)) is not None), None)
            marks = self.settings.label, self.settings.credentials
            png, *layers = (png_with_infotext(one, job_state, *marks) for one in every)
            request = picture.request.model_dump(exclude_defaults=True)
            record = picture.metadata() | {"request": request | {"seed": picture.seed, "count": 1}}
            warnings = (*order.notes, *picture.warnings)
            drawn = (picture.index, png, picture.image.size, picture.seed, picture.seconds)
            self.store.add_picture(job, *drawn, warnings, record, flagged, layers)
        except (BimoError, OSError, MemoryError) as error:
            failure = failure_of(error)
            self._end(job, replace(failure, status=500) if isinstance(error, BimoError) else failure)
            self.executor.cancel(job)
            return
        self._events.tell(job, Event("picture", picture.index))

    def _end(self, job: str, failure: Failure | None) -> None:
        if self._open.get(job) is None:
            return
        state = State.done if failure is None else State.failed
        if failure is not None and failure.code == CANCELLED.code:
            state = State.cancelled
        self.store.end(job, state, failure)
        with self._lock:
            order = self._open.pop(job)
        self._progress.pop(job, None)
        self._previews.pop(job, None)
        self.outcomes[order.client, state.value] += 1
        self._events.tell(job, Event("ended"))
