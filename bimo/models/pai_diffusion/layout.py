"""Reads the folders of PAI's latent diffusion (EasyNLP's latent_diffusion): one config, one pickle, a vocabulary, an
ESRGAN.

A recipe provides the structure; widths, noise schedule and the text encoder are replaced by those of the folder's
config.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import late_table
from bimo.core.messages import Listed
from bimo.core.recipe import Recipe
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System
from bimo.models.layouts.configs import Config, read_json
from bimo.models.layouts.layout import Layout
from bimo.models.pai_diffusion import esrgan
from bimo.models.spaces import Latent
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.unet import CROSS_DOWN, CROSS_UP, PLAIN_DOWN, PLAIN_UP, Unet
from bimo.models.text_encoders.clip import ClipText

CONFIG_FILE, WEIGHTS_FILE, ENLARGE_FILE = "config.json", "pytorch_model.bin", "RRDB_ESRGAN_x4.pth"
FILES = (CONFIG_FILE, WEIGHTS_FILE, "vocab.txt", ENLARGE_FILE)
TEXT, AVERAGED = "cond_stage_model.model.", "model_ema."
#: Defaults of the published constructors: a config holds only what differs.
SYSTEM: dict[str, Any] = {
    "timesteps": 1000,
    "beta_schedule": "linear",
    "linear_start": 1e-4,
    "linear_end": 2e-2,
    "parameterization": "eps",
    "use_ema": True,
    "concat_mode": True,
    "scale_factor": 1.0,
    "scale_by_std": False,
    "cond_stage_forward": None,
    "given_betas": None,
    "use_positional_encodings": False,
}
CARRIED_SYSTEM = {
    *("timesteps", "linear_start", "linear_end", "parameterization", "use_ema", "scale_factor", "conditioning_key"),
}
#: Fields for training or logging only, or that sampling sets otherwise.
NO_EFFECT_SYSTEM = {
    *("unet_config", "first_stage_config", "cond_stage_config", "scheduler_config", "loss_type", "ckpt_path"),
    *("ignore_keys", "load_only_unet", "monitor", "first_stage_key", "cond_stage_key", "image_size", "channels"),
    *("log_every_t", "clip_denoised", "cosine_s", "original_elbo_weight", "v_posterior", "l_simple_weight"),
    *("learn_logvar", "logvar_init", "num_timesteps_cond", "cond_stage_trainable", "concat_mode"),
}
UNET: dict[str, Any] = {
    "channel_mult": (1, 2, 4, 8),
    "conv_resample": True,
    "dims": 2,
    "num_classes": None,
    "num_heads": -1,
    "num_head_channels": -1,
    "use_scale_shift_norm": False,
    "resblock_updown": False,
    "use_new_attention_order": False,
    "use_spatial_transformer": True,
    "transformer_depth": 1,
    "n_embed": None,
}
CARRIED_UNET = {
    *("image_size", "in_channels", "model_channels", "out_channels", "num_res_blocks", "attention_resolutions"),
    *("channel_mult", "num_heads", "num_head_channels", "transformer_depth", "context_dim"),
}
NO_EFFECT_UNET = {"dropout", "use_checkpoint", "use_fp16", "num_heads_upsample", "legacy"}
VAE: dict[str, Any] = {
    "double_z": True,
    "in_channels": 3,
    "out_ch": 3,
    "attn_resolutions": (),
    "resamp_with_conv": True,
    "use_linear_attn": False,
    "attn_type": "vanilla",
    "give_pre_end": False,
    "tanh_out": False,
    "ch_mult": (1, 2, 4, 8),
}
TEXT_ENCODER = {
    "width": "width",
    "layers": "layers",
    "heads": "heads",
    "vocab": "vocab_size",
    "project": "output_dim",
    "positions": "context_length",
}


def is_folder(path: Path) -> bool:
    """Whether a folder has the four files of one."""
    return all((path / name).is_file() for name in FILES)


def bases(path: Path) -> tuple[str, ...]:
    """The only recipe for such folders."""
    return ("pai-ldm",)


def recipe_of(path: Path, wanted: Recipe) -> Recipe:
    """``wanted`` with the text encoder, UNet, autoencoder and noise schedule of the folder's config.

    Raises WeightsError for a damaged config, RecipeError for an unsupported field.
    """
    whole = _below(Config(path / CONFIG_FILE, read_json(path / CONFIG_FILE)), "model", "params")
    settings = whole.of(SYSTEM, CARRIED_SYSTEM, NO_EFFECT_SYSTEM)
    kinds = {"eps": "epsilon", "x0": "sample"}
    if settings["parameterization"] not in kinds or settings["conditioning_key"] != "crossattn":
        raise RecipeError(
            "parameterization of {path} is {told}, conditioning_key {told_2}: supported are eps and x0, and crossattn",
            path=whole.path,
            told=settings["parameterization"],
            told_2=settings["conditioning_key"],
        )
    image, enlarge = wanted.levels
    schedule = replace(
        cast(Ddpm, image.schedule),
        # Latent diffusion's "linear" schedule is linear in the square root of beta.
        beta_schedule="scaled_linear",
        beta_start=settings["linear_start"],
        beta_end=settings["linear_end"],
        count=settings["timesteps"],
        prediction=kinds[settings["parameterization"]],
    )
    space = _space(_below(whole, "first_stage_config", "params"), cast(Latent, image.space), settings["scale_factor"])
    denoiser = _painter(_below(whole, "unet_config", "params"))
    encoder = _text_encoder(_below(whole, "cond_stage_config", "params"), cast(ClipText, wanted.text_encoders[0]))
    level = replace(image, space=space, denoiser=denoiser, schedule=schedule)
    return replace(wanted, text_encoders=(encoder,), levels=(level, enlarge))


def read(path: Path, wanted: Recipe, dtype: torch.dtype | None = torch.float32) -> System:
    """The system in a folder, with the UNet's EMA weights, which its publisher samples with, unless the config states
    that there are none. With ``dtype`` None tensors keep their stored dtype.

    Raises WeightsError for weights that are missing, damaged, misshapen or contain code, RecipeError as ``recipe_of``.
    """
    for name in FILES:
        if not (path / name).is_file():
            raise WeightsError("there is no {name} in {path}", name=name, path=path)
    recipe = recipe_of(path, wanted)
    with module_weights.unfilled():
        system = System(recipe)
    averaged = read_json(path / CONFIG_FILE)["model"]["params"].get("use_ema", True)
    state = checkpoint_io.read(path / WEIGHTS_FILE)
    own = dict(_ours(_with_average(state) if averaged else state, recipe))
    own |= {
        f"enlarge.denoiser.{esrgan.published_name(name)}": value
        for name, value in checkpoint_io.read(path / ENLARGE_FILE).items()
    }
    module_weights.assign(system, own, dtype, path)
    system.text_encoders[0].load_tokenizer(path)
    system.weights_hash = late_table(path, (path / WEIGHTS_FILE, path / ENLARGE_FILE))
    return system.eval()


def _below(config: Config, *names: str) -> Config:
    for name in names:
        section = config.fields.get(name)
        if not isinstance(section, dict):
            raise WeightsError("{path} has no {name}", path=config.path, name=name)
        config = Config(Path(f"{config.path}:{name}"), cast("dict[str, Any]", section))
    return config


def _painter(config: Config) -> Unet:
    read = config.of(UNET, CARRIED_UNET, NO_EFFECT_UNET)
    _demand(config, read, CARRIED_UNET)
    channels = tuple(read["model_channels"] * times for times in read["channel_mult"])
    attends = [2**level in read["attention_resolutions"] for level in range(len(channels))]
    head = read["num_head_channels"]
    return Unet(
        channels=read["out_channels"],
        spatial=read["in_channels"] - read["out_channels"],
        size=read["image_size"],
        down=tuple(CROSS_DOWN if attending else PLAIN_DOWN for attending in attends),
        up=tuple(CROSS_UP if attending else PLAIN_UP for attending in reversed(attends)),
        block_channels=channels,
        layers_per_block=read["num_res_blocks"],
        heads=read["num_heads"] if head == -1 else tuple(width // head for width in channels),
        depth=read["transformer_depth"],
        text=read["context_dim"],
    )


def _space(config: Config, wanted: Latent, scaling: float) -> Latent:
    whole = config.of(
        {}, ("embed_dim",), ("ddconfig", "lossconfig", "ckpt_path", "ignore_keys", "monitor", "image_key")
    )
    inner = _below(config, "ddconfig")
    carried = {"ch", "ch_mult", "num_res_blocks", "z_channels"}
    read = inner.of(VAE, carried, ("resolution", "dropout"))
    _demand(inner, read, carried)
    if read["z_channels"] != whole["embed_dim"]:
        raise RecipeError(
            "embed_dim of {path} is {whole}, z_channels {read}: they must be equal",
            path=config.path,
            whole=whole["embed_dim"],
            read=read["z_channels"],
        )
    return replace(
        wanted,
        channels=whole["embed_dim"],
        block_channels=tuple(read["ch"] * times for times in read["ch_mult"]),
        layers_per_block=read["num_res_blocks"],
        scaling=scaling,
    )


def _text_encoder(config: Config, wanted: ClipText) -> ClipText:
    whole = config.of(
        {"max_length": 32, "n_repeat": 1, "normalize": True}, ("max_length",), ("text_encoder", "version", "device")
    )
    inner = _below(config, "text_encoder")
    read = inner.of({}, TEXT_ENCODER.values(), ("return_full_embed",))
    _demand(inner, read, TEXT_ENCODER.values())
    fields = {name: read[field] for name, field in TEXT_ENCODER.items()}
    return replace(wanted, **fields, feed=4 * read["width"], length=whole["max_length"])


def _demand(config: Config, read: Mapping[str, Any], names: Any) -> None:
    absent = sorted(name for name in names if read[name] is None)
    if absent:
        raise WeightsError("{path} has no {absent}", path=config.path, absent=Listed(absent))


def _with_average(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The file's tensors, with the EMA weights for the UNet; their names are the UNet's without dots."""
    tensors = dict(state)
    for name in state:
        if name.startswith(ldm_names.UNET):
            spelt = AVERAGED + name.removeprefix("model.").replace(".", "")
            # A tensor without EMA is reported as missing: the raw weights are not those to sample with.
            plain = tensors.pop(name)
            if spelt in tensors:
                tensors[name] = tensors.pop(spelt)
            else:
                tensors[f"{name} without {AVERAGED}*"] = plain
    return tensors


