"""A pool of loaded engines, with and without LoRAs, within a memory budget; the least recently used are evicted."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from bimo.core.errors import RequestError
from bimo.core.messages import Listed
from bimo.diffusion.prompt_weighting import EncodingCache
from bimo.engine.adapters import Adapters
from bimo.engine.engine import Engine
from bimo.engine.memory import bytes_of
from bimo.engine.packing import storage_of
from bimo.hub import memory
from bimo.hub.editions import edition_for, is_square
from bimo.hub.loading import load_with, steady
from bimo.serve.finetuning.record import State, records
from bimo.serve.jobs import Loras
from bimo.serve.settings import ServeSettings

#: Size of an engine's cache of prompt encodings.
ENCODINGS = 64
#: The fraction of free memory for weights if no budget is given; drawing needs the rest.
SHARE = 0.7

#: Suffixes of weight files.
WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")


@dataclass(frozen=True)
class EngineKey:
    """The engine that a job needs: the name of a model, LoRAs with their weights, ControlNets."""

    model: str
    loras: Loras = ()
    controls: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether it is the model without adapters."""
        return not (self.loras or self.controls)


@dataclass(frozen=True)
class TunedLora:
    """A LoRA that was fine-tuned on this server: its file, the key whose it is, the model that it is for."""

    file: Path
    key: str
    model: str


@dataclass
class _Slot:
    loading: Future[Engine]
    users: int = 0
    base: EngineKey | None = None
    #: The bytes of each storage that it keeps, by its address.
    storages: dict[int, int] = field(default_factory=dict[int, int])


class EnginePool:
    """Loads engines in a background thread, keeps them while they are used, and evicts the least recently used.

    ``load`` loads a value of ``models``; ``loras`` and ``controls`` are files by the names that requests use. With
    ``editions`` a request without a model gets the bundled model that learned what it asks for.
    """

    def __init__(
        self,
        load: Callable[[str], Engine],
        models: Mapping[str, str],
        loras: Mapping[str, Path] | None = None,
        budget: int | None = None,
        controls: Mapping[str, Path] | None = None,
        tuned: Callable[[], Mapping[str, TunedLora]] = dict,
        editions: bool = False,
    ) -> None:
        self.models = dict(models)
        self.loras = dict(loras or {})
        self.controls = dict(controls or {})
        self.default = next(iter(self.models))
        free = memory.available()
        self.budget = budget if budget is not None else None if free is None else int(free * SHARE)
        #: The LoRAs that were fine-tuned on this server, by name; they are added and deleted while it runs.
        self.tuned = tuned
        self.editions = editions
        self._load = load
        self._lock = threading.RLock()
        self._slots: OrderedDict[EngineKey, _Slot] = OrderedDict()
        self._loader = ThreadPoolExecutor(1, "bimo-load")
        #: Called when loading an engine has succeeded or failed.
        self.on_loaded: Callable[[], None] = lambda: None

    def model_name(self, name: str | None) -> str:
        """Validates the name of a model; the default for None. Raises RequestError with the known names."""
        if not name:
            return self.default
        if name in self.models:
            return name
        raise RequestError("there is no model {name!r} here; there is {names}", name=name, names=Listed(self.models))

    def model_for(
        self,
        name: str | None,
        text: str,
        adapted: bool = False,
        size: Sequence[int] | None = None,
        redrawn: bool = False,
    ) -> str:
        """As ``model_name``; for None with ``editions`` the bundled model that learned what a prompt asks for, unless
        the request is ``adapted``: its LoRAs and ControlNets are for the default. ``redrawn``: it begins with a
        picture.
        """
        if name or adapted or not self.editions:
            return self.model_name(name)
        return edition_for(text, not redrawn, is_square(size))

    def loras_of(self, key: str) -> list[str]:
        """The names of the LoRAs that a key may use: those of the server, and those it fine-tuned, the newest first."""
        return [*(name for name, lora in self.tuned().items() if lora.key == key), *self.loras]

    def lora(self, name: str, key: str) -> str:
        """Validates the name of a LoRA for a key. Raises RequestError with the names that it may use."""
        names = self.loras_of(key)
        if name in names:
            return name
        if not names:
            raise RequestError("there is no LoRA {name!r}: this server has none (bimo serve --loras DIR)", name=name)
        raise RequestError("there is no LoRA {name!r} here; there is {names}", name=name, names=Listed(names))

    def _lora_file(self, name: str) -> Path:
        if name in self.loras:
            return self.loras[name]
        tuned = self.tuned().get(name)
        if tuned is None:
            raise RequestError("the LoRA {name!r} has been deleted", name=name)
        return tuned.file

    def control(self, name: str) -> str:
        """Validates the name of a ControlNet. Raises RequestError with the known names."""
        if name in self.controls:
            return name
        if not self.controls:
            raise RequestError(
                "there is no ControlNet {name!r}: this server has none (bimo serve --controlnets DIR)", name=name
            )
        names = Listed(self.controls)
        raise RequestError("there is no ControlNet {name!r} here; there is {names}", name=name, names=names)

    def take(self, key: EngineKey) -> Engine | None:
        """Acquires an engine until ``give_back``; None while it is being loaded. Raises what loading raised."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None:
                slot = _Slot(
                    self._loader.submit(self._load_engine, key), base=None if key.plain else EngineKey(key.model)
                )
                self._slots[key] = slot
                slot.loading.add_done_callback(lambda _: self.on_loaded())
                return None
            if not slot.loading.done():
                return None
            try:
                engine = slot.loading.result()
            except BaseException:
                del self._slots[key]  # so that the next request tries again
                raise
            slot.users += 1
            self._slots.move_to_end(key)
            return engine

    def give_back(self, key: EngineKey) -> None:
        """Releases an acquired engine."""
        with self._lock:
            self._slots[key].users -= 1

    def resident(self, key: EngineKey) -> Engine | None:
        """The engine if it is loaded, without acquiring it: only for reading its facts."""
        with self._lock:
            slot = self._slots.get(key)
            loaded = slot is not None and slot.loading.done() and slot.loading.exception() is None
            return slot.loading.result() if slot is not None and loaded else None

    def loaded(self) -> dict[EngineKey, int]:
        """The engines in memory, the least recently used first, with the bytes of their weights; what engines of a
        model share counts for the one without adapters, else for the least recently used.
        """
        with self._lock:
            found = {key: slot.storages for key, slot in self._slots.items() if slot.storages}
            own: dict[EngineKey, int] = {}
            counted: set[int] = set()
            for key in sorted(found, key=lambda key: not key.plain):
                own[key] = sum(size for address, size in found[key].items() if address not in counted)
                counted |= found[key].keys()
            return {key: own[key] for key in found}

    def put(self, key: EngineKey, engine: Engine) -> None:
        """Adds an engine that was loaded elsewhere."""
        ready: Future[Engine] = Future()
        ready.set_result(engine)
        with self._lock:
            self._slots[key] = _Slot(ready, storages=_storages(engine))

    def load_now(self, key: EngineKey) -> Engine:
        """Loads an engine in the calling thread. Raises what loading raises."""
        engine = self._load_engine(key)
        self.put(key, engine)
        return engine

    def release(self, model: str | None = None) -> int:
        """Evicts unused engines, of one model or of all; returns their number."""
        with self._lock:
            idle = [k for k, s in self._slots.items() if s.loading.done() and not s.users and model in (None, k.model)]
            for key in idle:
                del self._slots[key]
            return len(idle)

    def close(self) -> None:
        """Stops the loading thread."""
        self._loader.shutdown(wait=False, cancel_futures=True)

    def _load_engine(self, key: EngineKey) -> Engine:
        if key.plain:
            engine = self._load(self.models[key.model])
        else:
            base = self._base(EngineKey(key.model))
            loras = [(self._lora_file(name), weight) for name, weight in key.loras]
            engine = base.with_adapters(loras, [self.controls[name] for name in key.controls])
        engine.encoding_cache = EncodingCache(ENCODINGS)
        with self._lock:
            if (slot := self._slots.get(key)) is not None:
                slot.storages = _storages(engine)
            self._shrink(key)
        return engine

    def _base(self, key: EngineKey) -> Engine:
        """The engine without LoRAs, loaded in the calling thread: queueing it in the loader's thread would deadlock."""
        if (engine := self.resident(key)) is not None:
            return engine
        engine = self._load(self.models[key.model])
        self.put(key, engine)
        return engine

    def _shrink(self, keep: EngineKey) -> None:
        if self.budget is None:
            return
        for key, slot in list(self._slots.items()):
            if sum(self.loaded().values()) <= self.budget:
                return
            needed = any(other.base == key for other in self._slots.values())
            if key != keep and not slot.users and slot.loading.done() and not needed:
                del self._slots[key]


