"""Many jobs at a time: each picture is what it is alone, who leaves has left before the next step, keys share."""

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from bimo.core.errors import RequestError, WeightsError
from bimo.core.lora_weight import LoraWeight
from bimo.core.picture import metadata_of
from bimo.engine.engine import Engine
from bimo.engine.memory import Keeping
from bimo.models.adapters import attach
from bimo.models.adapters.lora import extract, inject, save_lora
from bimo.serve.call_costs import CallCosts
from bimo.serve.events import Event
from bimo.serve.executor import Executor, Listener, Source
from bimo.serve.jobs import State
from bimo.serve.pool import EngineKey, EnginePool
from bimo.serve.scheduler import Scheduler
from bimo.serve.service import DrawingService, QueueFullError
from bimo.serve.settings import ServeSettings
from tests.support.waiting import until

Make = Callable[..., DrawingService]
MIXED: list[dict[str, Any]] = [
    {"text": "红苹果", "steps": 2, "seed": 1},
    {"text": "一只猫", "steps": 4, "seed": 2, "guidance": 1.0},
    {"text": "a red apple", "steps": 3, "seed": 3, "guidance": 4.0, "negative": "猫"},
    {"text": "小桥流水人家", "steps": 3, "seed": 4, "sampler": "heun", "count": 2},
    {"text": "(猫:1.3)", "steps": 2, "seed": 6, "size": (160, 96)},
]


def sharing(pool: EnginePool, source: Source, listener: Listener, settings: ServeSettings) -> Executor:
    """Pictures share calls whatever that costs."""
    return Scheduler(pool, source, listener, batch=settings.batch, always=True)


def submit(service: DrawingService, values: dict[str, Any], **options: Any) -> str:
    order = service.order(values, **({"key": "local", "client": "test"} | options))
    return service.accept(order, {}).id


def test_mixed_jobs_drawn_together_are_what_each_is_alone(make_service: Make, tiny_engine: Engine) -> None:
    """Other steps, samplers, guidance, prompts and sizes in shared calls: within 1 of 255 of each alone."""
    service = make_service(executor=sharing, batch=8)
    jobs = [submit_before(service, values) for values in MIXED]
    service.start()
    for name, values in zip(jobs, MIXED, strict=True):
        job = service.wait_here(name)
        assert job.state is State.done
        alone = tiny_engine.draw(dict(values))
        assert len(job.pictures) == len(alone)
        for stored, picture in zip(job.pictures, alone, strict=True):
            with Image.open(stored.file) as image:
                difference = np.abs(np.asarray(image, int) - np.asarray(picture.image, int))
            assert difference.max() <= 1
    assert service.executor.busy["rows"] > 2 * service.executor.busy["calls"]


def shown(png: Path | bytes) -> tuple[bytes, Any]:
    """The pixels of a PNG and its record; the server writes A1111's text beside them."""
    content = png if isinstance(png, bytes) else png.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        return image.tobytes(), metadata_of(content)


def submit_before(service: DrawingService, values: dict[str, Any]) -> str:
    """A job that waits for the service to start."""
    return service.store.accept(service.order(values, key="local", client="test"), {}).id


def test_one_picture_a_call_is_equal_to_the_byte(make_service: Make, tiny_engine: Engine) -> None:
    service = make_service(batch=1)
    jobs = [submit_before(service, values) for values in MIXED[:3]]
    service.start()
    for name, values in zip(jobs, MIXED, strict=False):
        (stored,) = service.wait_here(name).pictures
        assert shown(stored.file) == shown(tiny_engine.draw(dict(values))[0].png())


def test_a_short_job_passes_a_long_one(service: DrawingService) -> None:
    long = submit(service, {"text": "猫", "steps": 150})
    until(lambda: service.progress(long))
    short = submit(service, {"text": "红苹果", "steps": 1})
    assert service.wait_here(short).state is State.done
    assert service.job(long).state is State.running  # type: ignore[union-attr]
    service.cancel(long)


def test_a_cancelled_job_takes_no_further_step(service: DrawingService) -> None:
    name = submit(service, {"text": "猫", "steps": 150})
    cancelled_at: list[float] = []

    def heard(event: Event) -> None:
        if event.kind == "step" and not cancelled_at:
            service.cancel(name)
            cancelled_at.append(service.executor.busy["calls"])

    job = service.wait_here(name, heard)
    assert job.state is State.cancelled
    assert job.failure is not None
    # The one under way, and one that was begun before it was heard of.
    assert service.executor.busy["calls"] - cancelled_at[0] <= 2
    assert not job.pictures
    assert not service.cancel(name)


