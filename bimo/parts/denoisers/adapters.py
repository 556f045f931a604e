"""What may be added to a built system: LoRA files, and networks that look at a picture beside a denoiser."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.core import weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import Part
from bimo.diffusion.system import System
from bimo.parts.denoisers.control import Controlled, ControlNet, HunyuanControlNet, T2iAdapter, begun
from bimo.parts.denoisers.hunyuan import Hunyuan
from bimo.parts.denoisers.lora_files import adapt, adapters, unadapt
from bimo.parts.denoisers.unet import Unet
from bimo.parts.hints.control import Control
from bimo.parts.published.configs import Config, defaults_of, plain, read_json
from bimo.parts.published.folder import files_of

__all__ = ["adapt", "adapters", "begin_control", "control", "unadapt"]

#: Fields of a ControlNet's config that its network does not use.
UNUSED = {"global_pool_conditions", "addition_embed_type_num_heads", "activation_fn", "num_attention_heads"}


def control(system: System, folder: Path | str, name: str = "control", level: str = "") -> System:
    """The system with the ControlNet or T2I-Adapter in a folder of diffusers beside its denoiser. A request gives it a
    picture as ``pictures[name]`` and, where it is not to be 1, a weight as ``hints[name]``.

    Tensors are shared with the system given, not copied; a LoRA merged into that stays merged. Raises WeightsError
    for an adapter of another family, RecipeError for one that is not known.
    """
    path = Path(folder)
    config = Config(path / "config.json", read_json(path / "config.json"))
    within = _innermost(system, level)
    part, coded = _adapter(config, within)
    files = files_of(path)
    state: dict[str, Tensor] = {}
    for file in files:
        state |= weights.read(file)
    digests = [weights.digest(file) for file in files]
    return _beside(system, part, coded, name, level, state, files[0], digests)


def begin_control(system: System, name: str = "control", level: str = "") -> System:
    """The system with a new ControlNet beside its denoiser, a copy of its first half that does not speak yet: what
    one is trained from.
    """
    within = _innermost(system, level)
    if not isinstance(within, (Unet, Hunyuan)):
        kind = type(within).__name__
        raise RecipeError(f"{kind} 没有 ControlNet", f"there is no ControlNet for a {kind}")
    part = ControlNet(unet=within) if isinstance(within, Unet) else HunyuanControlNet(hunyuan=within)
    module = part.build()
    at = level or system.recipe.levels[-1].name
    denoiser: Any = system.level(at).denoiser
    while hasattr(denoiser, "denoiser"):
        denoiser = denoiser.denoiser
    begun(denoiser.model, module.model)
    source = Path(name)
    return _beside(system, part, isinstance(within, Hunyuan), name, level, module.model.state_dict(), source, [])


def _innermost(system: System, level: str) -> Part:
    part: Any = system.recipe.level(level or system.recipe.levels[-1].name).denoiser
    while isinstance(part, Controlled):
        part = part.denoiser
    return part


def _beside(
    system: System,
    part: Part,
    coded: bool,
    name: str,
    level: str,
    state: Mapping[str, Tensor],
    source: Path,
    digests: list[str],
) -> System:
    recipe = system.recipe
    old = recipe.level(level or recipe.levels[-1].name)
    if name in {str(getattr(hint, "name", "")) for hint in old.hints}:
        raise RecipeError(
            f"已有一个叫 {name!r} 的提示；请给适配器另取一个名字",
            f"there is a hint {name!r} already; name it otherwise",
        )
    home = old.space if isinstance(old.space, str) else old.name
    hints = (*old.hints, Control(name=name, level=home, coded=coded))
    new = replace(old, denoiser=Controlled(denoiser=old.denoiser, adapter=part, name=name), hints=hints)
    levels = tuple(new if each is old else each for each in recipe.levels)
    with weights.unfilled():
        made = System(replace(recipe, levels=levels))
    at = f"{old.name}.denoiser."
    whole = {
        f"{at}denoiser.{key.removeprefix(at)}" if key.startswith(at) else key: value
        for key, value in system.state_dict().items()
    }
    own = made.get_submodule(f"{at}adapter.model")
    dtype = next(iter(system.parameters())).dtype
    weights.assign(own, state, dtype, source)
    whole |= {f"{at}adapter.model.{key}": value for key, value in own.state_dict().items()}
    weights.assign(made, whole, None, source)
    made.text = system.text  # their words with them
    lines = [system.weights_hash, *digests]
    made.weights_hash = hashlib.sha256("\n".join(lines).encode()).hexdigest() if digests else system.weights_hash
    return made.train(system.training)


def _adapter(config: Config, within: Part) -> tuple[Part, bool]:
    """The part that a config describes for a denoiser, and whether it wants its picture coded as x."""
    import diffusers

    kind = str(config.fields.get("_class_name"))
    expected: dict[str, Any]
    if kind == "ControlNetModel" and isinstance(within, Unet):
        expected = {**within.settings(), "in_channels": within.channels}
        own = {"picture": "conditioning_channels", "embedding": "conditioning_embedding_out_channels"}
        own["order"] = "controlnet_conditioning_channel_order"
        read = _read(config, diffusers.ControlNetModel, expected, own)
        return ControlNet(unet=within, **read), False
    if kind == "HunyuanDiT2DControlNetModel" and isinstance(within, Hunyuan):
        expected = {**within.settings(), "transformer_num_layers": within.layers}
        _read(config, diffusers.HunyuanDiT2DControlNetModel, expected, {"": "conditioning_channels"})
        return HunyuanControlNet(hunyuan=within), True
    if kind == "T2IAdapter" and isinstance(within, Unet):
        own = {"picture": "in_channels", "blocks": "num_res_blocks", "factor": "downscale_factor"}
        read = _read(config, diffusers.T2IAdapter, {"channels": within.block_channels}, own | {"kind": "adapter_type"})
        return T2iAdapter(widths=within.block_channels, **read), False
    known = "ControlNetModel / HunyuanDiT2DControlNetModel / T2IAdapter"
    name = type(within).__name__
    raise RecipeError(
        f"{config.path} 是 {kind}，不能加在 {name} 旁边；支持的是 {known}，各加在自己的去噪网络旁边",
        f"{config.path} is a {kind}, which cannot stand beside a {name}; supported are {known}, each beside its own",
    )


def _read(config: Config, cls: type, expected: Mapping[str, Any], own: Mapping[str, str]) -> dict[str, Any]:
    """The own fields of an adapter; those it shares with its denoiser must be that denoiser's."""
    defaults = defaults_of(cls)
    found = {name: plain(config.fields.get(name, defaults.get(name))) for name in expected}
    wrong = [f"{name} {found[name]}≠{plain(value)}" for name, value in expected.items() if found[name] != plain(value)]
    # A picture-sized field that only sizes what is drawn, and heads that say the same once more, are no difference.
    wrong = [each for each in wrong if not each.startswith("sample_size ")]
    if wrong:
        listed = "; ".join(wrong)
        raise WeightsError(
            f"{config.path} 是别的模型的适配器：{listed}", f"{config.path} is an adapter of another family: {listed}"
        )
    carried = {*expected, *own.values(), "sample_size"}
    read = config.of(defaults, carried, UNUSED)
    return {name: read[field] for name, field in own.items() if name}