def _storages(engine: Engine) -> dict[int, int]:
    """The bytes of each storage of an engine, by its address; those on the meta device have none."""
    sizes = (storage_of(tensor) for tensor in engine.tensors())
    return {address: size for address, size in sizes if address}


def pool_of(settings: ServeSettings) -> EnginePool:
    """The pool for a server's settings, with nothing loaded. Raises RequestError for missing folders."""
    embeddings = list(weight_files(settings.embeddings).values())

    def load_model(name: str) -> Engine:
        return steady(load_with(name, Adapters.from_files(embeddings=embeddings), **settings.load_options.arguments()))

    def tuned() -> dict[str, TunedLora]:
        done = (record for record in records(settings.folder) if record.state is State.done)
        return {record.name: TunedLora(record.lora, record.key, record.model) for record in done}

    return EnginePool(
        load_model,
        model_names(settings.models),
        weight_files(settings.loras),
        bytes_of(settings.load_options.memory) if settings.load_options.memory else None,
        control_files(settings.controlnets),
        tuned,
        settings.editions,
    )


def model_names(models: tuple[str, ...]) -> dict[str, str]:
    """Maps names for requests to the models of a command line: a folder by its last component, "NAME=MODEL" by NAME,
    for clients with a fixed model name.
    """
    names: dict[str, str] = {}
    for model in models:
        alias, sign, rest = model.partition("=")
        if sign and alias and not Path(model).expanduser().exists():
            names[alias] = rest
            continue
        path = Path(model).expanduser()
        name = path.resolve().stem if path.exists() else model
        base, number = name, 2
        while name in names:
            name, number = f"{base}-{number}", number + 1
        names[name] = model
    return names


def weight_files(folder: Path | None) -> dict[str, Path]:
    """The weight files in a folder, such as LoRAs, by their names without suffix, sorted."""
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RequestError("there is no folder {folder}", folder=folder)
    return {file.stem: file for file in sorted(folder.rglob("*")) if file.is_file() and file.suffix.lower() in WEIGHTS}


def control_files(folder: Path | None) -> dict[str, Path]:
    """The ControlNets and T2I-Adapters in a folder by name, sorted: diffusers folders with a config.json, and weight
    files.
    """
    if folder is None:
        return {}
    if not folder.is_dir():
        raise RequestError("there is no folder {folder}", folder=folder)
    entries = sorted(folder.iterdir())
    folders = {entry.name: entry for entry in entries if (entry / "config.json").is_file()}
    return folders | {entry.stem: entry for entry in entries if entry.is_file() and entry.suffix.lower() in WEIGHTS}
