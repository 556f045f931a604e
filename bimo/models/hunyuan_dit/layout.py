"""HunyuanDiT's weights: diffusers' folders, and the authors' own (`t2i/model/pytorch_model_ema.pt` and its neighbours).

The noise schedule changed between versions and is part of no weight; a folder whose scheduler contradicts its version
is refused, because pictures would be washed out or overexposed without a warning.
"""

# diffusers loads its classes lazily, which reads as private.
# pyright: reportPrivateImportUsage=false

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import late_table
from bimo.core.messages import say
from bimo.core.recipe import Defaults, Guidance, Level, Recipe
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System
from bimo.models.hunyuan_dit.denoiser import Hunyuan
from bimo.models.layouts.configs import FORMER_TEXT, NO_EFFECT_TEXT, TEXT_ENCODER_SIZES, Config, defaults_of, read_json
from bimo.models.layouts.diffusers_folder import Filling, Folder, Reading
from bimo.models.layouts.layout import Layout
from bimo.models.layouts.pipeline_form import ABSENT, Form
from bimo.models.layouts.weight_files import files_of
from bimo.models.stable_diffusion.layout import latent, schedule_of, vae_name
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.t5 import T5

LEVEL = "image"
STEPS = 50
GUIDANCE = 5.0
MULTIPLE = 16
#: The last beta by version: 1.2 was trained with 0.018, the authors' own code samples it with 0.02.
ENDS = {"1.1": (0.03,), "1.2": (0.018, 0.02)}
#: The authors' scheduler (hydit/constants.py), which is not in their files; the last beta depends on the version.
SCHEDULER = {
    "_class_name": "DDPMScheduler",
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "prediction_type": "v_prediction",
    "clip_sample": False,
    "steps_offset": 1,
}
NO_EFFECT_T5 = {
    *("num_decoder_layers", "decoder_start_token_id", "is_decoder", "is_encoder_decoder", "is_gated_act"),
    *("dense_act_fn", "tokenizer_class", "scale_decoder_outputs", "task_specific_params", "n_positions"),
}
#: The authors' folders next to the transformer: clip_text_encoder and tokenizer, mt5 with its own tokenizer, the
#: autoencoder.
AUTHORS = ("clip_text_encoder", "tokenizer", "mt5", "sdxl-vae-fp16-fix")
Kind = Literal["ema", "module", "distill"]
_UNWATCHED = {"safety_checker": ABSENT, "feature_extractor": ABSENT, "requires_safety_checker": False}
FORMS = (Form("HunyuanDiTPipeline", "HunyuanDiT2DModel", ("BertModel", "T5EncoderModel"), fixed=_UNWATCHED),)


def reading(folder: Folder) -> Reading:
    """A HunyuanDiTPipeline. Raises RecipeError for unsupported ones, and for a scheduler of another version."""
    folder.demand("text_encoder", "transformers", ("BertModel",))
    folder.demand("text_encoder_2", "transformers", ("T5EncoderModel",))
    folder.demand("transformer", "diffusers", ("HunyuanDiT2DModel",))
    folder.demand("vae", "diffusers", ("AutoencoderKL",))
    denoiser = transformer(folder.config("transformer"))
    schedule = schedule_of(folder, mend=False)
    version = "1.1" if denoiser.meta else "1.2"
    settings = (schedule.beta_schedule, schedule.beta_start, schedule.prediction)
    if schedule.beta_end not in ENDS[version] or settings != ("scaled_linear", 0.00085, "v_prediction"):
        at = folder.path / "scheduler" / "scheduler_config.json"
        wanted = f"scaled_linear 0.00085 -> {' / '.join(map(str, ENDS[version]))}, v_prediction"
        came = f"{schedule.beta_schedule} {schedule.beta_start} -> {schedule.beta_end}, {schedule.prediction}"
        raise RecipeError(
            "{at} says {came}; the weights are of version {version}, which needs {wanted}. Otherwise it "
            "would draw washed out or burnt, so it is not read",
            at=at,
            came=came,
            version=version,
            wanted=wanted,
        )
    words = (bert(folder.config("text_encoder"), denoiser), t5(folder.config("text_encoder_2"), denoiser.lengths[1]))
    recipe = _recipe(denoiser, words, latent(folder.config("vae")), schedule)
    fillings = (
        Filling("text_encoder", "text.0.model", bert_name),
        Filling("text_encoder_2", "text.1.model", t5_name),
        Filling("transformer", "image.denoiser.model"),
        Filling("vae", "image.space.model", vae_name),
    )
    return Reading(recipe, fillings, ("tokenizer", "tokenizer_2"))


