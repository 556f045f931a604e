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
from bimo.core.recipe import Stage
from bimo.core.tensors import Batch, Conditioning, DenoiserInput
from bimo.diffusion.system import System
from bimo.engine.devices import to_device
from bimo.engine.memory import Keeping, drawing_bytes
from bimo.training.adapters.adapter import adapter_of
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
class Footprint:
    """What a stage holds: bytes of all weights, of what learns with gradients and averages, of the activations of a
    picture, and of the encoding of one; and whether its modules can work blocks out twice.
    """

    weights: int
    learning: int
    activations: Activations | None
    encoding: int
    checkpoints: bool = False

    def total(self, batch: int, precision: str, checkpointing: bool) -> int:
        """Bytes of a step of ``batch`` pictures. Products in bfloat16 or float16 keep half as much of each."""
        kept = 0
        if self.activations is not None:
            kept = self.activations.checkpointed if checkpointing else self.activations.whole
        step = batch * kept * (0.5 if precision in ("bf16", "bf16_weights", "fp16") else 1.0)
        return int((self.weights + self.learning + max(step, self.encoding)) * OVERHEAD)


def footprint(system: System, stage: Stage, size: tuple[int, int], caption: str) -> Footprint:
    """That of a stage of a system whose weights are here, on pictures of a size (width, height) with such a caption."""
    conditioning = _conditioning(system, stage.level, size, caption)
    with unfilled():
        bare = System(system.recipe)
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
    weights = sum(count * 4 for name, count in counts.items() if name not in learns)
    learning = sum(counts[name] for name in learns) * LEARNING_BYTES
    encoding = drawing_bytes(size, Keeping()) // 2
    able = _checkpoints(stage, bare)
    found = _activations(bare, stage.level, size, conditioning)
    if found is not None and not able:
        found = Activations(found.whole, found.whole)
    return Footprint(weights, learning, found, encoding, able)


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
        return to_device(system.condition(encodings, conditions), META)


def _activations(bare: System, name: str, size: tuple[int, int], conditioning: Conditioning) -> Activations | None:
    """Those of a level's denoiser; None for one that asks its tensors for their numbers, which has none here."""
    denoiser = cast(nn.Module, bare.level(name).denoiser).train()
    x = torch.zeros(1, *cast(Any, bare.space(name)).shape(size), device=META)
    counting = _Counting(bare.parameters())
    try:
        with META, _Fused(), counting.within(denoiser), torch.autograd.graph.saved_tensors_hooks(counting.keep, _same):
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
    without contents torch would take the slow way.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            given = dict(zip(("query", "key", "value"), args, strict=False)) | named
            return _Attention.apply(given["query"], given["key"], given["value"])
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