_KEPT = re.compile(
    r"(log_)?(one_minus_)?betas|(sqrt_|log_)?(one_minus_|recip_|recipm1_)?alphas_cumprod(_prev)?|posterior_\w+|logvar"
    r"|model_ema\.(decay|num_updates)|first_stage_model\.loss\..*"
)


def _ours(state: Mapping[str, Tensor], recipe: Recipe) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the one file under our names. Unknown ones are passed on and reported; those of the noise schedule
    and of training are left out.
    """
    level = recipe.levels[0]
    unet_part, space = cast(Unet, level.denoiser), cast(Latent, level.space)
    depth = cast(int, unet_part.depth)
    depths = tuple(depth if kind == CROSS_DOWN else 0 for kind in unet_part.down)
    unet = ldm_names.unet_names(ldm_names.Blocks(unet_part.layers_per_block, depths))
    vae = ldm_names.vae_names(len(space.block_channels), space.layers_per_block)
    words: dict[str, Tensor] = {}
    for name, value in state.items():
        if _KEPT.fullmatch(name):
            continue
        if name.startswith(TEXT):
            spelt = name.removeprefix(TEXT)
            words["token_embedding.weight" if spelt == "embedding_table" else spelt] = value
        elif name.startswith(ldm_names.UNET) and (own := ldm_names.renamed(name.removeprefix(ldm_names.UNET), unet)):
            yield f"image.denoiser.model.{own}", value
        elif name.startswith(ldm_names.VAE) and (own := ldm_names.renamed(name.removeprefix(ldm_names.VAE), vae)):
            yield f"image.space.model.{own}", ldm_names.vae_tensor(name.removeprefix(ldm_names.VAE), value)
        else:
            yield name, value
    for name, value in ldm_names.open_clip_text(words):
        yield f"text.0.{name}", value


LAYOUT = Layout(is_folder, recipe_of, read, bases)