def test_who_stops_waiting_ends_the_job(service: DrawingService) -> None:
    name = submit(service, {"text": "猫", "steps": 150})

    def leave(event: Event) -> None:
        if event.kind == "step":
            raise ConnectionError

    with pytest.raises(ConnectionError):
        service.wait_here(name, leave)
    until(lambda: service.job(name).state is State.cancelled)  # type: ignore[union-attr]


def test_a_deadline_ends_a_job_with_a_sentence(service: DrawingService) -> None:
    job = service.wait_here(submit(service, {"text": "猫", "steps": 150, "count": 4}, seconds=0.05))
    assert job.state is State.failed
    assert job.failure is not None
    assert (job.failure.code, job.failure.status) == ("deadline", 504)


def test_keys_share_the_machine(make_service: Make) -> None:
    """One who asks for ten is not drawn before one who asks for one, however early he came."""
    service = make_service(batch=1)
    greedy = [service.order({"text": "猫", "steps": 4}, key="greedy", client="test") for _ in range(10)]
    modest = service.order({"text": "猫", "steps": 4}, key="modest", client="test")
    for order in (*greedy, modest):
        service.store.accept(order, {})
    ended: list[str] = []
    store = service.store.end
    service.store.end = lambda job, *rest: ended.append(job) or store(job, *rest)  # type: ignore[method-assign]
    service.start()
    service.wait_here(modest.id)
    assert ended.index(modest.id) <= 2
    for order in greedy:
        service.cancel(order.id)


def test_priority_goes_first(make_service: Make) -> None:
    service = make_service(batch=1)
    low, high = (
        service.order({"text": "猫", "steps": steps}, key="a", client="test", priority=priority)
        for steps, priority in ((2, -1), (6, 1))
    )
    for order in (low, high):
        service.store.accept(order, {})
    service.start()
    assert service.wait_here(high.id).state is State.done
    assert service.job(low.id).state in (State.queued, State.running)  # type: ignore[union-attr]
    service.wait_here(low.id)


def test_the_queue_is_bounded_and_says_when_to_ask_again(make_service: Make) -> None:
    from bimo.serve.settings import Limits

    service = make_service(limits=Limits(waiting=3, waiting_of_key=2))
    service.start()
    jobs = [submit(service, {"text": "猫", "steps": 150}) for _ in range(2)]
    with pytest.raises(QueueFullError) as full:
        submit(service, {"text": "猫"})
    assert full.value.seconds >= 1
    jobs.append(submit(service, {"text": "猫", "steps": 150}, key="another"))
    with pytest.raises(QueueFullError):
        submit(service, {"text": "猫"}, key="third")
    for name in jobs:
        service.cancel(name)
    until(lambda: not service.open_jobs())
    submit(service, {"text": "猫", "steps": 1})


def test_one_broken_job_leaves_its_neighbours_alone(make_service: Make, tiny_engine: Engine) -> None:
    service = make_service(executor=sharing, batch=4)
    good, bad = (submit_before(service, {"text": "红苹果", "steps": 3, "seed": seed}) for seed in (1, 2))
    loop = tiny_engine.loop

    def breaking(prepared: Any, index: int = 0) -> Any:
        steps = loop(prepared, index)
        if prepared.request.seed != 2:
            return steps
        next(steps)
        steps.close()
        return (one for one in [1 / 0])

    service.pool.resident(EngineKey("tiny")).loop = breaking  # type: ignore[union-attr,method-assign]
    try:
        service.start()
        assert service.wait_here(good).state is State.done
        job = service.wait_here(bad)
    finally:
        del tiny_engine.__dict__["loop"]
    assert job.state is State.failed
    assert job.failure is not None
    assert "division" not in job.failure.said("en")


def test_what_a_model_cannot_draw_is_refused_before_it_is_accepted(service: DrawingService) -> None:
    for values in ({"text": " "}, {"text": "猫", "size": (100, 100)}, {"text": "猫", "sampler": "nothing"}):
        with pytest.raises(RequestError):
            submit(service, values)
    with pytest.raises(RequestError, match="tiny"):
        submit(service, {"text": "猫"}, model="other")
    assert not service.store.jobs()


