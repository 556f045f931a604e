"""Reads a folder in diffusers' layout: what system it is, by what stands in its configs, and its weights as data."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from bimo.core import weights
from bimo.core.errors import RecipeError, WeightsError, say
from bimo.core.part import Part, meant
from bimo.core.recipe import Defaults, Level, Recipe
from bimo.diffusion.schedule import Ddpm
from bimo.diffusion.system import System, Tower
from bimo.parts.denoisers.unet import Unet
from bimo.parts.spaces import Latent
from bimo.parts.text.bert import Bert
from bimo.parts.text.clip import ClipText

PIPELINES = ("StableDiffusionPipeline",)
LEVEL = "image"
#: The steps of diffusers' StableDiffusionPipeline where none are asked for.
STEPS = 50
#: What diffusers' pipeline loads beside the system, and this package does not.
BESIDE = ("safety_checker", "feature_extractor", "image_encoder")
TOWERS = {"BertModel": ("BertTokenizer", "BertTokenizerFast"), "CLIPTextModel": ("CLIPTokenizer", "CLIPTokenizerFast")}
FILES = {
    "text_encoder": ("model.safetensors", "pytorch_model.bin"),
    "unet": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
    "vae": ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin"),
}
TAIYI_ZH = Bert()
TAIYI_EN = ClipText()

#: Fields of transformers' configs that do not change what the tower answers: who wrote it, heads it does not have.
NO_EFFECT_TEXT = {
    *("architectures", "model_type", "dtype", "torch_dtype", "transformers_version", "use_cache", "output_past"),
    *("gradient_checkpointing", "initializer_range", "initializer_factor", "tie_word_embeddings", "projection_dim"),
    *("classifier_dropout", "directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers"),
    *("pooler_size_per_head", "pooler_type", "bos_token_id", "eos_token_id", "pad_token_id", "id2label", "label2id"),
}
#: Fields that a config may have and its class of today lacks, with the one value that is meant without them.
FORMER_TEXT: dict[str, Any] = {"position_embedding_type": "absolute", "use_attention_mask": False, "dropout": 0.0}
NO_EFFECT_VAE = {"sample_size", "force_upcast"}
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


@dataclass(frozen=True)
class Config:
    """A config.json: its fields, where it lies, and the fields that were read by ``of``."""

    path: Path
    fields: Mapping[str, Any]

    def of(self, defaults: Mapping[str, Any], carried: Iterable[str], no_effect: Iterable[str]) -> dict[str, Any]:
        """The carried fields, the class's default where one is absent.

        Raises RecipeError that names a field which differs from the default of its class and is not carried.
        """
        carried, no_effect = set(carried), set(no_effect)
        for name, value in self.fields.items():
            if name.startswith("_") or name in carried or name in no_effect:
                continue
            if name not in defaults or _plain(defaults[name]) != _plain(value):
                expected = repr(defaults[name]) if name in defaults else say("没有这个字段", "no such field")
                raise RecipeError(
                    f"{self.path} 的 {name} 是 {value!r}，bimo 只支持 {expected}；忽略它会画错，所以不读",
                    f"{name} of {self.path} is {value!r}; supported is {expected}, and ignoring it would draw wrong",
                )
        return {name: _plain(self.fields.get(name, defaults.get(name))) for name in carried}


def recipe_of(folder: Path) -> Recipe:
    """The recipe of a folder, from model_index.json and the configs alone; ``note`` says why it is taken for that.

    Raises WeightsError for missing or damaged files, RecipeError for what this package cannot draw. Code in the
    folder is never run.
    """
    index = _index(folder)
    tower, config = _tower(folder, index)
    unet = _unet(_config(folder / "unet" / "config.json"))
    space = _latent(_config(folder / "vae" / "config.json"))
    schedule = _law(folder, index)
    side = unet.size * 2 ** (len(space.block_channels) - 1)
    beside = [name for name in BESIDE if index.get(name, (None, None))[0] is not None]
    name, languages, why = _identity(tower, config, folder)
    note = why + (say(f"；没有载入 {'、'.join(beside)}", f"; not loaded: {', '.join(beside)}") if beside else "")
    level = Level(name=LEVEL, space=space, denoiser=unet, schedule=schedule, steps=STEPS)
    return Recipe(
        name=name, languages=languages, text=(tower,), levels=(level,), request=Defaults(size=(side, side)), note=note
    )


def read_folder(folder: Path, dtype: torch.dtype = torch.float32) -> System:
    """The system in a folder, ready to draw; ``weights_hash`` is the SHA-256 over the names and hashes of its files.

    Raises WeightsError for weights that are missing, truncated, misshapen or would run code, RecipeError as
    ``recipe_of``.
    """
    recipe = recipe_of(folder)
    files = {name: _file(folder / name, names) for name, names in FILES.items()}
    with weights.unfilled():
        system = System(recipe)
    level = cast(Any, system.level(LEVEL))
    _fill(cast(Any, system.text[0]).model, files["text_encoder"], _text_name, dtype)
    _fill(level.denoiser.model, files["unet"], lambda name: name, dtype)
    _fill(level.space.model, files["vae"], _vae_name, dtype)
    _words(system.towers[0], recipe.text[0], folder / "tokenizer")
    lines = [f"{path.relative_to(folder).as_posix()} {weights.digest(path)}\n" for path in files.values()]
    system.weights_hash = hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()
    return system.eval()


def _fill(module: nn.Module, path: Path, rename: Callable[[str], str | None], dtype: torch.dtype) -> None:
    state: dict[str, Tensor] = weights.renamed(weights.read(path), rename)
    weights.assign(module, state, dtype, path)


def _text_name(name: str) -> str | None:
    """Today's name of a tower's tensor. Its positions were once kept among the weights."""
    name = name.removeprefix("text_model.")
    return None if name == "embeddings.position_ids" else name


def _vae_name(name: str) -> str:
    """Today's name of an autoencoder's tensor: its attention had names of its own."""
    old = re.fullmatch(r"(.*\.attentions\.\d+\.)(query|key|value|proj_attn)\.(weight|bias)", name)
    return f"{old[1]}{OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def _words(tower: Tower, part: Part, folder: Path) -> None:
    tower.load_words(folder)
    if not isinstance(part, Bert):
        return
    table: dict[str, int] = cast(Any, tower).words.get_vocab(with_added_tokens=True)
    largest = max(table.values(), default=-1)
    if largest >= part.vocab:
        raise WeightsError(
            f"{folder} 的分词器编号到 {largest}，文本塔只有 {part.vocab} 个词；这两者不是一套",
            f"the tokenizer of {folder} counts up to {largest}, the tower has {part.vocab} words; "
            "they do not belong together",
        )
    if table.get("[PAD]") != 0:
        raise WeightsError(
            f"{folder} 的 [PAD] 编号是 {table.get('[PAD]')}，应为 0",
            f"[PAD] of {folder} is {table.get('[PAD]')}; expected 0",
        )


def _file(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    found = sorted(p.name for p in folder.glob("*") if p.is_file())
    raise WeightsError(
        f"{folder} 里没有权重：应有 {' 或 '.join(names)}，只有 {found}",
        f"no weights in {folder}: expected {' or '.join(names)}, found {found}",
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WeightsError(
            f"读不了 {path}：{error.strerror}；模型目录要完整下载",
            f"cannot read {path}: {error.strerror}; a model's folder must be downloaded whole",
        ) from None
    except ValueError as error:
        raise WeightsError(f"{path} 不是 JSON：{error}", f"{path} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise WeightsError(f"{path} 不是一个 JSON 对象", f"{path} is not a JSON object")
    return cast("dict[str, Any]", data)


def _config(path: Path) -> Config:
    return Config(path, _json(path))


def _index(folder: Path) -> dict[str, tuple[Any, Any]]:
    """Component -> (library, class). Raises RecipeError for a pipeline or a class that is not supported."""
    path = folder / "model_index.json"
    index = _json(path)
    pipeline = str(index.get("_class_name"))
    if pipeline not in PIPELINES:
        zh, en = meant(pipeline, PIPELINES)
        raise RecipeError(f"{path} 是 {pipeline}，不支持{zh}", f"{path} is a {pipeline}, which is not supported{en}")
    pairs = {name: (v[0], v[1]) for name, v in index.items() if isinstance(v, list) and len(v) == 2}
    expected = {
        "unet": ("diffusers", ("UNet2DConditionModel",)),
        "vae": ("diffusers", ("AutoencoderKL",)),
        "text_encoder": ("transformers", tuple(TOWERS)),
        "tokenizer": ("transformers", TOWERS.get(str(pairs.get("text_encoder", ("", ""))[1]), ())),
    }
    for name, (library, classes) in expected.items():
        found = pairs.get(name, (None, None))
        if found[0] != library or found[1] not in classes:
            wanted = " / ".join(f"{library}.{cls}" for cls in classes)
            raise RecipeError(
                f"{path} 的 {name} 是 {found[0]}.{found[1]}，只支持 {wanted}；目录自带的代码一律不运行",
                f"{name} of {path} is {found[0]}.{found[1]}; supported is {wanted}; code of a folder is never run",
            )
    return pairs


def _tower(folder: Path, index: Mapping[str, tuple[Any, Any]]) -> tuple[Bert | ClipText, Config]:
    from transformers import BertConfig, CLIPTextConfig

    config = _config(folder / "text_encoder" / "config.json")
    settings = folder / "tokenizer" / "tokenizer_config.json"
    limit = _json(settings).get("model_max_length") if settings.is_file() else None
    sizes = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "feed": "intermediate_size",
        "vocab": "vocab_size",
        "positions": "max_position_embeddings",
    }
    if index["text_encoder"][1] == "BertModel":
        own = {**sizes, "types": "type_vocab_size", "dropout": "hidden_dropout_prob"}
        twin = {"attention_probs_dropout_prob": config.fields.get("hidden_dropout_prob", 0.1)}
        cls, defaults = Bert, {**FORMER_TEXT, **BertConfig().to_dict(), **twin}
    else:
        own = {**sizes, "activation": "hidden_act"}
        cls, defaults = ClipText, {**FORMER_TEXT, **CLIPTextConfig().to_dict()}
    read = config.of(defaults, own.values(), NO_EFFECT_TEXT)
    given: dict[str, Any] = {name: read[field] for name, field in own.items()}
    # A position past the last has no embedding: the tower cannot be padded to more.
    given["length"] = min(int(limit), given["positions"]) if isinstance(limit, (int, float)) else given["positions"]
    return cls(**given), config


def _unet(config: Config) -> Unet:
    from diffusers import UNet2DConditionModel

    own = {
        "size": "sample_size",
        "down": "down_block_types",
        "up": "up_block_types",
        "block_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "heads": "attention_head_dim",
        "text": "cross_attention_dim",
        "groups": "norm_num_groups",
        "linear": "use_linear_projection",
        "upcast": "upcast_attention",
    }
    read = config.of(_defaults(UNet2DConditionModel), (*own.values(), "in_channels", "out_channels"), ())
    given: dict[str, Any] = {name: read[field] for name, field in own.items()}
    if read["in_channels"] != read["out_channels"]:
        raise RecipeError(
            f"{config.path} 的 in_channels 是 {read['in_channels']}，out_channels 是 {read['out_channels']}："
            "这是补画模型，它的提示还不支持",
            f"in_channels of {config.path} is {read['in_channels']}, out_channels {read['out_channels']}: "
            "an inpainting model, whose hints are not supported",
        )
    if given["size"] == 32 and _before(config.fields.get("_diffusers_version"), (0, 9)):
        # diffusers before 0.9 wrote 32 whatever the model was trained at; its pipeline draws 64 as well.
        given["size"] = 64
    return Unet(channels=read["out_channels"], **given)


def _latent(config: Config) -> Latent:
    from diffusers import AutoencoderKL

    own = {
        "channels": "latent_channels",
        "block_channels": "block_out_channels",
        "layers_per_block": "layers_per_block",
        "groups": "norm_num_groups",
        "scaling": "scaling_factor",
    }
    read_blocks = config.fields.get("block_out_channels", (64,))
    count = len(read_blocks) if isinstance(read_blocks, list) else 1
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * count, "up_block_types": ("UpDecoderBlock2D",) * count}
    read = config.of({**_defaults(AutoencoderKL), **kinds}, own.values(), NO_EFFECT_VAE)
    return Latent(**{name: read[field] for name, field in own.items()})


def _law(folder: Path, index: Mapping[str, tuple[Any, Any]]) -> Ddpm:
    """The law of noise and the publisher's sampler, mended where diffusers' own pipeline mends it."""
    import diffusers
    from diffusers import SchedulerMixin

    path = folder / "scheduler" / "scheduler_config.json"
    config = _json(path)
    name = str(config.get("_class_name", index.get("scheduler", ("", ""))[1]))
    cls: Any = getattr(diffusers, name, None)
    if not (isinstance(cls, type) and issubclass(cls, SchedulerMixin)):
        raise RecipeError(f"{path}：diffusers 没有采样器 {name}", f"{path}: diffusers has no scheduler {name}")
    full = {n: _plain(config.get(n, default)) for n, default in _defaults(cls).items()}
    unknown = [n for n in ("beta_schedule", "beta_start", "beta_end", "num_train_timesteps") if n not in full]
    changed = [n for n in ("trained_betas", "rescale_betas_zero_snr") if full.get(n)]
    if unknown or changed:
        what = ", ".join(unknown + changed)
        raise RecipeError(
            f"{path}（{name}）的 {what} 不支持：噪声要按 beta 的开头和结尾来定",
            f"{what} of {path} ({name}) is not supported: the noise must follow a beginning and an end of beta",
        )
    if "steps_offset" in full:
        full["steps_offset"] = 1
    if "clip_sample" in full:
        full["clip_sample"] = False
    return Ddpm(
        betas=full["beta_schedule"],
        start=full["beta_start"],
        end=full["beta_end"],
        count=full["num_train_timesteps"],
        prediction=full.get("prediction_type", "epsilon"),
        config={"_class_name": name, **full},
    )


def _identity(tower: Bert | ClipText, config: Config, folder: Path) -> tuple[str, tuple[str, ...], str]:
    """Name, languages and the reason for them."""
    shape = f"{tower.vocab} x {tower.width}"
    if isinstance(tower, Bert):
        if tower == TAIYI_ZH:
            why = say(
                f"文本塔是 BertModel（{shape}）：太乙中文", f"its text tower is a BertModel ({shape}): Taiyi-SD zh"
            )
            return "taiyi-sd-zh", ("zh",), why
        why = say(
            f"文本塔是 BertModel，但大小是 {shape}：太乙中文的布局，另一种尺寸",
            f"its text tower is a BertModel of another size ({shape}): Taiyi-SD zh's layout",
        )
        return "stable-diffusion-bert", ("zh",), why
    named = " ".join(str(c.get("_name_or_path", "")) for c in (config.fields, _json(folder / "model_index.json")))
    if tower == TAIYI_EN and "taiyi" in named.lower():
        why = say(
            f"文本塔是 CLIP，配置写着 {named.strip()}", f"its text tower is CLIP and its config names {named.strip()}"
        )
        return "taiyi-sd-en", ("zh", "en"), why
    why = say(
        f"文本塔是 CLIPTextModel（{shape}）：Stable Diffusion；太乙双语形状相同，权重不同",
        f"its text tower is a CLIPTextModel ({shape}): Stable Diffusion; Taiyi-SD EN has its shapes, not its weights",
    )
    return "stable-diffusion", ("en",), why


def _defaults(cls: type) -> dict[str, Any]:
    parameters = inspect.signature(cls.__init__).parameters.values()
    return {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}


def _plain(value: Any) -> Any:
    """JSON's lists as the tuples of parts, at any depth."""
    return tuple(_plain(v) for v in cast("list[Any]", value)) if isinstance(value, (list, tuple)) else value


def _before(version: Any, limit: tuple[int, int]) -> bool:
    found = re.match(r"(\d+)\.(\d+)", str(version))
    return found is not None and (int(found[1]), int(found[2])) < limit
