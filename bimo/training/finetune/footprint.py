"""Estimates the memory of a training step without allocating it: modules run on the meta device, and the tensors that
autograd saves for the backward pass are counted.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is kept.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# Storages are told apart by torch's private handle, since meta tensors have no address.
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
from bimo.data.loader import Size
from bimo.diffusion.system import System
from bimo.engine.devices import to_device
from bimo.engine.memory import BYTES, QUANTISED_BYTES, Keeping, drawing_bytes
from bimo.training.adapters.adapter import adapter_of
from bimo.training.frozen_weights import holdable
from bimo.training.objectives.objective import objective_of
from bimo.training.optimizers import checkpoint_gradients, freeze
from bimo.training.stage_trainer import named
from bimo.training.train_loader import encoded_at_once

META = torch.device("meta")
#: Bytes of a trained parameter with its gradient and AdamW's two moments, in float32.
LEARNING_BYTES = 16
#: A factor for libraries and the rounding of allocators.
OVERHEAD = 1.1


@dataclass(frozen=True)
class Activations:
    """Bytes of the activations that autograd saves for one picture in float32: ``whole`` without, ``checkpointed`` with
    gradient checkpointing.
    """

    whole: int
    checkpointed: int


@dataclass(frozen=True)
class FrozenCounts:
    """Numbers of frozen parameters, without adapters: of text encoders those of matrices that ``Stage.frozen`` can
    store otherwise, and all others; of denoisers those of such matrices and of such kernels; all others, and those of
    spaces; and of the ``largest`` such layer. ``learning`` is the size of the largest trained tensor.
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
    """The memory of a stage: bytes of all weights, of trained parameters with gradients and optimiser state, of the
    activations for a picture of ``size``, and of encoding one; whether gradient checkpointing is supported; the frozen
    parameters.
    """

    weights: int
    learning: int
    activations: Activations | None
    encoding: int
    size: Size
    checkpoints: bool = False
    frozen: FrozenCounts = FrozenCounts()

    def total(self, stage: Stage) -> int:
        """The peak of bytes on the device with the settings of ``stage``: of its steps, of encoding captions and
        pictures, and, if frozen weights are quantised or offloaded, of drawing samples. In bfloat16 or float16
        activations take half as much.
        """
        kept, narrow = 0, stage.precision in ("bf16", "bf16_weights", "fp16")
        if self.activations is not None:
            kept = self.activations.checkpointed if stage.gradient_checkpointing else self.activations.whole
        step = stage.batch * kept * (0.5 if narrow else 1.0)
        encoding = self._encoding(stage)
        learning = self.learning
        if stage.fused_backward:  # one gradient exists at a time
            learning -= self.learning // 4 - 4 * self.frozen.learning
        if not stage.holds:
            # For the gradient of a layer's input autograd saves the weight as cast by autocast.
            casts = 2 * (self.frozen.matrices + self.frozen.kernels) if stage.precision in ("bf16", "fp16") else 0
            step += 0 if stage.gradient_checkpointing else casts
            return int((self.weights + learning + max(step, encoding)) * OVERHEAD)
        text, denoiser, spaces = self._weights(stage)
        apart = stage.offload != "none"
        reading = text + spaces + (0 if apart else denoiser + learning)
        working = denoiser + spaces + learning + (0 if apart else text)
        # Decoding a sample takes twice the memory of encoding.
        return int(max(reading + encoding, working + step, working + 2 * self.encoding) * OVERHEAD)

    def _encoding(self, stage: Stage) -> float:
        """Bytes of encoding a batch of pictures: of smaller buckets more are encoded at once."""
        pixels = [encoded_at_once(size, stage.batch) * size[0] * size[1] for size in (self.size, *stage.buckets)]
        return self.encoding * max(pixels) / (self.size[0] * self.size[1])

    def _weights(self, stage: Stage) -> tuple[float, float, float]:
        """Bytes on the device of text encoders, of denoisers with the weights that are dequantised, and of spaces."""
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
    """The footprint of a stage of a loaded system, on pictures of a size (width, height) with such a caption."""
    return footprint_of(system.recipe, stage, size, _conditioning(system, stage.level, size, caption))