def test_previews_come_on_the_way_and_look_like_the_end(service: DrawingService) -> None:
    shown: list[Image.Image] = []
    name = submit(service, {"text": "红苹果", "steps": 8, "seed": 1}, previews=3)
    job = service.wait_here(name, lambda event: event.preview is not None and shown.append(event.preview))
    assert len(shown) == 3
    with Image.open(job.pictures[0].file) as image:
        last = np.asarray(image, float)
    away = [float(np.abs(np.asarray(each, float) - last).mean()) for each in shown]
    assert away[-1] < away[0]


def lora_file(engine: Engine, folder: Path, name: str) -> Path:
    """A LoRA of the toy system's denoiser that changes what is drawn."""
    import copy

    system = copy.deepcopy(engine.system)
    level = system.recipe.levels[-1].name
    inject(system, [f"{level}.denoiser*to_q"], rank=2, alpha=2.0)
    torch.manual_seed(3)
    for parameter_name, parameter in system.named_parameters():
        if ".lora.up" in parameter_name:
            torch.nn.init.normal_(parameter, std=2.0)
    file = folder / f"{name}.safetensors"
    save_lora(file, engine.system, extract(system))
    return file


def test_loras_are_per_request_and_the_model_stays_as_it_is(
    make_service: Make, tiny_engine: Engine, tmp_path: Path
) -> None:
    file = lora_file(tiny_engine, tmp_path, "ink")
    plain = shown(tiny_engine.draw("红苹果", seed=1, steps=2)[0].png())
    service = make_service(lora_files={"ink": file}, batch=1)
    service.start()
    values = {"text": "红苹果", "steps": 2, "seed": 1}
    jobs = [submit(service, values), submit(service, values, loras=[("ink", LoraWeight(0.8))]), submit(service, values)]
    first, changed, last = (shown(service.wait_here(name).pictures[0].file) for name in jobs)
    expected = shown(tiny_engine.with_adapters([f"{file}:0.8"]).draw("红苹果", seed=1, steps=2)[0].png())
    assert changed == expected != plain
    assert first == last == plain
    with pytest.raises(RequestError, match="ink"):
        submit(service, values, loras=[("oil", LoraWeight())])


