"""Replicas on a Ray cluster, by Ray Serve (`bimo serve --on ray`): the same queue, store and interfaces, other workers.

A replica draws as a worker process does (`bimo.serve.workers`). A job is one streaming call of the deployment, whose
items are the events of the job; a call that ends without its last event lost its replica, and the job goes to another.
Ray Serve restarts a replica that died on any node with room. Its HTTP proxy is disabled, so that it opens no port.
"""

# Ray has no types; values from it are annotated where they are assigned.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import logging
import os
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import torch

from bimo.core.errors import RequestError
from bimo.core.installing import installing
from bimo.serve.dispatcher import Dispatcher, Ended, Handed, Lost, OnWorkerEvent, WorkerEvent, Workers
from bimo.serve.executor import Executor, Listener, Source
from bimo.serve.jobs import Failure
from bimo.serve.pool import EngineKey, EnginePool, pool_of
from bimo.serve.scheduler import Scheduler
from bimo.serve.settings import ServeSettings
from bimo.serve.workers import ROOM, Reporter

#: Seconds between health checks of a replica, and until one that does not answer is restarted.
HEALTH_SECONDS, HEALTH_TIMEOUT = 2.0, 30.0
_log = logging.getLogger(__name__)


def ray_executor(count: int) -> Callable[[EnginePool, Source, Listener, ServeSettings], Executor]:
    """A factory of executors that draw in ``count`` replicas of the cluster that RAY_ADDRESS names, else of one on this
    machine.
    """

    def build(pool: EnginePool, source: Source, listener: Listener, settings: ServeSettings) -> Executor:
        return Dispatcher(RayReplicas(settings, count), source, listener)

    return build


class Replica:
    """A replica: an engine pool and a scheduler in a process of Ray's."""

    def __init__(self, settings: ServeSettings) -> None:
        self._queues: dict[str, Callable[[WorkerEvent], object]] = {}
        self._reporter = Reporter(self)
        pool = pool_of(settings)
        pool.load_now(EngineKey(pool.default))
        self._scheduler = Scheduler(pool, self._reporter, self._reporter, batch=settings.batch)
        self._scheduler.start()

    def send(self, message: Any) -> None:
        """Passes an event to the call of its job; called by the reporter, in the scheduler's thread."""
        match message:
            case (str(job), event) if job in self._queues:
                self._queues[job](event)
            case _:
                pass

    async def draw(self, job: Handed) -> AsyncIterator[WorkerEvent]:
        """The events of a job; it is cancelled if the caller cancels the call or is gone."""
        loop, name = asyncio.get_running_loop(), job.order.id
        queue: asyncio.Queue[WorkerEvent] = asyncio.Queue()
        self._queues[name] = lambda event: loop.call_soon_threadsafe(queue.put_nowait, event)
        self._reporter.pictures[name] = job.pictures
        self._scheduler.submit(job.order, job.done)
        ended = False
        try:
            while not ended:
                event = await queue.get()
                ended = isinstance(event, Ended)
                yield event
        finally:
            if not ended:
                self._scheduler.cancel(name)
            self._queues.pop(name, None)

    def process(self) -> int:
        """The process of this replica."""
        return os.getpid()