def footprint_of(recipe: Recipe, stage: Stage, size: tuple[int, int], conditioning: Conditioning) -> Footprint:
    """The footprint of a stage of a recipe, without its weights, for the ``conditioning`` of one picture."""
    conditioning = to_device(conditioning, META)
    with unfilled():
        bare = System(recipe)
    bare.to(META)
    adapter = adapter_of(stage)
    # A new word's initial vectors are looked up in real weights; the few vectors of a word do not count here.
    put = adapter is not None and adapter.kind != "tokens"
    with unfilled():
        added = cast(Any, adapter).put(bare) if put else []
    bare.to(META)
    globs = (*stage.train, *added) or (f"{stage.level}.denoiser.*.bias",)
    learns = freeze(named(bare, None, objective_of(stage)), globs)
    counts = {name: parameter.numel() for name, parameter in bare.named_parameters()}
    frozen = _frozen_counts(bare, counts, learns)
    weights = sum(count * 4 for name, count in counts.items() if name not in learns)
    learning = sum(counts[name] for name in learns) * LEARNING_BYTES
    encoding = drawing_bytes(size, Keeping()) // 2
    able = _checkpoints(stage, bare)
    activations = _activations(bare, stage.level, size, conditioning)
    if activations is not None and not able:
        activations = Activations(activations.whole, activations.whole)
    return Footprint(weights, learning, activations, encoding, size, able, frozen)


def _frozen_counts(bare: System, counts: Mapping[str, int], learns: Sequence[str]) -> FrozenCounts:
    """The counts for a system whose parameters were frozen for a stage."""
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
    """Whether the modules with trained parameters support gradient checkpointing."""
    try:
        checkpoint_gradients(replace(stage, gradient_checkpointing=True), bare)
    except TrainingError:
        return False
    checkpoint_gradients(replace(stage, gradient_checkpointing=False), bare)
    return True


def _conditioning(system: System, name: str, size: tuple[int, int], caption: str) -> Conditioning:
    """The conditioning of a level for a picture of a size with a caption, on the meta device."""
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
    """The activations of a level's denoiser; None for one that reads values of tensors, which meta tensors lack."""
    denoiser = cast(nn.Module, bare.level(name).denoiser).train()
    x = torch.zeros(1, *cast(Any, bare.space(name)).shape(size), device=META)
    longest = max((stream.tokens.shape[1] for stream in conditioning.streams), default=0)
    counting = _Counting(bare.parameters())
    hooks = torch.autograd.graph.saved_tensors_hooks(counting.keep, _same)
    try:
        with META, _Fused(longest), counting.within(denoiser), hooks:
            bare.denoise(DenoiserInput(name, x, torch.zeros(1, device=META), conditioning)).sum()
    # Operations that need the values of a meta tensor raise various exceptions.
    except Exception:
        return None
    return Activations(counting.whole, counting.outside + counting.inputs + max(counting.blocks, default=0))


class _Counting:
    """Bytes of the tensors that autograd saves, without parameters, each once; by block, and of the blocks' inputs."""

    def __init__(self, parameters: Any) -> None:
        self._counted_storages = {parameter.untyped_storage()._cdata for parameter in parameters}
        #: Kept alive, so that no other storage gets the handle of one that was counted.
        self._held: list[Tensor] = []
        self.whole = self.outside = self.inputs = 0
        self.blocks: list[int] = []
        self._depth = 0

    def keep(self, value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in self._counted_storages:
            self._counted_storages.add(storage._cdata)
            self._held.append(value)
            self.whole += storage.nbytes()
            if self._depth:
                self.blocks[-1] += storage.nbytes()
            else:
                self.outside += storage.nbytes()
        return value

    @contextmanager
    def within(self, denoiser: nn.Module) -> Generator[None]:
        """A context that counts by block: a block is an item of a ModuleList, the outermost one."""

        def enter(_: nn.Module, arguments: Sequence[Any]) -> None:
            if not self._depth:
                self.blocks.append(0)
                self.inputs += next((v.untyped_storage().nbytes() for v in arguments if isinstance(v, Tensor)), 0)
            self._depth += 1

        def leave(_: nn.Module, arguments: Any, answer: Any) -> None:
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
    """Has attention on meta tensors save what the fused kernels save, and not the [L, L] weights of torch's fallback.
    Modules that read the lengths of texts get ``length`` for each.
    """

    def __init__(self, length: int) -> None:
        super().__init__()
        self.length = length

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is functional.scaled_dot_product_attention:
            arguments = dict(zip(("query", "key", "value"), args, strict=False)) | named
            return _Attention.apply(arguments["query"], arguments["key"], arguments["value"])
        if func is Tensor.tolist and args[0].is_meta and args[0].ndim == 1 and not args[0].is_floating_point():
            return [self.length] * len(args[0])
        return func(*args, **named)


class _Attention(torch.autograd.Function):
    """The shapes of softmax(Q K^T) V, [..., L, D]; saved are Q, K, V, the output, and the log-sum-exp of each row."""

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