def test_loras_of_some_steps_are_drawn_beside_others(
    make_service: Make, tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lora_file(tiny_engine, tmp_path, "ink")
    service = make_service(lora_files={"ink": file}, batch=8)
    read: list[str] = []
    monkeypatch.setattr(service.pool, "_load", read.append)
    values = [{"text": "红苹果", "steps": steps, "seed": seed} for seed, steps in enumerate((4, 5, 8, 4, 5))]
    weights = [
        *(LoraWeight(0.8, 0.25, 0.75), LoraWeight(0.8, 0.25, 0.75), LoraWeight(0.8, 0.25, 0.75)),
        *(LoraWeight(0.8), None),
    ]
    jobs = [
        submit(service, each, loras=[] if weight is None else [("ink", weight)])
        for each, weight in zip(values, weights, strict=True)
    ]
    service.start()
    done = [service.wait_here(name) for name in jobs]
    assert read == []  # no model is loaded for it
    for job, each, weight in zip(done, values, weights, strict=True):
        engine = tiny_engine if weight is None else tiny_engine.with_adapters([(file, weight)])
        alone = engine.draw(each)[0].image
        with Image.open(job.pictures[0].file) as drawn:
            assert np.abs(np.asarray(drawn.convert("RGB"), int) - np.asarray(alone, int)).max() <= 1
    assert shown(tiny_engine.draw(values[0])[0].png()) != shown(done[0].pictures[0].file)
    whole = tiny_engine.with_adapters([(file, LoraWeight(0.8))]).draw(values[0])[0]
    assert shown(whole.png()) != shown(done[0].pictures[0].file)


def test_a_lora_of_another_family_fails_without_a_folder_of_the_server(
    make_service: Make, tiny_engine: Engine, tmp_path: Path
) -> None:
    file = lora_file(tiny_engine, tmp_path, "ink")
    tensors = load_file(file)
    save_file({f"strange.{name}": value for name, value in tensors.items()}, file)
    service = make_service(lora_files={"ink": file})
    service.start()
    failure = service.wait_here(submit(service, {"text": "红苹果<lora:ink:1>", "steps": 1})).failure
    assert failure is not None
    assert failure.status == 400
    for language in ("en", "zh"):
        assert "ink.safetensors" in failure.said(language)
        assert str(tmp_path) not in failure.said(language)


def test_loras_of_some_steps_are_refused_where_weights_cannot_change(
    make_service: Make, tiny_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = make_service(lora_files={"ink": lora_file(tiny_engine, tmp_path, "ink")})
    monkeypatch.setattr(tiny_engine, "keeping", Keeping(offload="parts"))
    submit(service, {"text": "红苹果<lora:ink:0.8>"})
    with pytest.raises(RequestError, match="range of steps"):
        submit(service, {"text": "红苹果<lora:ink:0.8@0.2-0.6>"})


def test_engines_with_loras_share_what_they_do_not_touch(tiny_engine: Engine, tmp_path: Path) -> None:
    made = tiny_engine.with_adapters([lora_file(tiny_engine, tmp_path, "ink")])
    own = dict(tiny_engine.system.named_parameters())
    shared = [value.data_ptr() == own[name].data_ptr() for name, value in made.system.named_parameters()]
    assert any(shared)
    assert not all(shared)


def test_what_loras_keep_counts_for_the_memory(tiny_engine: Engine, tmp_path: Path) -> None:
    """The weights that a LoRA changes, their originals, and its own file; what is shared counts once."""
    files = {name: lora_file(tiny_engine, tmp_path, name) for name in ("ink", "oil")}
    plain = sum(p.numel() * p.element_size() for p in tiny_engine.system.parameters())
    plain += sum(b.numel() * b.element_size() for b in tiny_engine.system.buffers())
    touched = attach.touched(tiny_engine.system, files["ink"])
    changed = sum(tiny_engine.system.get_parameter(name).nbytes for name in touched)
    in_file = sum(tensor.nbytes for tensor in load_file(files["ink"]).values())
    base = EngineKey("tiny")
    ink, oil = (EngineKey("tiny", ((name, LoraWeight()),)) for name in files)
    pool = EnginePool(lambda _: tiny_engine, {"tiny": "tiny"}, files)
    for key in (base, ink, oil):
        pool.load_now(key)
    each = 2 * changed + in_file
    assert pool.loaded() == {base: plain, ink: each, oil: each}

    pool.release("tiny")
    pool.budget = plain + 2 * each - 1  # room for the model and one of them
    for key in (base, ink, oil):
        until(lambda key=key: pool.take(key) is not None)
        pool.give_back(key)
    assert pool.loaded() == {base: plain, oil: each}
    pool.close()


def test_the_least_recent_model_goes(tiny_engine: Engine) -> None:
    loaded: list[str] = []

    def load(name: str) -> Engine:
        loaded.append(name)
        if name == "broken":
            raise WeightsError("there is no folder {text}", text=name)
        import copy

        return Engine(copy.deepcopy(tiny_engine.system))

    one = sum(p.numel() * p.element_size() for p in tiny_engine.system.parameters())
    pool = EnginePool(load, {name: name for name in ("a", "b", "c", "broken")}, budget=int(2.5 * one))
    came = threading.Event()
    pool.on_loaded = came.set

    def take(name: str) -> Engine:
        key = EngineKey(name)
        found: list[Engine] = []
        until(lambda: (engine := pool.take(key)) is not None and (found.append(engine) or True))
        return found[0]

    for name in ("a", "b"):
        take(name)
        pool.give_back(EngineKey(name))
    take("a")
    take("c")
    assert [key.model for key in pool.loaded()] == ["a", "c"]
    with pytest.raises(WeightsError):
        take("broken")
    assert loaded == ["a", "b", "c", "broken"]
    assert came.is_set()
    pool.close()


def test_calls_are_shared_where_that_ends_pictures_sooner() -> None:
    costs = CallCosts()
    assert costs.best("x", 8) == 1  # nothing is known
    costs.learn("x", 1, 1.0)
    assert costs.best("x", 1) == 1
    assert costs.best("x", 8) == 2  # never tried
    costs.learn("x", 2, 1.1)
    assert costs.best("x", 8) == 4
    costs.learn("x", 4, 1.3)
    costs.learn("x", 8, 9.0)
    assert costs.best("x", 8) == 4  # 8 in a call wait longer than 4.5 calls of one
    slow = CallCosts()
    slow.learn("x", 1, 1.0)
    slow.learn("x", 2, 1.9)
    assert slow.best("x", 8) == 1


def test_a_prompt_drawn_again_is_encoded_once(service: DrawingService, tiny_engine: Engine) -> None:
    from bimo.diffusion.prompt_weighting import EncodingCache

    tiny_engine.encoding_cache = EncodingCache(4)
    try:
        for seed, steps in ((1, 2), (2, 3), (3, 2)):
            service.wait_here(submit(service, {"text": "红苹果", "steps": steps, "seed": seed}))
        assert tiny_engine.encoding_cache.hits == 2
    finally:
        tiny_engine.encoding_cache = None