class RayReplicas(Workers):
    """A deployment of replicas, each of which has room for as many jobs as a worker process. Raises RequestError where
    Ray Serve is not installed, no cluster can be joined, or the replicas cannot load their model.
    """

    def __init__(self, settings: ServeSettings, count: int) -> None:
        self.settings, self.count = settings, count
        self.room = count * (settings.batch if torch.cuda.is_available() else ROOM)
        self.name = f"bimo-{uuid.uuid4().hex[:8]}"
        self._jobs: dict[str, Any] = {}
        self._cancelled: dict[str, Failure] = {}
        self._lock = threading.Lock()
        self._stopping = False
        self._threads: set[threading.Thread] = set()
        self._deploy()

    def start(self, tell: OnWorkerEvent, free: Callable[[], None]) -> None:
        """Takes jobs from now on; the replicas are ready."""
        self._tell, self._free = tell, free

    def _deploy(self) -> None:
        """Deploys the replicas and waits until they have loaded their model."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_SERVE_LOG_TO_STDERR", "0")
        try:
            import ray
            from ray import serve
        except ImportError as error:
            raise RequestError(
                "{name} is not installed; run {command}", name=error.name or "ray", command=installing("ray-serve")
            ) from None
        self.joined = not ray.is_initialized()
        try:
            if self.joined:
                ray.init(log_to_driver=False, include_dashboard=False, logging_level=logging.ERROR)
            serve.start(proxy_location="Disabled")
            options: Mapping[str, Any] = {"num_cpus": 1, "num_gpus": int(torch.cuda.is_available())}
            deployment = serve.deployment(
                name="replica",
                num_replicas=self.count,
                max_ongoing_requests=self.room // self.count,
                ray_actor_options=dict(options),
                health_check_period_s=HEALTH_SECONDS,
                health_check_timeout_s=HEALTH_TIMEOUT,
            )(Replica)
            self.handle: Any = serve.run(deployment.bind(self.settings), name=self.name, route_prefix=None)
        # No cluster there, one of another release, a replica that cannot load: each raises its own type.
        except (OSError, RuntimeError, ValueError) as error:
            raise RequestError("the replicas cannot be begun on Ray: {error}", error=error) from None

    def give(self, job: Handed) -> bool:
        """Sends a job to the replica that Ray Serve chooses; False if all have as many as they take."""
        with self._lock:
            if self._stopping or len(self._jobs) >= self.room:
                return False
            response = self.handle.options(stream=True).draw.remote(job)
            self._jobs[job.order.id] = response
            thread = threading.Thread(target=self._follow, args=(job.order.id, response), name="bimo-ray", daemon=True)
            self._threads.add(thread)
        thread.start()
        return True

    def cancel(self, job: str, failure: Failure) -> None:
        """Cancels the call of a job."""
        with self._lock:
            response = self._jobs.get(job)
            if response is not None:
                self._cancelled[job] = failure
        if response is not None:
            response.cancel()

    def skip(self, job: str, failure: Failure | None) -> None:
        """Cancels the call if the job is to end. Ray Serve has no way to the replica of a call, so that pictures are
        not ended as they are.
        """
        if failure is not None:
            self.cancel(job, failure)

    def stop(self, seconds: float) -> None:
        """Waits for started jobs, cancels the rest, and removes the deployment."""
        with self._lock:
            self._stopping = True
            threads, responses = list(self._threads), list(self._jobs.values())
        for thread in threads:
            thread.join(seconds / max(1, len(threads)))
        for response in responses:
            response.cancel()
        for thread in threads:
            thread.join()
        from ray import serve

        serve.delete(self.name)
        if self.joined:
            import ray

            serve.shutdown()
            ray.shutdown()

    def _follow(self, job: str, response: Any) -> None:
        """Passes the events of a call on; one that ends without its last event was cancelled, or lost its replica."""
        ended = False
        try:
            for event in response:
                ended = isinstance(event, Ended)
                if not ended:
                    self._tell(job, event)
                    continue
                self._forget(job)
                self._tell(job, event)
        except BaseException as error:  # Ray's errors of a lost replica and of a cancelled call have no common type
            if job not in self._cancelled:
                _log.warning("a replica on Ray ended a call: %s", error)
        if not ended:
            failure = self._forget(job)
            self._tell(job, Lost() if failure is None else Ended(failure))
        with self._lock:
            self._threads.discard(threading.current_thread())
        self._free()

    def _forget(self, job: str) -> Failure | None:
        with self._lock:
            self._jobs.pop(job, None)
            return self._cancelled.pop(job, None)
