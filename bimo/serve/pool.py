"""Engines in memory: of several models, with their LoRAs, as many as a budget holds; the least recently used go."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.diffusion.prompt_weighting import EncodingCache
from bimo.engine.adapters import Adapters
from bimo.engine.engine import Engine
from bimo.engine.memory import bytes_of
from bimo.hub import memory
from bimo.hub.loading import load_with, steady
from bimo.serve.settings import ServeSettings

#: Sets of prompts whose encodings an engine remembers.
ENCODINGS = 64
#: The share of what is free that weights may take where no budget is given: drawing needs the rest.
SHARE = 0.7

Loras = tuple[tuple[str, float], ...]
#: Endings of files of weights.
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class EngineKey:
    """Which engine a job needs: a model by its name, LoRAs with their weights, ControlNets."""

    model: str
    loras: Loras = ()
    controls: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is the model alone."""
        return not (self.loras or self.controls)


@dataclass
class _Slot:
    loading: Future[Engine]
    bytes: int = 0
    users: int = 0
    base: EngineKey | None = None
    counted: set[int] = field(default_factory=set[int])


class EnginePool:
    """Loads engines off the thread that draws, keeps them while they are used, and lets the least recent go.

    ``load`` reads a model by a name of ``models``; ``loras`` and ``controls`` are files by the names that requests call
    them.
    """

    def __init__(
        self,
        load: Callable[[str], Engine],
        models: Mapping[str, str],
        loras: Mapping[str, Path] | None = None,
        budget: int | None = None,
        controls: Mapping[str, Path] | None = None,
    ) -> None:
        self.models = dict(models)
        self.loras = dict(loras or {})
        self.controls = dict(controls or {})
        self.default = next(iter(self.models))
        free = memory.available()
        self.budget = budget if budget is not None else None if free is None else int(free * SHARE)
        self._load = load
        self._lock = threading.RLock()
        self._slots: OrderedDict[EngineKey, _Slot] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, "bimo-load")
        #: Called when an engine was loaded or could not be.
        self.on_loaded: Callable[[], None] = lambda: None

    def named(self, name: str | None) -> str:
        """The name of a model as it is kept, the first one for None. Raises RequestError with those there are."""
        if not name:
            return self.default
        if name in self.models:
            return name
        raise RequestError("there is no model {name!r} here; there is {names}", name=name, names=Listed(self.models))

    def lora(self, name: str) -> str:
        """The name of a LoRA as it is kept. Raises RequestError with those there are."""
        if name in self.loras:
            return name
        if not self.loras:
            raise RequestError("there is no LoRA {name!r}: this server has none (bimo serve --loras DIR)", name=name)
        raise RequestError("there is no LoRA {name!r} here; there is {names}", name=name, names=Listed(self.loras))

    def control(self, name: str) -> str:
        """The name of a ControlNet as it is kept. Raises RequestError with those there are."""
        if name in self.controls:
            return name
        if not self.controls:
            raise RequestError(
                "there is no ControlNet {name!r}: this server has none (bimo serve --controlnets DIR)", name=name
            )
        names = Listed(self.controls)
        raise RequestError("there is no ControlNet {name!r} here; there is {names}", name=name, names=names)

    def take(self, key: EngineKey) -> Engine | None:
        """The engine, which stays until it is given back; None while it is being loaded. Raises what loading raised."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = _Slot(self._loader.submit(self._made, key), base=None if key.plain else EngineKey(key.model))
                self._slots[key] = slot
                slot.loading.add_done_callback(lambda _: self.on_loaded())
                return None
            if not slot.loading.done():
                return None
            try:
                engine = slot.loading.result()
            except BaseException:
                del self._slots[key]  # it may be mended meanwhile
                raise
            slot.users += 1
            self._slots.move_to_end(key)
            return engine

    def give_back(self, key: EngineKey) -> None:
        """Says that a taken engine is not used any more."""
        with self._lock:
            self._slots[key].users -= 1

    def resident(self, key: EngineKey) -> Engine | None:
        """The engine where it is loaded, for looking at it alone."""
        with self._lock:
            slot = self._slots.get(key)
            loaded = slot is not None and slot.loading.done() and slot.loading.exception() is None
            return slot.loading.result() if slot is not None and loaded else None

    def loaded(self) -> dict[EngineKey, int]:
        """What is in memory, the least recently used first, with the bytes it has for itself."""
        with self._lock:
            return {key: slot.bytes for key, slot in self._slots.items() if slot.bytes}

    def put(self, key: EngineKey, engine: Engine) -> None:
        """Keeps an engine that was loaded elsewhere."""
        ready: Future[Engine] = Future()
        ready.set_result(engine)
        with self._lock:
            slot = self._slots[key] = _Slot(ready)
            self._count(slot, engine)

    def load_now(self, key: EngineKey) -> Engine:
        """Loads an engine here and now. Raises what loading raises."""
        engine = self._made(key)
        self.put(key, engine)
        return engine

    def release(self, model: str | None = None) -> int:
        """Lets go of what nobody uses, of one model or of all; answers how many engines went."""
        with self._lock:
            idle = [k for k, s in self._slots.items() if s.loading.done() and not s.users and model in (None, k.model)]
            for key in idle:
                del self._slots[key]
            return len(idle)

    def close(self) -> None:
        """Loads nothing more."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _made(self, key: EngineKey) -> Engine:
        if key.plain:
            engine = self._load(self.models[key.model])
        else:
            base = self._base(EngineKey(key.model))
            loras = [f"{self.loras[name]}:{weight:f}" for name, weight in key.loras]
            engine = base.with_adapters(loras, [self.controls[name] for name in key.controls])
        engine.encoding_cache = EncodingCache(ENCODINGS)
        with self._lock:
            if (slot := self._slots.get(key)) is not None:
                self._count(slot, engine)
            self._shrink(key)
        return engine

    def _base(self, key: EngineKey) -> Engine:
        """The engine that LoRAs are put into: in the loader's own thread, so that no job waits for itself."""
        if (engine := self.resident(key)) is not None:
            return engine
        engine = self._load(self.models[key.model])
        self.put(key, engine)
        return engine

    def _count(self, slot: _Slot, engine: Engine) -> None:
        """Bytes that no engine counted before: those with LoRAs share most of their weights with the one without."""
        shared = {number for other in self._slots.values() if other is not slot for number in other.counted}
        found: dict[int, int] = {}
        tensors: list[torch.Tensor] = [*engine.system.parameters(), *engine.system.buffers()]
        for tensor in tensors:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
        slot.counted = set(found)
        slot.bytes = max(1, sum(size for number, size in found.items() if number not in shared))

    def _shrink(self, keep: EngineKey) -> None:
        if self.budget is None:
            return
        total = sum(slot.bytes for slot in self._slots.values())
        for key, slot in list(self._slots.items()):
            if total <= self.budget:
                return
            needed = any(other.base == key for other in self._slots.values())
            if key != keep and not slot.users and slot.loading.done() and not needed:
                total -= slot.bytes
                del self._slots[key]


