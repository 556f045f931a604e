"""One server's drawing: what is accepted is bounded, stored and scheduled, and whoever waits is told how it goes.

The interfaces (OpenAI's, AUTOMATIC1111's, DashScope's, our own, the page) make an `Order` of what they were asked and
come here; none of them touches a model.
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
from bimo.core.messages import Message
from bimo.core.picture import Picture
from bimo.core.recipe import Recipe
from bimo.core.request import Request
from bimo.diffusion.request_validation import fill_request
from bimo.engine.engine import Engine
from bimo.hub import memory, registry
from bimo.prompts.a1111 import lora_tags
from bimo.prompts.styles import style_named
from bimo.serve.events import Event, Events
from bimo.serve.executor import CANCELLED, Executor, Listener, Source, failure_of
from bimo.serve.infotext import png_with_infotext
from bimo.serve.job_store import JobStore
from bimo.serve.jobs import ENDED, Failure, Job, Order, State
from bimo.serve.pool import EngineKey, EnginePool, weight_files
from bimo.serve.scheduler import Scheduler
from bimo.serve.settings import ServeSettings

if TYPE_CHECKING:
    from PIL import Image

_log = logging.getLogger(__name__)
#: How often old jobs are looked for, in seconds.
RETAINED_EVERY = 300


class QueueFullError(RequestError):
    """There is no room for another job; ``seconds`` is when to ask again."""

    def __init__(self, message: Message, seconds: int) -> None:
        super().__init__(message)
        self.seconds = seconds


class StoppingError(RequestError):
    """The server is about to end."""


#: What looks at a picture before it is stored, and may say why it is not to be shown.
Inspect = Callable[[Picture], Failure | None]


def drawing_here(pool: EnginePool, source: Source, listener: Listener, settings: ServeSettings) -> Executor:
    """Jobs are drawn by a thread of this process."""
    return Scheduler(pool, source, listener, batch=settings.batch)


class DrawingService:
    """Accepts jobs, draws them, stores what comes of it. Every method may be called from any thread; ``events`` and
    ``wait`` belong to an event loop.
    """

    def __init__(
        self,
        settings: ServeSettings,
        pool: EnginePool,
        store: JobStore,
        *,
        inspect: Inspect = lambda picture: None,
        check_prompt: Callable[[str], None] = lambda text: None,
        executor: Callable[[EnginePool, Source, Listener, ServeSettings], Executor] = drawing_here,
    ) -> None:
        self.settings = settings
        self.pool = pool
        self.store = store
        self.inspect = inspect
        self.check_prompt = check_prompt
        self.executor = executor(pool, store, self, settings)
        self.ready = False
        self.stopping = False
        #: What clients of A1111's interface have set, by key.
        self.client_options: dict[str, dict[str, Any]] = {}
        #: Words that every model was taught.
        self.embeddings = tuple(weight_files(settings.embeddings))
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()
        self._open: dict[str, Order] = {}
        self._progress: dict[str, Event] = {}
        self._shown: dict[str, Image.Image] = {}
        self._events = Events(lambda job: job in self._open, self._lock)
        self._finishing: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._finisher = threading.Thread(target=self._finish, name="bimo-finish", daemon=True)
        self._retained = 0.0

    def start(self) -> None:
        """Takes up what an earlier process left, and begins to draw."""
        self._finisher.start()
        self.executor.start()
        for job in self.store.recover():
            with self._lock:
                self._open[job.id] = job.order
            self.executor.submit(job.order, frozenset(drawn.place for drawn in job.pictures))
        self.ready = True

    def stop(self, seconds: float = 10.0) -> None:
        """Draws what is begun, for ``seconds`` at most; what is left waits for the next start."""
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
        loras: Sequence[tuple[str, float]] = (),
        controls: Sequence[str] = (),
        priority: int = 0,
        previews: int = 0,
        seconds: float | None = None,
        note: Mapping[str, Any] | None = None,
    ) -> Order:
        """An order with an id, its seed and deadline, and all that can be refused before a picture is read refused.

        ``values`` are fields of a Request that are no pictures; <lora:name:weight> in the prompt is one of ``loras``;
        ``seconds`` is how long its client will wait. Raises RequestError.
        """
        limits = self.settings.limits
        values = {field: value for field, value in values.items() if value is not None}
        if values.get("seed") is None:
            values["seed"] = secrets.randbelow(2**32)
        weights = dict(loras)
        if isinstance(values.get("text"), str):
            values["text"], tags = lora_tags(values["text"])
            weights |= {tag.name: tag.weight for tag in tags}
        for field_name, most in (("count", limits.count), ("steps", limits.steps)):
            if isinstance(values.get(field_name), int) and values[field_name] > most:
                raise RequestError(
                    "{name} is {value}; this server allows at most {most}",
                    name=field_name,
                    value=values[field_name],
                    most=most,
                )
        for field_name in ("text", "negative"):
            if isinstance(values.get(field_name), str) and len(values[field_name]) > limits.text:
                raise RequestError("the prompt is longer than {maximum_text} characters", maximum_text=limits.text)
        added = max(len(weights), len(controls))
        if added > limits.loras:
            raise RequestError(
                "{count} LoRAs or ControlNets; this server allows at most {most}", count=added, most=limits.loras
            )
        waits = min((s for s in (seconds, limits.seconds) if s is not None), default=None)
        now = time.time()
        return Order(
            id=uuid.uuid4().hex,
            model=self.pool.named(model),
            values=values,
            key=key,
            client=client,
            loras=tuple((self.pool.lora(lora), float(weight)) for lora, weight in weights.items()),
            controls=tuple(self.pool.control(name) for name in controls),
            priority=max(-1, min(1, priority)),
            previews=max(0, min(limits.previews, previews)),
            deadline=None if waits is None else now + waits,
            created=now,
            note=note or {},
        )

    def accept(self, order: Order, pictures: Mapping[str, bytes], idempotency: str | None = None) -> Job:
        """Takes an order on, or answers the job that the same ``idempotency`` began. From here on it is not lost.

        Raises RequestError for what cannot be drawn, QueueFullError where too many wait, StoppingError.
        """
        if self.stopping:
            raise StoppingError(Message("the server is stopping; ask again in a moment"))
        request = order.request(pictures)
        self.check_prompt(request.text)
        if request.style:
            style_named(request.style)
        self._check_size(request)
        # What a ControlNet reads only the model with it knows.
        if (engine := self.pool.resident(EngineKey(order.model, (), order.controls))) is not None:
            self._check(engine, request)
        with self._lock:
            limits = self.settings.limits
            own = sum(other.key == order.key for other in self._open.values())
            if len(self._open) >= limits.waiting or own >= limits.waiting_of_key:
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
        if job.id != order.id:  # asked for again
            self._open.pop(order.id, None)
            return job
        self.executor.submit(order)
        return job

    def _check_size(self, request: Request) -> None:
        limits = self.settings.limits
        width, height = request.size or (1, 1)
        if max(width, height) > limits.side or width * height > limits.pixels:
            raise RequestError(
                "{width}x{height} is too large; this server draws sides up to {side} and {pixels} pixels",
                width=width,
                height=height,
                side=limits.side,
                pixels=limits.pixels,
            )
        memory.check(
            (width, height),
            self.settings.load_options.dtype,
            self.settings.load_options.device,
            tiles=self.settings.load_options.tiles,
        )

    def _check(self, engine: Engine, request: Request) -> None:
        """Raises RequestError for what the model cannot draw."""
        full = fill_request(engine.system, engine.completed(request))
        self._check_size(full)

    def recipe(self, model: str | None = None) -> Recipe:
        """The recipe of a model; that of one that is not loaded is read from its files. Raises RequestError."""
        name = self.pool.named(model)
        engine = self.pool.resident(EngineKey(name))
        return registry.recipe(self.pool.models[name]) if engine is None else engine.recipe

    def own_steps(self, model: str | None = None) -> int:
        """How many steps a model takes where a request says nothing."""
        recipe = self.recipe(model)
        return recipe.request.steps or recipe.levels[-1].steps

    def tokens(self, order: Order) -> int:
        """How many tokens of a prompt the first text encoder reads; 0 where the model is not loaded."""
        engine = self.pool.resident(EngineKey(order.model))
        budgets = [] if engine is None else engine.system.budgets(str(order.values["text"]))
        return budgets[0].used if budgets else 0

    def cancel(self, job: str, failure: Failure = CANCELLED) -> bool:
        """Ends a job before its next step; False where it had ended."""
        with self._lock:
            there = job in self._open
        if there:
            self.executor.cancel(job, failure)
        return there

    def open_jobs(self, key: str | None = None) -> list[Order]:
        """Jobs that are not ended, the oldest first: of one key, or of all."""
        with self._lock:
            found = [order for order in self._open.values() if key in (None, order.key)]
        return sorted(found, key=lambda order: order.created)

    def progress(self, job: str) -> Event | None:
        """The last step that was taken of a job."""
        return self._progress.get(job)

    def shown(self, job: str) -> Image.Image | None:
        """The last preview of a job."""
        return self._shown.get(job)

    def job(self, name: str, key: str | None = None) -> Job | None:
        """A job by its id, of one key alone unless that is None."""
        found = self.store.job(name)
        return found if found is not None and key in (None, found.order.key) else None

    def events(self, job: str) -> AsyncIterator[Event]:
        """What happens to a job from now on; the last is "ended". Nothing where it has ended."""
        return self._events.of(job)

    async def wait(self, job: str) -> Job:
        """The job when it has ended."""
        async for _ in self.events(job):
            pass
        return self._ended(job)

    def wait_here(self, job: str, on_event: Callable[[Event], object] | None = None) -> Job:
        """As ``wait``, in a thread. What ``on_event`` raises cancels the job and goes on to the caller."""
        try:
            for event in self._events.here(job):
                if on_event is not None:
                    on_event(event)
        except BaseException:
            self.cancel(job)
            raise
        return self._ended(job)

    def _ended(self, job: str) -> Job:
        found = self.store.job(job)
        assert found is not None
        assert found.state in ENDED
        return found

    # What the executor tells, in its thread.

    def began(self, job: str) -> None:
        """A job's first picture is begun."""
        self._finishing.put(lambda: self.store.begin(job))
        self._events.tell(job, Event("began"))

    def stepped(self, job: str, place: int, done: int, steps: int, shown: Image.Image | None) -> None:
        """A step is taken."""
        if shown is not None and self.settings.label is not None:
            shown = marked(shown)
        event = Event("step", place, done, steps, shown)
        self._progress[job] = event
        if shown is not None:
            self._shown[job] = shown
        self._events.tell(job, event)

    def drew(self, job: str, picture: Picture) -> None:
        """A picture is drawn: it is looked at, written and told of off the thread that draws."""
        self._finishing.put(lambda: self._store(job, picture))

    def ended(self, job: str, failure: Failure | None) -> None:
        """A job has ended; its pictures are on their way to the disk."""
        self._finishing.put(lambda: self._end(job, failure))

    def _finish(self) -> None:
        while (work := self._finishing.get()) is not None:
            try:
                work()
            except Exception:  # of one job; the thread serves all
                _log.exception("finishing a job")
            if time.time() - self._retained > RETAINED_EVERY:
                self._retained = time.time()
                retention = self.settings.retention
                self.store.retain(retention.seconds, retention.bytes)

    def _store(self, job: str, picture: Picture) -> None:
        order = self._open.get(job)
        if order is None:
            return
        try:
            whole = Job(order, State.running)
            flagged = self.inspect(picture)
            png = png_with_infotext(picture, whole, self.settings.label, self.settings.credentials)
            request = picture.request.model_dump(exclude_defaults=True)
            record = picture.metadata() | {"request": request | {"seed": picture.seed, "count": 1}}
            told = picture.warnings
            self.store.add_picture(
                *(job, picture.index, png, picture.image.size, picture.seed, picture.seconds, told, record, flagged)
            )
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
        self._shown.pop(job, None)
        self.outcomes[order.client, state.value] += 1
        self._events.tell(job, Event("ended"))


#: What is said to who asks for a picture of a job that has none.
NO_SUCH_JOB = Message("there is no such job; it may have been forgotten, or be somebody else's")
