"""LoRA (arXiv:2106.09685) for training: injected beside the layers of a module, ejected, saved as other tools read it.

A layer's weight W [out, in] becomes W + alpha / r * up @ down, with up [out, r] and down [r, in]; for DoRA
(arXiv:2402.09353) the norms of its rows are trained separately.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from bimo.core import checkpoint_io
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.held_weights import weight_of
from bimo.core.part import nearest
from bimo.diffusion.system import System
from bimo.models.adapters.lora_files import read_lora
from bimo.models.adapters.lora_kinds import Change, change, decomposed, kind_of, low_rank, rank_of
from bimo.models.adapters.lora_names import Spelling, published
from bimo.models.adapters.lora_refusals import few
from bimo.models.adapters.lycoris import Algo, Lycoris


class LoraLayer(nn.Module):
    """up(down(x)) * alpha / rank, beside a linear or convolutional layer, zero at first. With ``dora`` the rows of the
    sum of weight and update are rescaled to ``magnitude`` [out], which is initialised with the norms of the weight's
    rows.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, rank: int, alpha: float, dora: bool = False) -> None:
        super().__init__()
        self.alpha = alpha
        self.rank = rank
        if isinstance(layer, nn.Linear):
            self.down: nn.Module = nn.Linear(layer.in_features, rank, bias=False)
            self.up: nn.Module = nn.Linear(rank, layer.out_features, bias=False)
        else:
            shape: Any = {"kernel_size": layer.kernel_size, "stride": layer.stride, "padding": layer.padding}
            self.down = nn.Conv2d(layer.in_channels, rank, bias=False, **shape)
            self.up = nn.Conv2d(rank, layer.out_channels, 1, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)
        self.magnitude = nn.Parameter(weight_of(layer).detach().float().flatten(1).norm(dim=1)) if dora else None
        self.to(layer.weight.device)

    def forward(self, x: Tensor, layer: nn.Linear | nn.Conv2d, output: Tensor) -> Tensor:
        """The layer's output for x with the update added."""
        added = self.up(self.down(x)) * (self.alpha / self.rank)
        if self.magnitude is None:
            return output + added
        with torch.no_grad():  # section 4.3: the norm of the sum is treated as a constant
            weight = weight_of(layer)
            lengths = self.summed(weight).flatten(1).norm(dim=1).clamp(min=torch.finfo(weight.dtype).tiny)
        wide = (-1,) if isinstance(layer, nn.Linear) else (-1, 1, 1)
        share = (self.magnitude / lengths).view(wide).to(output)
        bias = torch.zeros(()).to(output) if layer.bias is None else layer.bias.view(wide).to(output)
        # With the initial magnitudes this is the layer's output, bit by bit.
        return output + (share - 1) * (output - bias) + share * added

    def summed(self, weight: Tensor) -> Tensor:
        """The layer's weight plus the update."""
        up, down = cast(Tensor, self.up.weight).flatten(1), cast(Tensor, self.down.weight).flatten(1)
        return weight + (self.alpha / self.rank) * (up @ down).reshape(weight.shape)

    def change(self) -> Change:
        """The change of the layer's weight."""
        up, down = cast(Tensor, self.up.weight), cast(Tensor, self.down.weight)
        return _change(up, down, self.alpha / self.rank, self.magnitude)


def _change(up: Tensor, down: Tensor, scale: float, magnitude: Tensor | None) -> Change:
    low = low_rank(up, down, scale)
    return low if magnitude is None else decomposed(low, magnitude, columns=False)