def pool_of(settings: ServeSettings) -> EnginePool:
    """The engines that a server's settings name, none of them loaded. Raises RequestError for folders there are not."""
    embeddings = list(weight_files(settings.embeddings).values())

    def loaded(name: str) -> Engine:
        return steady(load_with(name, Adapters.named(embeddings=embeddings), **settings.load_options.arguments()))

    models, loras = model_names(settings.models), weight_files(settings.loras)
    budget = bytes_of(settings.load_options.memory) if settings.load_options.memory else None
    return EnginePool(loaded, models, loras, budget, control_files(settings.controlnets))


def model_names(models: tuple[str, ...]) -> dict[str, str]:
    """What requests call the models of a command line -> what loads them: a folder by its last name, "NAME=MODEL" by
    the name that is said, such as one that clients have fixed.
    """
    found: dict[str, str] = {}
    for model in models:
        said, sign, rest = model.partition("=")
        if sign and said and not Path(model).expanduser().exists():
            found[said] = rest
            continue
        path = Path(model).expanduser()
        name = path.resolve().stem if path.exists() else model
        base, number = name, 2
        while name in found:
            name, number = f"{base}-{number}", number + 1
        found[name] = model
    return found


def weight_files(folder: Path | None) -> dict[str, Path]:
    """The files of weights in a folder, such as LoRAs, by their names without the ending, sorted."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RequestError("there is no folder {folder}", folder=folder)
    return {file.stem: file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix.lower() in WEIGHTS}


def control_files(folder: Path | None) -> dict[str, Path]:
    """The ControlNets and T2I-Adapters in a folder by their names, sorted: folders with a config.json, as diffusers
    writes them, and files of weights.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RequestError("there is no folder {folder}", folder=folder)
    every = sorted(folder.iterdir())
    folders = {each.name: each for each in every if (each / "config.json").is_file()}
    return folders | {each.stem: each for each in every if each.is_file() and each.suffix.lower() in WEIGHTS}
