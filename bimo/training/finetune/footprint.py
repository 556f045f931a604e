"""How much memory a step of a stage takes, worked out without taking any: its modules are run on torch's device without
contents, and what backward will want is counted as autograd keeps it.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# What is one storage is only told by torch's own handle of it: those without contents have no address.
# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from bimo.core.errors import TrainingError
from bimo.core.module_weights import unfilled
from bimo.core.recipe import Recipe, Stage
from bimo.core.tensors import Batch, Conditioning, DenoiserInput
from bimo.diffusion.system import System
from bimo.engine.devices import to_device
from bimo.engine.memory import BYTES, QUANTISED_BYTES, Keeping, drawing_bytes
from bimo.training.adapters.adapter import adapter_of
from bimo.training.frozen_weights import holdable
from bimo.training.objectives.objective import objective_of
from bimo.training.optimizers import checkpoint_gradients, freeze
from bimo.training.stage_trainer import named

META = torch.device("meta")
#: Of each number that learns: itself, its gradient, and AdamW's two averages, in float32.
LEARNING_BYTES = 16
#: What libraries take, and what allocators round up.
OVERHEAD = 1.1


@dataclass(frozen=True)
class Activations:
    """Bytes that autograd keeps of a picture in float32: ``whole`` as it is, ``checkpointed`` where blocks are worked
    out twice; None where that cannot be counted.
    """

    whole: int
    checkpointed: int


@dataclass(frozen=True)
class FrozenCounts:
    """How many numbers do not learn, but for adapters: of text encoders those of matrices that can be kept otherwise
    (``Stage.frozen``), and all others; of denoisers those of matrices and of kernels that can; whatever else there is,
    and the spaces; and of the ``largest`` that can. ``learning`` is the largest tensor that learns.
    """

    text: int = 0
    text_rest: int = 0
    matrices: int = 0
    kernels: int = 0
    rest: int = 0
    spaces: int = 0
    largest: int = 0
    learning: int = 0


@dataclass(frozen=True)
class Footprint:
    """What a stage holds: bytes of all weights, of what learns with gradients and averages, of the activations of a
    picture, and of the encoding of one; whether its modules can work blocks out twice; and what of it is frozen.
    """

    weights: int
    learning: int
    activations: Activations | None
    encoding: int
    checkpoints: bool = False
    frozen: FrozenCounts = FrozenCounts()

    def total(self, stage: Stage) -> int:
        """Bytes on the device of a stage that has this footprint, at the most: in its steps, while words and pictures
        are encoded, and of one whose weights are kept otherwise in drawing too. Products in bfloat16 or float16 keep
        half as much of each.
        """
        kept, narrow = 0, stage.precision in ("bf16", "bf16_weights", "fp16")
        if self.activations is not None:
            kept = self.activations.checkpointed if stage.gradient_checkpointing else self.activations.whole
        step = stage.batch * kept * (0.5 if narrow else 1.0)
        learning = self.learning
        if stage.fused_backward:  # of the gradients one is there at a time
            learning -= self.learning // 4 - 4 * self.frozen.learning
        if not stage.holds:
            # For the gradient of what goes into a layer its weight is kept as autocast has made it.
            casts = 2 * (self.frozen.matrices + self.frozen.kernels) if stage.precision in ("bf16", "fp16") else 0
            step += 0 if stage.gradient_checkpointing else casts
            return int((self.weights + learning + max(step, self.encoding)) * OVERHEAD)
        text, denoiser, spaces = self._weights(stage)
        apart = stage.offload != "none"
        reading = text + spaces + (0 if apart else denoiser + learning)
        working = denoiser + spaces + learning + (0 if apart else text)
        # A drawing is decoded whole, in twice the memory in which it is encoded.
        return int(max(reading + self.encoding, working + step, working + 2 * self.encoding) * OVERHEAD)

    def _weights(self, stage: Stage) -> tuple[float, float, float]:
        """Bytes on the device of text encoders, of denoisers with what is made whole of them, and of spaces."""
        counts, whole = self.frozen, 4.0
        matrix = BYTES.get(stage.frozen) or QUANTISED_BYTES[stage.frozen]
        kernel = BYTES.get(stage.frozen) or BYTES.get(stage.precision, whole)
        text = counts.text * matrix + counts.text_rest * whole
        held = counts.matrices * matrix + counts.kernels * kernel
        fetched = 2 * counts.largest * whole
        return (
            text,
            (0.0 if stage.offload == "groups" else held) + counts.rest * whole + fetched,
            counts.spaces * whole,
        )


def footprint(system: System, stage: Stage, size: tuple[int, int], caption: str) -> Footprint:
    """That of a stage of a system whose weights are here, on pictures of a size (width, height) with such a caption."""
    return footprint_of(system.recipe, stage, size, _conditioning(system, stage.level, size, caption))


def footprint_of(recipe: Recipe, stage: Stage, size: tuple[int, int], conditioning: Conditioning) -> Footprint:
    """That of a stage of a recipe, whose weights need not be here, for what its level is told of one picture."""
    conditioning = to_device(conditioning, META)
    with unfilled():
        bare = System(recipe)
    bare.to(META)
    adapter = adapter_of(stage)
    # What a word is begun as is looked up among real numbers: its few vectors count for nothing here.
    put = adapter is not None and adapter.kind != "tokens"
    with unfilled():
        added = cast(Any, adapter).put(bare) if put else []
    bare.to(META)
    globs = (*stage.train, *added) or (f"{stage.level}.denoiser.*.bias",)
    learns = freeze(named(bare, None, objective_of(stage)), globs)
    counts = {name: parameter.numel() for name, parameter in bare.named_parameters()}
    frozen = _counted(bare, counts, learns)
    weights = sum(count * 4 for name, count in counts.items() if name not in learns)
    learning = sum(counts[name] for name in learns) * LEARNING_BYTES
    encoding = drawing_bytes(size, Keeping()) // 2
    able = _checkpoints(stage, bare)
    found = _activations(bare, stage.level, size, conditioning)
    if found is not None and not able:
        found = Activations(found.whole, found.whole)
    return Footprint(weights, learning, found, encoding, able, frozen)


def _counted(bare: System, counts: Mapping[str, int], learns: Sequence[str]) -> FrozenCounts:
    """The frozen numbers of a system whose parameters are frozen as a stage has them."""
    layers = holdable(bare)
    holds = {f"{name}.weight": counts[f"{name}.weight"] for name in layers}
    kernels = {f"{name}.weight" for name, layer in layers.items() if isinstance(layer, nn.Conv2d)}
    rest = {name: count for name, count in counts.items() if name not in holds and name not in learns}
    of_spaces = tuple(f"{level.name}.space." for level in bare.recipe.levels)

    def total(numbers: Mapping[str, int], *starts: str) -> int:
        return sum(count for name, count in numbers.items() if name.startswith(starts))

    text, text_rest, spaces = total(holds, "text."), total(rest, "text."), total(rest, *of_spaces)
    of_kernels = sum(holds[name] for name in kernels if not name.startswith("text."))
    return FrozenCounts(
        text=text,
        text_rest=text_rest,
        matrices=sum(holds.values()) - text - of_kernels,
        kernels=of_kernels,
        rest=sum(rest.values()) - text_rest - spaces,
        spaces=spaces,
        largest=max(holds.values(), default=0),
        learning=max((counts[name] for name in learns), default=0),
    )


def _checkpoints(stage: Stage, bare: System) -> bool:
    """Whether what learns is in modules that can work their blocks out twice."""
    try:
        checkpoint_gradients(replace(stage, gradient_checkpointing=True), bare)
    except TrainingError:
        return False
    checkpoint_gradients(replace(stage, gradient_checkpointing=False), bare)
    return True


def _conditioning(system: System, name: str, size: tuple[int, int], caption: str) -> Conditioning:
    """What a level is told of a picture of a size with a caption, without numbers."""
    level = system.level(name)
    width, height = size
    with torch.no_grad():
        encodings = tuple(encoder.encode([caption]) for encoder in system.text_encoders)
        x = torch.zeros(1, *cast(Any, system.space(name)).shape(size))
        ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32)
        none = torch.zeros(1, dtype=torch.bool)
        pixels = torch.zeros(1, 3, height, width) if level.conditioners else None
        batch = Batch(x, encodings, {"size_ids": ids}, none, torch.Generator(), pixels, labels=[{}])
        conditions = level.conditions_of(system, batch)
        return system.condition(encodings, conditions)


def _activations(bare: System, name: str, size: tuple[int, int], conditioning: Conditioning) -> Activations | None:
    """Those of a level's denoiser; None for one that asks its tensors for their numbers, which has none here."""
    denoiser = cast(nn.Module, bare.level(name).denoiser).train()
    x = torch.zeros(1, *cast(Any, bare.space(name)).shape(size), device=META)
    longest = max((stream.tokens.shape[1] for stream in conditioning.streams), default=0)
    counting = _Counting(bare.parameters())
    hooks = torch.autograd.graph.saved_tensors_hooks(counting.keep, _same)
    try:
        with META, _Fused(longest), counting.within(denoiser), hooks:
            bare.denoise(DenoiserInput(name, x, torch.zeros(1, device=META), conditioning)).sum()
    # A module may do whatever it likes with a tensor; what cannot be done without numbers raises various exceptions.
    except Exception:
        return None
    return Activations(counting.whole, counting.outside + counting.inputs + max(counting.blocks, default=0))