def _with_low(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    low = layer._modules.get("lora")  # pyright: ignore[reportPrivateUsage]
    return output if low is None else cast(LoraLayer, low)(inputs[0], cast(nn.Linear, layer), output)


def inject(
    module: nn.Module,
    globs: Sequence[str],
    rank: int,
    alpha: float,
    dora: bool = False,
    algo: Algo | Literal["lora"] = "lora",
    ranks: Sequence[tuple[str, int, float]] = (),
) -> list[str]:
    """Adds a trainable LoRA, or one of LyCORIS' kinds, to each linear or convolutional layer whose name matches a glob,
    and returns the names of its parameters: "...to_q.lora.down.weight", "...to_q.lora.up.weight", for a DoRA
    "...to_q.lora.magnitude" too. No other name in the module changes. ``ranks`` are (glob, rank, alpha) of particular
    layers; the last match applies.

    Raises RecipeError for a glob that matches no such layer.
    """
    layers = {n: m for n, m in module.named_modules() if isinstance(m, (nn.Linear, nn.Conv2d)) and ".lora." not in n}
    chosen: dict[str, nn.Linear | nn.Conv2d] = {}
    for glob in globs:
        matched = fnmatch.filter(layers, glob)
        if not matched:
            near = ", ".join(nearest(glob, layers) or tuple(layers)[:3])
            raise RecipeError(
                "{glob!r} of a LoRA matches no linear or convolutional layer; the nearest are {near}",
                glob=glob,
                near=near,
            )
        chosen |= {name: layers[name] for name in matched}
    of_layer = dict.fromkeys(chosen, (rank, alpha))
    for glob, own_rank, own_alpha in ranks:
        matched = fnmatch.filter(chosen, glob)
        if not matched:
            near = ", ".join(nearest(glob, chosen) or tuple(chosen)[:3])
            raise RecipeError(
                "{glob!r} of ranks matches no layer of the LoRA; the nearest are {near}", glob=glob, near=near
            )
        of_layer |= dict.fromkeys(matched, (own_rank, own_alpha))
    for name, layer in chosen.items():
        if "lora" not in dict(layer.named_children()):
            own = of_layer[name]
            layer.add_module("lora", LoraLayer(layer, *own, dora) if algo == "lora" else Lycoris(layer, algo, *own))
            # The hook remains after an eject, and has no effect then.
            if _with_low not in layer._forward_hooks.values():  # pyright: ignore[reportPrivateUsage]
                layer.register_forward_hook(cast(Any, _with_low))
    injected_layers = {name: cast(nn.Module, layer.lora) for name, layer in chosen.items()}
    return [f"{name}.lora.{own}" for name, low in injected_layers.items() for own, _ in low.named_parameters()]


def injected(module: nn.Module) -> dict[str, LoraLayer | Lycoris]:
    """The trainable LoRAs in a module by the names of their layers."""
    return {name.removesuffix(".lora"): m for name, m in module.named_modules() if isinstance(m, (LoraLayer, Lycoris))}


def extract(module: nn.Module) -> dict[str, Tensor]:
    """The trained tensors of the LoRAs in a module: "<layer>.lora_down.weight", "<layer>.lora_up.weight",
    "<layer>.alpha", and "<layer>.lora_magnitude_vector" of a DoRA; for LyCORIS' kinds "<layer>.hada_w1_a" and so on.
    """
    state: dict[str, Tensor] = {}
    for name, low in injected(module).items():
        if isinstance(low, Lycoris):
            state |= {f"{name}.{role}": value.detach().clone() for role, value in low.roles().items()}
            state[f"{name}.alpha"] = torch.tensor(float(low.alpha))
            continue
        state[f"{name}.lora_down.weight"] = cast(Tensor, low.down.weight).detach().clone()
        state[f"{name}.lora_up.weight"] = cast(Tensor, low.up.weight).detach().clone()
        state[f"{name}.alpha"] = torch.tensor(float(low.alpha))
        if low.magnitude is not None:
            state[f"{name}.lora_magnitude_vector"] = low.magnitude.detach().clone()
    return state


def eject(module: nn.Module, merge: bool) -> None:
    """Removes the trainable LoRAs from a module; with ``merge`` they are added to its weights first."""
    for name, low in injected(module).items():
        layer = module.get_submodule(name)
        if merge:
            weight = cast(nn.Parameter, layer.weight)
            with torch.no_grad():
                weight.data = weight.data.float()  # not in the narrower numbers of a file
                weight.add_(low.change()(weight).to(weight))
        del layer.lora


def save_lora(path: Path, system: System, state: Mapping[str, Tensor], spelling: Spelling = "diffusers") -> None:
    """Writes the tensors of ``extract`` with the names of other tools, then reads the file back and compares.

    "diffusers" is `unet.….lora_A.weight` (a transformer's `transformer.…`); "kohya" is `lora_unet_…lora_down.weight`
    with alpha, with the authors' names of the UNet if the system has two text encoders, as kohya-ss writes for Stable
    Diffusion XL; "comfyui" is `diffusion_model.…lora_A.weight` with alpha, as ComfyUI and its trainers name the layers
    of transformers. LyCORIS' kinds can have the last two. Raises WeightsError for a layer without a name in that
    spelling.
    """
    names = published(system, spelling)
    written: dict[str, Tensor] = {}
    wanted: dict[str, Tensor] = {}
    layers: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        layer, _, role = key.removesuffix(".weight").rpartition(".")
        layers.setdefault(layer, {})[role] = value
    # If a file has several alphas, diffusers applies one of them to all layers.
    alpha = max((float(roles["alpha"]) for roles in layers.values() if "lora_up" in roles), default=1.0)
    for layer, roles in layers.items():
        if layer not in names:
            raise WeightsError("{spelling} has no spelling for {layer}", spelling=spelling, layer=layer)
        weight = system.get_parameter(f"{layer}.weight")
        wanted[f"{layer}.weight"] = _change_of(roles)(weight.float())
        written |= {
            f"{names[layer]}.{name}": value for name, value in _spelt(roles, weight.ndim, spelling, alpha).items()
        }
    checkpoint_io.write(path, written)
    own = dict(system.named_parameters())
    changes = {at: delta.value(at, own) for delta in read_lora(system, path).deltas for at in delta.paths}
    alike = {n: torch.allclose(changes[n].cpu(), value.cpu(), atol=1e-6) for n, value in wanted.items() if n in changes}
    wrong = [n for n in wanted if not alike.get(n)]
    if wrong or len(changes) != len(wanted):
        raise WeightsError("{path} reads back otherwise: {few}", path=path, few=few(wrong))


def _change_of(roles: Mapping[str, Tensor]) -> Change:
    """The change of a layer's weight by its tensors."""
    alpha = float(roles["alpha"])
    if "lora_up" in roles:
        down = roles["lora_down"]
        return _change(roles["lora_up"], down, alpha / down.shape[0], roles.get("lora_magnitude_vector"))
    own = {role: value for role, value in roles.items() if role != "alpha"}
    kind = kind_of(own)
    if kind == "OFT":
        return change(kind, roles, 1.0, {})
    rank = rank_of(kind, own)
    return change(kind, own, alpha / rank if rank else 1.0, {})


def _spelt(roles: Mapping[str, Tensor], ndim: int, spelling: Spelling, common: float) -> dict[str, Tensor]:
    """The tensors of a layer under the names of a spelling, for a weight with ``ndim`` dimensions. ``common`` is the
    alpha of the whole file, which replaces the layer's own.
    """
    if "lora_up" not in roles:
        return {role: value.clone() for role, value in roles.items()}
    up, down, magnitude = roles["lora_up"], roles["lora_down"], roles.get("lora_magnitude_vector")
    if spelling == "diffusers":
        # These files have no alpha: it is multiplied into the tensors.
        spelt = {"lora_B.weight": up * (float(roles["alpha"]) / down.shape[0]), "lora_A.weight": down}
    else:
        names = ("lora_up", "lora_down") if spelling == "kohya" else ("lora_B", "lora_A")
        share = float(roles["alpha"]) / common
        spelt = {f"{names[0]}.weight": up * share if share != 1 else up, f"{names[1]}.weight": down}
        spelt["alpha"] = torch.tensor(common)
    if magnitude is None:
        return spelt
    if spelling == "diffusers":
        # peft stores a convolution's magnitudes along its output channels.
        return spelt | {"lora_magnitude_vector": magnitude.view((-1,) if ndim == 2 else (1, -1, 1, 1)).clone()}
    return spelt | {"dora_scale": magnitude.view(-1, *[1] * (ndim - 1)).clone()}