def _recipe(denoiser: Hunyuan, words: tuple[Bert, T5], space: Any, schedule: Ddpm) -> Recipe:
    version = "1.1" if denoiser.meta else "1.2"
    side = denoiser.size * 2 ** (len(space.block_channels) - 1)
    guide = Guidance(scale=GUIDANCE, channels=denoiser.channels if denoiser.variance else 0)
    level = Level(
        name=LEVEL,
        space=space,
        denoiser=denoiser,
        schedule=schedule,
        steps=STEPS,
        guidance=guide,
        # Published with sdxl-vae-fp16-fix.
        space_dtypes=("fp16", "bf16"),
    )
    why = (
        say("it is a HunyuanDiT, conditioned on sizes and a style: 1.1 or before")
        if denoiser.meta
        else say("it is a HunyuanDiT, not conditioned on sizes or a style: 1.2")
    )
    return Recipe(
        name=f"hunyuan-dit-{version}",
        languages=("zh", "en"),
        text_encoders=words,
        levels=(level,),
        request=Defaults(size=(side, side), multiple=MULTIPLE),
        dtypes=("fp16",),
        note=why,
    )


def transformer(config: Config) -> Hunyuan:
    """The denoiser that a HunyuanDiT2DModel's config describes. Raises RecipeError."""
    from diffusers import HunyuanDiT2DModel

    own = {
        "channels": "in_channels",
        "size": "sample_size",
        "patch": "patch_size",
        "width": "hidden_size",
        "heads": "num_attention_heads",
        "layers": "num_layers",
        "ratio": "mlp_ratio",
        "pooled": "pooled_projection_dim",
        "meta": "use_style_cond_and_image_meta_size",
        "variance": "learn_sigma",
    }
    pairs = {"text": "cross_attention_dim", "lengths": "text_len"}
    every = (*own.values(), *pairs.values(), *(f"{name}_t5" for name in pairs.values()), "attention_head_dim")
    read = config.of(defaults_of(HunyuanDiT2DModel), every, ("dropout",))
    if read["hidden_size"] != read["num_attention_heads"] * read["attention_head_dim"]:
        raise RecipeError("hidden_size of {path} is not the number of heads times their width", path=config.path)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    fields |= {name: (read[field], read[f"{field}_t5"]) for name, field in pairs.items()}
    return Hunyuan(**fields)


def bert(config: Config, denoiser: Hunyuan) -> Bert:
    """The bilingual CLIP's text encoder, a BERT; its pooled output is not used. Raises RecipeError."""
    from transformers import BertConfig

    own = {
        **TEXT_ENCODER_SIZES,
        "types": "type_vocab_size",
        "dropout": "hidden_dropout_prob",
    }
    twin = {"attention_probs_dropout_prob": config.fields.get("hidden_dropout_prob", 0.1)}
    read = config.of({**FORMER_TEXT, **BertConfig().to_dict(), **twin}, own.values(), NO_EFFECT_TEXT)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    return Bert(**fields, length=denoiser.lengths[0], masked=True, pooler=False)


def t5(config: Config, length: int) -> T5:
    """The text encoder of a T5EncoderModel's config, with this number of tokens. Raises RecipeError."""
    from transformers import T5Config

    own = {
        "width": "d_model",
        "layers": "num_layers",
        "heads": "num_heads",
        "head": "d_kv",
        "feed": "d_ff",
        "vocab": "vocab_size",
        "feed_forward": "feed_forward_proj",
        "buckets": "relative_attention_num_buckets",
        "distance": "relative_attention_max_distance",
        "eps": "layer_norm_epsilon",
        "dropout": "dropout_rate",
    }
    read = config.of(T5Config().to_dict(), own.values(), NO_EFFECT_TEXT | NO_EFFECT_T5)
    return T5(**{name: read[field] for name, field in own.items()}, length=length)


def bert_name(name: str) -> str | None:
    """The current name of a BERT's tensor; positions and the unused pooler are left out."""
    name = name.removeprefix("bert.")
    return None if name == "embeddings.position_ids" or name.startswith("pooler.") else name


def t5_name(name: str) -> str | None:
    """Our name of a T5's tensor: the embedding table has two names, the decoder is not needed."""
    if name in ("shared.weight", "encoder.embed_tokens.weight"):
        return "embed_tokens.weight"
    return name.removeprefix("encoder.") if name.startswith("encoder.") else None


