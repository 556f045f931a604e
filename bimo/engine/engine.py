"""The one path by which everything draws: Python, the command line, the page, evaluation and training's samples.

An engine is a system together with where and how it runs. It loads the text encoders, encodes the prompt, runs the
denoisers, moves tensors to the device, reports progress, and offloads weights when it is done or cancelled.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.picture import Picture
from bimo.core.recipe import Recipe
from bimo.core.request import OF_THE_WHOLE, Request, checked
from bimo.core.tensors import DenoiserInput
from bimo.diffusion import sampling
from bimo.diffusion.batching import denoise_together, run_batched
from bimo.diffusion.casting import dtype_of
from bimo.diffusion.preparation import Prepared, prepare
from bimo.diffusion.prompt_weighting import EncodingCache
from bimo.diffusion.request_filling import FilledRequest, fill_request
from bimo.diffusion.sampling import SamplingLoop
from bimo.diffusion.system import System
from bimo.engine import packing, quantisation
from bimo.engine.adapters import Adapters, detached
from bimo.engine.devices import DTYPES, default_device, device_of_module
from bimo.engine.fast import Fast
from bimo.engine.features import check_features
from bimo.engine.memory import Keeping, drawing_bytes
from bimo.engine.offload import Offloader, WeightMover
from bimo.engine.processor import Processor

#: Called before each step with (picture index, number of pictures, step, number of steps); may raise to cancel.
Progress = Callable[[int, int, int, int], None]
AnyRequest = Request | Mapping[str, Any] | str | FilledRequest | Prepared
#: Steps of the drawing that int8 is calibrated on.
CALIBRATION_STEPS = 6
#: The sides of that drawing are multiples of this many pixels, which every system allows.
UNIT = 64


class Engine:
    """A system that draws, with its weights on ``device`` in ``dtype``, offloaded or quantised as ``keeping`` says.
    Without a device or dtype weights stay where and as they are, for a system in training. Its blocks are spread over
    further ``cards``. ``processor`` is the CPU inference engine, torch by default; ``fast`` has the default settings of
    a few-step LoRA.
    """

    def __init__(
        self,
        system: System,
        *,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
        keeping: Keeping | None = None,
        cards: Sequence[torch.device] = (),
        processor: Processor | None = None,
        fast: Fast | None = None,
        notices: Sequence[str] = (),
    ) -> None:
        self.system = system
        #: Sentences about where and how it draws, to be shown before it does.
        self.notices = tuple(notices)
        self.processor = Processor("torch") if processor is None else processor
        #: Parameter count, taken before the processor's engine converts blocks, which leaves torch nothing to count.
        self.parameters = sum(parameter.numel() for parameter in system.parameters())
        mover = cast("WeightMover | None", system.weight_mover)
        self.device = device or (device_of_module(system) if mover is None else mover.device)
        self.dtype = dtype
        #: Offload, quantisation and tiling.
        self.keeping = Keeping() if keeping is None else keeping
        self.cards = tuple(cards)
        self.fast = fast
        #: Set by callers that have the denoisers' blocks compiled.
        self.compiled = False
        #: Set by callers that draw the same prompts repeatedly with constant weights.
        self.encoding_cache: EncodingCache | None = None
        self._offloader: WeightMover | None = mover
        self._keep_weights()

    def _keep_weights(self) -> None:
        # What is offloaded or quantised is read again from tensors as they were. In training there is no dtype.
        stays = self.dtype is not None and self.keeping.offload == "none" and self.keeping.quantise == "none"
        packs = stays and self.processor.packs
        if not packs:
            packing.unpack(self.system)
        self.processor.put(self.system)
        if self.dtype is not None:
            self._offloader = Offloader(
                self.system,
                self.dtype,
                offload=self.keeping.offload,
                device=self.device,
                quantise=self.keeping.quantise,
                tiles=self.keeping.tiles,
                cards=self.cards,
                reserved=drawing_bytes(self.recipe.request.size, self.keeping),
            )
        if packs:
            self.processor.pack(self.system)

    @property
    def blocks_on(self) -> dict[torch.device, int]:
        """How many blocks are on each card that they are spread over; empty for one device."""
        spread = self._offloader.spread if isinstance(self._offloader, Offloader) else None
        return {} if spread is None else spread.counts()

    @property
    def space_dtype(self) -> str:
        """The dtype that the last level's space decodes in, by its short name."""
        space = cast(nn.Module, self.system.space(self.recipe.levels[-1].name))
        kind = dtype_of(space) or torch.float32
        return next((name for name, dtype in DTYPES.items() if dtype == kind), "fp32")

    @property
    def recipe(self) -> Recipe:
        """The recipe of the system."""
        return self.system.recipe

    @property
    def adapters(self) -> list[tuple[str, float]]:
        """Name and weight of each attached LoRA."""
        from bimo.models.adapters import lora_merging

        return lora_merging.adapters(self.system)

    @property
    def lora_weights(self) -> list[tuple[str, LoraWeight]]:
        """Name of each attached LoRA, and its weight with the steps that it counts in."""
        from bimo.models.adapters import lora_merging

        return lora_merging.lora_weights(self.system)

    def tensors(self) -> list[torch.Tensor]:
        """Every tensor that it keeps in memory: the system's own, and what LoRAs keep beside them."""
        from bimo.models.adapters import attach

        return [*self.system.parameters(), *self.system.buffers(), *attach.kept_tensors(self.system)]

    def attach(
        self,
        *loras: str | Path,
        embeddings: Sequence[str | Path] = (),
        controls: Sequence[str | Path] = (),
        ip_adapters: Sequence[str | Path] = (),
        image_encoder: str | Path | None = None,
    ) -> None:
        """Attaches LoRAs ("FILE", "FILE:0.8", "FILE:0.8@0.2-0.6") and the other adapters that ``bimo.load`` takes.
        Attaching a LoRA again sets its weight. Raises WeightsError for adapters of another family, RequestError for
        missing files.
        """
        adapters = Adapters.from_files(loras, embeddings, controls, ip_adapters, image_encoder)
        self._check_movable()
        self.processor.restore()
        self.processor.cache_converted = False
        self.system = adapters.put(self.system)
        self._keep_weights()

    def _check_movable(self) -> None:
        if self.keeping.quantise != "none" or self.keeping.offload in ("groups", "disk"):
            raise RequestError(
                "with {flags} adapters are named when the model is loaded: the weights they change are rounded or away",
                flags=self.keeping.flags,
            )
        if self.cards:
            raise RequestError("over several cards adapters are named when the model is loaded, before it is spread")
        if quantisation.in_blocks(self.system):
            raise RequestError(
                "with files of GGUF adapters are named when the model is loaded: their matrices lie in blocks, and "
                "nothing can be added to those"
            )

    def check_lora_ranges(self) -> None:
        """Raises RequestError if LoRAs that count in a range of steps cannot be drawn with: weights that are rounded,
        away or converted cannot change between two steps.
        """
        quantised = self.keeping.quantise != "none" or quantisation.in_blocks(self.system)
        if quantised or self.keeping.offload != "none" or self.processor.name != "torch":
            raise RequestError(
                "LoRAs that count in a range of steps change weights between the steps, which have to be in memory as "
                "they are: leave out the range, or take --engine torch and leave out --quantise and --offload"
            )

    def detach(self, name: str = "") -> None:
        """Detaches one adapter, or all for "". Names are a LoRA's file name without suffix, an embedding's token or
        file name, the condition of a ControlNet, T2I-Adapter or IP-Adapter ("control", "prompt-2"). Raises WeightsError
        for a name that is not attached.
        """
        self._check_movable()
        self.processor.restore()
        self.processor.cache_converted = False
        self.system = detached(self.system, name)
        self._keep_weights()

    def fill(self, request: AnyRequest, **settings: Any) -> FilledRequest:
        """What is asked, and what is drawn: every field that is left open is filled in from the engine's own defaults
        and the recipe; a filled request is returned as it is. Raises RequestError if it cannot be drawn.
        """
        if isinstance(request, Prepared):
            return FilledRequest(request.asked, request.request)
        if isinstance(request, FilledRequest):
            return request
        asked = checked(_with_settings(request, settings))
        with default_device(self.device):
            return FilledRequest(asked, fill_request(self.system, self._with_defaults(asked)).request)

    def prepare(self, request: AnyRequest, **settings: Any) -> Prepared:
        """Fills in a request and encodes its text, once for all of its pictures. Raises RequestError."""
        if isinstance(request, Prepared):
            return request
        filled = self.fill(request, **settings)
        encoders = nullcontext() if self._offloader is None else self._offloader.text_encoders()
        with default_device(self.device), encoders, self.processor.working():
            prepared = prepare(self.system, filled, self.encoding_cache)
            return replace(prepared, warnings=(*prepared.warnings, *self.processor.warnings))

    def _with_defaults(self, request: Request) -> Request:
        """A request with the engine's own defaults filled in. Raises RequestError for features that this engine does
        not support.
        """
        if self.fast is not None:
            request = self.fast.filled(self.system, request)
        check_features(self, request)
        # What adapters taught, the model's list of words does not say.
        if request.drawn_text is None and self.system.paraphrased(request.text).text != request.text and self.adapters:
            request = request.model_copy(update={"drawn_text": request.text})
        return request

    def draw(
        self, request: AnyRequest, /, *, batch: int = 1, progress: Progress | None = None, **settings: Any
    ) -> list[Picture]:
        """Draws a request, or a sentence with settings: ``engine.draw("红苹果，3D风格", seed=1, steps=20)``.

        ``batch`` pictures are drawn together. With 1 a picture is the same to the byte as when it is drawn alone;
        larger batches may differ in the last bit of float32, as matrix products are ordered by shape. Raises
        RequestError.
        """
        return list(self.stream(request, batch=batch, progress=progress, **settings))

    def stream(
        self, request: AnyRequest, /, *, batch: int = 1, progress: Progress | None = None, **settings: Any
    ) -> Iterator[Picture]:
        """As ``draw``, but yields each picture when it is done. The request is validated and its text encoded before
        this returns.
        """
        prepared = self.prepare(request, **settings)
        if prepared.request.inscribe:
            raise RequestError(
                "an engine draws no inscription by itself; bimo.draw(engine, ...) draws and writes “{text}”",
                text=prepared.request.inscribe[0],
            )
        return self._pictures(prepared, batch, progress)

    def _pictures(self, prepared: Prepared, batch: int, progress: Progress | None) -> Generator[Picture]:
        count = prepared.request.count
        with self._at_rest_after():
            for first in range(0, count, batch):

                def before_step(place: int, step: DenoiserInput, first: int = first) -> None:
                    if progress is not None:
                        progress(first + place, count, step.step, step.steps)

                pictures = [(prepared, index) for index in range(first, min(count, first + batch))]
                yield from self._run(pictures, before_step)

    def draw_together(self, requests: Sequence[Request | Mapping[str, Any]]) -> list[Picture]:
        """Draws the first picture of each request, all in one batch."""
        prepared = [self.prepare(request) for request in requests]
        with self._at_rest_after():
            return self._run([(one, 0) for one in prepared])

    @contextmanager
    def working(self) -> Generator[None]:
        """The context for callers that advance ``loop``s themselves: the default device is set, gradients are off."""
        with default_device(self.device), self.processor.working(), torch.inference_mode():
            yield

    def loop(self, prepared: Prepared, index: int = 0) -> SamplingLoop:
        """The sampling coroutine of one picture, to be driven with ``denoise`` within ``working``."""
        self.processor.calibrate(lambda: self._run([(self._smaller(prepared), 0)]))
        return sampling.sample(self.system, prepared, index)

    def denoise(self, inputs: Sequence[DenoiserInput]) -> list[torch.Tensor]:
        """The denoiser's outputs for inputs of the same level and size, in one batched call, within ``working``."""
        if self._offloader is not None:
            self._offloader.on_step(inputs[0])
        return denoise_together(self.system, inputs)

    def rest(self) -> None:
        """Offloads the weights that are in memory."""
        if self._offloader is not None:
            self._offloader.rest()

    def with_adapters(
        self, loras: Sequence[str | Path | tuple[Path, LoraWeight]] = (), controls: Sequence[str | Path] = ()
    ) -> Engine:
        """Another engine with LoRAs (as for ``attach``, or files with their weights) and ControlNets attached; this one
        is unchanged. Weights that the LoRAs modify are copied, all others are shared. Raises as ``attach``.
        """
        from bimo.models.adapters import attach

        self._check_movable()
        if self.processor.converts:
            raise RequestError("OpenVINO has converted this model's blocks, LoRAs change none; take --engine torch")
        adapters = Adapters.from_files(loras, controls=controls)
        touched = {path for file, _ in adapters.loras for path in attach.touched(self.system, file)}
        touched |= attach.stepwise(self.system)
        shared = _sharing(self.system, touched)
        packing.unpack(shared, touched)
        system = adapters.put(shared)
        settings: dict[str, Any] = {"device": self.device, "dtype": self.dtype, "keeping": self.keeping}
        return Engine(
            system, **settings, processor=Processor(self.processor.name, cache_converted=False), fast=self.fast
        )

    def _run(
        self,
        pictures: Sequence[tuple[Prepared, int]],
        before_step: Callable[[int, DenoiserInput], None] | None = None,
    ) -> list[Picture]:
        def step(place: int, denoiser_input: DenoiserInput) -> None:
            if self._offloader is not None:
                self._offloader.on_step(denoiser_input)
            if before_step is not None:
                before_step(place, denoiser_input)

        self.processor.calibrate(lambda: self._run([(self._smaller(pictures[0][0]), 0)]))
        start = time.perf_counter()
        with default_device(self.device), self.processor.working():
            loops = [sampling.sample(self.system, prepared, index) for prepared, index in pictures]
            drawings = run_batched(self.system, loops, step)
        seconds = (time.perf_counter() - start) / len(pictures)
        return [replace(picture, seconds=seconds) for picture in drawings]

    def _smaller(self, prepared: Prepared) -> Prepared:
        """The same drawing at half the size and with few steps, for calibration."""
        width, height = prepared.request.size or self.recipe.request.size
        small: dict[str, Any] = {**OF_THE_WHOLE, "steps": CALIBRATION_STEPS, "count": 1}
        if not self.recipe.request.sizes:
            small["size"] = (max(UNIT, width // 2 // UNIT * UNIT), max(UNIT, height // 2 // UNIT * UNIT))
        return self.prepare(prepared.request.model_copy(update=small))

    @contextmanager
    def _at_rest_after(self) -> Generator[None]:
        try:
            yield
        finally:
            self.rest()


def _sharing(system: System, own: set[str]) -> System:
    """A copy of a system that shares its tensors, except the parameters ``own``."""
    from bimo.models.adapters import attach

    memo: dict[int, Any] = {id(system.recipe): system.recipe}
    for name, parameter in system.named_parameters(remove_duplicate=False):
        data = parameter.detach()
        memo[id(parameter)] = torch.nn.Parameter(data.clone() if name in own else data, requires_grad=False)
    memo |= {id(tensor): tensor for tensor in (*system.buffers(), *attach.kept_tensors(system))}
    return copy.deepcopy(system, memo)


def _with_settings(request: Request | Mapping[str, Any] | str, settings: Mapping[str, Any]) -> Any:
    if isinstance(request, str):
        return {"text": request, **settings}
    if not settings:
        return request
    if isinstance(request, Request):
        # Not model_dump(), which replaces pictures by their fingerprints.
        request = {name: getattr(request, name) for name in request.model_fields_set}
    return {**request, **settings}