class _Counting:
    """Bytes of all that autograd keeps but parameters, each once; those of each block, and of what goes into it."""

    def __init__(self, parameters: Any) -> None:
        self._seen = {parameter.untyped_storage()._cdata for parameter in parameters}
        #: Held, so that no other storage takes the place of one that was counted.
        self._held: list[Tensor] = []
        self.whole = self.outside = self.inputs = 0
        self.blocks: list[int] = []
        self._depth = 0

    def keep(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self._held.append(value)
            self.whole += storage.nbytes()
            if self._depth:
                self.blocks[-1] += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return value

    @contextmanager
    def within(self, denoiser: nn.Module) -> Generator[None]:
        """Counts block by block meanwhile: a block is what stands in a list of modules, the outermost."""

        def enter(_: nn.Module, given: Sequence[Any]) -> None:
            if not self._depth:
                self.blocks.append(0)
                self.inputs += next((v.untyped_storage().nbytes() for v in given if isinstance(v, Tensor)), 0)
            self._depth += 1

        def leave(_: nn.Module, given: Any, answer: Any) -> None:
            self._depth -= 1

        lists = [module for module in denoiser.modules() if isinstance(module, nn.ModuleList)]
        blocks = {id(block): block for each in lists for block in each if list(block.children())}
        handles = [block.register_forward_pre_hook(enter) for block in blocks.values()]
        handles += [block.register_forward_hook(leave) for block in blocks.values()]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Fused(TorchFunctionMode):
    """Attention keeps what the fused kernels of processors and cards keep, never the weights of all pairs of tokens:
    without contents torch would take the slow way. A module that asks how long its texts are is told: all ``length``.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | named
            return _Attention.apply(given["query"], given["key"], given["value"])
        if func is Tensor.tolist and args[0].is_meta and args[0].ndim == 1 and not args[0].is_floating_point():
            return [self.length] * len(args[0])
        return func(*args, **named)


class _Attention(torch.autograd.Function):
    """softmax(Q K^T) V of shapes alone, [..., L, D]; kept are Q, K, V, the answer, and a number for each row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        answer = query.new_empty((*query.shape[:-1], value.shape[-1]))
        ctx.save_for_backward(query, key, value, answer, query.new_empty(query.shape[:-1]))
        return answer

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise AssertionError("only what is kept is counted")


def _same(value: Tensor) -> Tensor:
    return value