def diffusers_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' tensors with the names of diffusers' HunyuanDiT2DModel, or of its ControlNet.

    Fused projections are split by rows; the second and third norm of a block are swapped; the last modulation is
    (shift, scale), diffusers' (scale, shift).
    """
    named: dict[str, Tensor] = {}
    for name, value in state.items():
        for found, cut in _cuts(name):
            named[found] = cut(value)
    return named


_OUTSIDE = {
    r"pooler\.(.+)": r"time_extra_emb.pooler.\1",
    r"t_embedder\.mlp\.0\.(.+)": r"time_extra_emb.timestep_embedder.linear_1.\1",
    r"t_embedder\.mlp\.2\.(.+)": r"time_extra_emb.timestep_embedder.linear_2.\1",
    r"extra_embedder\.0\.(.+)": r"time_extra_emb.extra_embedder.linear_1.\1",
    r"extra_embedder\.2\.(.+)": r"time_extra_emb.extra_embedder.linear_2.\1",
    r"style_embedder\.(.+)": r"time_extra_emb.style_embedder.\1",
    r"x_embedder\.(.+)": r"pos_embed.\1",
    r"mlp_t5\.0\.(.+)": r"text_embedder.linear_1.\1",
    r"mlp_t5\.2\.(.+)": r"text_embedder.linear_2.\1",
    r"final_layer\.adaLN_modulation\.1\.(.+)": r"norm_out.linear.\1",
    r"final_layer\.linear\.(.+)": r"proj_out.\1",
    # A ControlNet's.
    r"before_proj\.(.+)": r"input_block.\1",
    r"after_proj_list\.(.+)": r"controlnet_blocks.\1",
}
_INSIDE = {
    r"(attn\d)\.q_norm\.(.+)": r"\1.norm_q.\2",
    r"(attn\d)\.k_norm\.(.+)": r"\1.norm_k.\2",
    r"(attn\d)\.out_proj\.(.+)": r"\1.to_out.0.\2",
    r"attn2\.q_proj\.(.+)": r"attn2.to_q.\1",
    r"norm1\.(.+)": r"norm1.norm.\1",
    r"norm2\.(.+)": r"norm3.\1",
    r"norm3\.(.+)": r"norm2.\1",
    r"default_modulation\.1\.(.+)": r"norm1.linear.\1",
    r"mlp\.fc1\.(.+)": r"ff.net.0.proj.\1",
    r"mlp\.fc2\.(.+)": r"ff.net.2.\1",
}
_FUSED = {r"attn1\.Wqkv\.(.+)": ("attn1", "qkv"), r"attn2\.kv_proj\.(.+)": ("attn2", "kv")}


def _cuts(name: str) -> list[tuple[str, Callable[[Tensor], Tensor]]]:
    """The diffusers names of an authors' tensor, and the part of it for each."""
    block = re.fullmatch(r"(blocks\.\d+)\.(.+)", name)
    if block is None:
        renamed = _renamed(name, _OUTSIDE)
        if name.startswith("final_layer.adaLN_modulation."):
            return [(renamed, lambda value: torch.cat(value.chunk(2)[::-1]))]
        # There is one style; further rows of the table were never used.
        return [(renamed, (lambda value: value[:1]) if name.startswith("style_embedder.") else _same)]
    for pattern, (attention, letters) in _FUSED.items():
        if fused := re.fullmatch(pattern, block[2]):
            names = [f"{block[1]}.{attention}.to_{letter}.{fused[1]}" for letter in letters]
            return [(found, _row(at, len(letters))) for at, found in enumerate(names)]
    return [(f"{block[1]}.{_renamed(block[2], _INSIDE)}", _same)]


def _renamed(name: str, table: Mapping[str, str]) -> str:
    for pattern, replacement in table.items():
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    return name


def _same(value: Tensor) -> Tensor:
    return value


def _row(at: int, count: int) -> Callable[[Tensor], Tensor]:
    # A copy: parts of a fused tensor would share its memory.
    return lambda value: value.chunk(count)[at].clone()


def is_authors(path: Path) -> bool:
    """Whether a folder, or the `t2i` in it, has the authors' layout; missing files are reported when it is read."""
    return any((root / "model").is_dir() and (root / "mt5").is_dir() for root in (path, path / "t2i"))


def authors_recipe(path: Path, kind: Kind = "ema") -> Recipe:
    """The recipe of a folder in the authors' layout, by its configs and the shapes of its tensors."""
    root, file = _authors(path, kind)
    shapes = {name: torch.empty(shape, device="meta") for name, shape in checkpoint_io.shapes(file).items()}
    denoiser = _shaped(diffusers_state(shapes), file)
    first, second, decoder = (_config(root / name) for name in ("clip_text_encoder", "mt5", "sdxl-vae-fp16-fix"))
    end = ENDS["1.1" if denoiser.meta else "1.2"][0]
    schedule = Ddpm(beta_end=end, prediction="v_prediction", config={**SCHEDULER, "beta_end": end})
    recipe = _recipe(denoiser, (bert(first, denoiser), t5(second, denoiser.lengths[1])), latent(decoder), schedule)
    level = replace(recipe.levels[0], steps=25 if kind == "distill" else STEPS)
    return replace(recipe, levels=(level,))


def _authors(path: Path, kind: Kind) -> tuple[Path, Path]:
    """The folder with all files, and the transformer's file."""
    root = path / "t2i" if (path / "t2i").is_dir() else path
    absent = [name for name in AUTHORS if not (root / name).is_dir()]
    file = root / "model" / f"pytorch_model_{kind}.pt"
    if absent or not file.is_file():
        missing = ", ".join([*absent, *([] if file.is_file() else [f"model/{file.name}"])])
        raise WeightsError("{root} lacks {missing}; download the folder whole", root=root, missing=missing)
    return root, file


def read_authors(path: Path, kind: Kind = "ema", dtype: torch.dtype | None = torch.float32) -> System:
    """The system in the authors' layout with the averaged weights ("ema"), the last ones or the distilled ones.

    Raises WeightsError for weights that are missing, truncated, misshapen or contain code.
    """
    root, file = _authors(path, kind)
    with module_weights.unfilled():
        system = System(authors_recipe(path, kind))
    state = diffusers_state(checkpoint_io.read(file))
    module_weights.assign(system.get_submodule("image.denoiser.model"), state, dtype, file)
    every = [file]
    for name, module, rename in (
        ("clip_text_encoder", "text.0.model", bert_name),
        ("mt5", "text.1.model", t5_name),
        ("sdxl-vae-fp16-fix", "image.space.model", vae_name),
    ):
        tensors: dict[str, Tensor] = {}
        for part in files_of(root / name):
            tensors |= checkpoint_io.renamed(checkpoint_io.read(part), rename)
            every.append(part)
        module_weights.assign(system.get_submodule(module), tensors, dtype, root / name)
    for encoder, folder in zip(system.text_encoders, ("tokenizer", "mt5"), strict=True):
        encoder.load_tokenizer(root / folder)
    system.weights_hash = late_table(root, every)
    return system.eval()


def _config(folder: Path) -> Config:
    return Config(folder / "config.json", read_json(folder / "config.json"))


def _shaped(state: Mapping[str, Tensor], file: Path) -> Hunyuan:
    """The denoiser with the sizes of the tensors.

    Raises WeightsError if a tensor that determines a size is missing.
    """
    try:
        width, channels, patch, _ = state["pos_embed.proj.weight"].shape
        layers = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        head = state["blocks.0.attn1.norm_q.weight"].shape[0]
        text = (state["text_embedder.linear_2.weight"].shape[0], state["text_embedder.linear_1.weight"].shape[1])
        feed = state["blocks.0.ff.net.0.proj.weight"].shape[0]
        second = state["time_extra_emb.pooler.positional_embedding"].shape[0] - 1
        first = state["text_embedding_padding"].shape[0] - second
        pooled = state["time_extra_emb.pooler.c_proj.weight"].shape[0]
        answers = state["proj_out.weight"].shape[0] // patch**2
    except (KeyError, ValueError) as error:
        raise WeightsError("{file} holds no HunyuanDiT: there is no {error}", file=file, error=error) from None
    return Hunyuan(
        channels=channels,
        patch=patch,
        width=width,
        heads=width // head,
        layers=layers,
        # A little more than the quotient, so that rounding down gives the width again.
        ratio=Hunyuan().ratio if int(width * Hunyuan().ratio) == feed else (feed + 0.5) / width,
        text=text,
        pooled=pooled,
        lengths=(first, second),
        meta="time_extra_emb.style_embedder.weight" in state,
        variance=answers == 2 * channels,
    )


LAYOUT = Layout(is_authors, authors_recipe, read_authors)
