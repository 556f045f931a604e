"""Reads the folders of damo's two cascades from ModelScope: configs, one pickle of all networks, vocabularies.

A recipe says which system is wanted; its widths and noise schedules are replaced by those of the folder's configs.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.hashing import LateDigest
from bimo.core.messages import Listed
from bimo.core.part import Part
from bimo.core.recipe import Recipe
from bimo.diffusion.schedules.ddpm import Ddpm
from bimo.diffusion.system import System
from bimo.models.cascade.pixel_unet import PixelUnet
from bimo.models.cascade.prior import Prior
from bimo.models.clip.openai_names import transformers_names, write_pairs
from bimo.models.layouts.configs import Config, read_json
from bimo.models.layouts.layout import Layout
from bimo.models.spaces import ClipImage
from bimo.models.text_encoders.bert import Bert
from bimo.models.text_encoders.clip import ClipText
from bimo.models.text_encoders.xglm import XglmText

WEIGHTS_FILE = "pytorch_model.bin"
TINY_FILES = ("model_config.json", "diffusion_config.json")
CASCADE_FILE = "configuration.json"
PAIRS_FILE = "bpe_simple_vocab_16e6.txt.gz"
#: Sections that distinguish the two cascades' configs from others of that name.
CASCADE_SECTIONS = {"clip", "xglm", "prior", "decoder", "upsampler256", "upsampler1024"}
NETWORKS = ("decoder", "upsampler256", "upsampler1024")

#: Defaults of the published constructors: a config has only the differences.
UNET: dict[str, Any] = {
    "num_heads": None,
    "head_dim": 64,
    "dim_mult": (1, 2, 3, 4),
    "num_res_blocks": 3,
    "attn_scales": (1 / 2, 1 / 4, 1 / 8),
    "resblock_resample": True,
    "use_scale_shift_norm": True,
    "context_dim": 512,
}
ENLARGING = {"in_dim": 6, "out_dim": 3}
FLAT = {**ENLARGING, "dim": 192, "dim_mult": (1, 1, 2, 2, 4, 4), "num_res_blocks": 2, "attn_scales": (), "dropout": 0.0}
UNETS: dict[str, dict[str, Any]] = {
    "generator": {**UNET, "in_dim": 3, "out_dim": 6, "dim": 512, "text_dim": 1024, "dropout": 0.0},
    "upsampler_256": {
        **UNET,
        **ENLARGING,
        "dim": 256,
        "text_dim": 1024,
        "dim_mult": (1, 2, 2, 3, 4),
        "num_res_blocks": 2,
        "attn_scales": (1 / 16,),
        "use_conv": True,
        "dropout": 0.1,
    },
    "upsampler_1024": {**UNET, **FLAT},
    "decoder": {**UNET, "in_dim": 3, "out_dim": 6, "dim": 512, "y_dim": 512, "dropout": 0.1},
    "upsampler256": {**UNET, **ENLARGING, "dim": 320, "y_dim": 768, "attn_scales": (1 / 8,), "dropout": 0.1},
    "upsampler1024": {**UNET, **FLAT, "y_dim": 768},
}
STRUCTBERT: dict[str, Any] = {
    "hidden_size": 768,
    "emb_size": -1,
    "num_hidden_layers": 12,
    "transformer_type": "original",
    "transition_function": "linear",
    "weighted_transformer": 0,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "max_position_embeddings": 512,
    "type_vocab_size": 16,
    "attention_type": "self",
    "rezero": False,
    "pre_ln": False,
    "roberta_style": False,
    "squeeze_excitation": False,
    "dim_dropout": False,
    "set_mask_zero": False,
    "safer_fp16": False,
}
STRUCTBERT_NO_EFFECT = {
    *("num_rolled_layers", "attention_probs_dropout_prob", "initializer_range", "transfer_matrix", "init_scale"),
    "grad_checkpoint",
}
CLIP: dict[str, Any] = {
    "embed_dim": 512,
    "image_size": 224,
    "patch_size": 16,
    "vision_dim": 768,
    "vision_heads": 12,
    "vision_layers": 12,
    "vocab_size": 49408,
    "text_len": 77,
    "text_dim": 512,
    "text_heads": 8,
    "text_layers": 12,
}
XGLM: dict[str, Any] = {
    "vocab_size": 256008,
    "max_seq_len": 2048,
    "dim": 1024,
    "ffn_dim": 4096,
    "ffn_act": "gelu",
    "embed_dim": 768,
    "num_heads": 16,
    "num_layers": 24,
    "pad_token": 1,
    "dropout": 0.1,
}
NO_EFFECT_CLIP = {"attn_dropout", "proj_dropout", "embedding_dropout"}
PRIOR: dict[str, Any] = {"dim": 2048, "clip_dim": 768, "num_heads": 32, "num_layers": 24}
SCHEDULE: dict[str, Any] = {
    "schedule": "linear",
    "num_timesteps": 1000,
    "init_beta": None,
    "last_beta": None,
    "mean_type": "eps",
    "var_type": "fixed_small",
}
#: The published beta schedules by name: diffusers' name, first and last beta of 1000 timesteps.
CURVES = {
    "linear": ("linear", 0.0001, 0.02),
    "quadratic": ("scaled_linear", 0.0015, 0.0195),
    "cosine": ("squaredcos_cap_v2", 0.0, 0.0),
}


def bases(path: Path) -> tuple[str, ...]:
    """The recipe of a folder's layout, and those with its name as a prefix; () for none. A cascade's folder holds both
    text encoders of the larger one: a recipe says which is wanted.
    """
    if all((path / name).is_file() for name in TINY_FILES):
        return ("damo-tiny",)
    if (path / CASCADE_FILE).is_file() and set(read_json(path / CASCADE_FILE)) >= CASCADE_SECTIONS:
        return ("damo-cascade",)
    return ()


def is_folder(path: Path) -> bool:
    """Whether a folder has the layout of one of the two."""
    return bool(bases(path))


def recipe_of(path: Path, wanted: Recipe) -> Recipe:
    """``wanted`` with the widths and schedules of the folder's configs. Raises WeightsError for missing or damaged
    files, RecipeError for an unsupported field.
    """
    if (path / TINY_FILES[0]).is_file():
        models, schedules = (_Sections(path / name) for name in TINY_FILES)
        names = [level.name for level in wanted.levels]
        parts: dict[str, Part] = {name: unet(models.of(f"{name}_config"), name) for name in names}
        diffusions = {name: schedules.of(f"{name}_config") for name in names}
        encoder: Part = structbert(models.of("text_config"))
    else:
        sections = _Sections(path / CASCADE_FILE)
        parts = {name: unet(sections.of(name), name) for name in NETWORKS}
        parts["prior"] = prior(sections.of("prior"))
        diffusions = {name: sections.of(f"{name}_diffusion") for name in parts}
        encoder = (
            xglm(sections.of("xglm"))
            if isinstance(wanted.text_encoders[0], XglmText)
            else clip_text(sections.of("clip"))
        )
    levels = [
        replace(
            level, denoiser=parts[level.name], schedule=schedule_of(diffusions[level.name], cast(Ddpm, level.schedule))
        )
        for level in wanted.levels
    ]
    if "prior" in parts:
        levels[0] = replace(levels[0], space=clip_image(_Sections(path / CASCADE_FILE).of("clip")))
    return replace(wanted, text_encoders=(encoder,), levels=tuple(levels))


def read(path: Path, wanted: Recipe, dtype: torch.dtype | None = torch.float32) -> System:
    """The system in a folder, ready to draw. Of the cascade's two text encoders the one in ``wanted`` is read. With
    ``dtype`` None tensors keep their stored dtype.

    Raises WeightsError for weights that are missing, damaged, misshapen or contain code, RecipeError as ``recipe_of``.
    """
    recipe = recipe_of(path, wanted)
    file = path / WEIGHTS_FILE
    if not file.is_file():
        raise WeightsError("there is no {weights_file} in {path}", weights_file=WEIGHTS_FILE, path=path)
    with module_weights.unfilled():
        system = System(recipe)
    system.weights_hash = LateDigest(file)
    chinese = isinstance(recipe.text_encoders[0], XglmText)
    module_weights.assign(system, dict(_ours(checkpoint_io.read(file), chinese)), dtype, file)
    if isinstance(recipe.text_encoders[0], ClipText):
        with tempfile.TemporaryDirectory(prefix="bimo-") as made:
            write_pairs(path / PAIRS_FILE, Path(made))
            system.text_encoders[0].load_tokenizer(Path(made))
    else:
        system.text_encoders[0].load_tokenizer(path)
    return system.eval()


@dataclass(frozen=True)
class _Sections:
    """A JSON file of several configs."""

    path: Path

    def of(self, name: str) -> Config:
        section = read_json(self.path).get(name)
        if not isinstance(section, dict):
            raise WeightsError("{path} has no {name}", path=self.path, name=name)
        return Config(Path(f"{self.path}:{name}"), cast("dict[str, Any]", section))


def unet(config: Config, name: str) -> PixelUnet:
    """The network of a section. Raises RecipeError for unsupported settings."""
    defaults = UNETS[name]
    fixed = {"num_heads": None, "use_conv": True}
    read = config.of(defaults, defaults.keys() - fixed.keys(), ())
    if read["in_dim"] not in (3, 6) or not read["head_dim"]:
        raise RecipeError(
            "in_dim {read} and head_dim {read_2} of {path} are not supported",
            read=read["in_dim"],
            read_2=read["head_dim"],
            path=config.path,
        )
    flat = "1024" in name
    return PixelUnet(
        spatial=read["in_dim"] - 3,
        answer=read["out_dim"],
        width=read["dim"],
        multiples=read["dim_mult"],
        blocks=read["num_res_blocks"],
        attend=tuple(round(1 / scale) for scale in read["attn_scales"]),
        middle=not flat,
        head=read["head_dim"],
        text=read.get("text_dim", 0),
        context=read["context_dim"],
        embed=read.get("y_dim", 0),
        reads="semantics" if name == "decoder" else "",
        tokens=0 if flat else 4,
        noise="low_res_noise" if name == "upsampler_256" else "",
        film=read["use_scale_shift_norm"],
        # The generator's constructor passes its down blocks the dropout in the place of this flag.
        encoder_film=bool(read["dropout"]) if name == "generator" else True,
        convolve=not read["resblock_resample"],
        dropout=read["dropout"],
    )


def prior(config: Config) -> Prior:
    """The prior of a section."""
    read = config.of(PRIOR, PRIOR, ())
    return Prior(embed=read["clip_dim"], width=read["dim"], layers=read["num_layers"], heads=read["num_heads"])


def schedule_of(config: Config, wanted: Ddpm) -> Ddpm:
    """``wanted`` with the beta schedule, prediction and variance of a section. Raises RecipeError for other kinds."""
    read = config.of(SCHEDULE, SCHEDULE, ())
    kinds = {"eps": "epsilon", "x0": "sample"}
    variances = {"fixed_small": "fixed", "fixed_large": "fixed", "learned_range": "learned_range"}
    wrong = [
        f"{name} {read[name]!r}"
        for name, known in (("schedule", CURVES), ("mean_type", kinds), ("var_type", variances))
        if read[name] not in known
    ]
    if wrong:
        raise RecipeError("{wrong} of {path} is not supported", wrong=Listed(wrong), path=config.path)
    betas, first, last = CURVES[read["schedule"]]
    # A linear schedule is steeper with fewer timesteps.
    scale = 1000 / read["num_timesteps"] if betas == "linear" else 1.0
    return replace(
        wanted,
        beta_schedule=cast(Any, betas),
        beta_start=float(read["init_beta"] or scale * first),
        beta_end=float(read["last_beta"] or scale * last),
        count=read["num_timesteps"],
        prediction=cast(Any, kinds[read["mean_type"]]),
        variance=cast(Any, variances[read["var_type"]]),
    )


def structbert(config: Config) -> Bert:
    """The text encoder of a StructBERT config. Raises RecipeError for variants other than BERT."""
    own = {
        "width": "hidden_size",
        "layers": "num_hidden_layers",
        "heads": "num_attention_heads",
        "vocab": "vocab_size",
        "feed": "intermediate_size",
        "positions": "max_position_embeddings",
        "types": "type_vocab_size",
        "dropout": "hidden_dropout_prob",
    }
    read = config.of({**STRUCTBERT, "vocab_size": None}, own.values(), STRUCTBERT_NO_EFFECT)
    fields: dict[str, Any] = {name: read[field] for name, field in own.items()}
    return Bert(length=64, masked=True, pool="first", **fields)


def clip_text(config: Config) -> ClipText:
    """The English text encoder of a section."""
    read = config.of(CLIP, CLIP, NO_EFFECT_CLIP)
    return ClipText(
        width=read["text_dim"],
        layers=read["text_layers"],
        heads=read["text_heads"],
        feed=read["text_dim"] * 4,
        vocab=read["vocab_size"],
        positions=read["text_len"],
        length=read["text_len"],
        project=read["embed_dim"],
    )


def clip_image(config: Config) -> ClipImage:
    """The space of the prior, of the same section."""
    read = config.of(CLIP, CLIP, NO_EFFECT_CLIP)
    return ClipImage(
        embed=read["embed_dim"],
        width=read["vision_dim"],
        layers=read["vision_layers"],
        heads=read["vision_heads"],
        feed=read["vision_dim"] * 4,
        size=read["image_size"],
        patch=read["patch_size"],
    )


def xglm(config: Config) -> XglmText:
    """The text encoder of a section."""
    own = {
        "width": "dim",
        "layers": "num_layers",
        "heads": "num_heads",
        "feed": "ffn_dim",
        "vocab": "vocab_size",
        "project": "embed_dim",
        "dropout": "dropout",
    }
    read = config.of(XGLM, own.values(), {"max_seq_len"})
    return XglmText(**{name: read[field] for name, field in own.items()})


def _ours(state: Mapping[str, Tensor], chinese: bool) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the one file with our names. Unknown ones pass through, to be reported."""
    networks = {f"unet_{name}": name for name in ("generator", "upsampler_256", "upsampler_1024")}
    networks |= {name: name for name in ("prior", *NETWORKS)}
    for name, value in state.items():
        # Constant masks, unused positions, and the temperature of CLIP's training.
        if name.endswith("attn_mask") or name in ("xglm.pos_embedding.weight", "clip.log_scale"):
            continue
        head, _, rest = name.partition(".")
        if head in networks:
            yield f"{networks[head]}.denoiser.{rest}", value
        elif head == "text_encoder":
            yield f"text.0.model.{re.sub(_NORM, _norm, rest)}", value
        elif rest.startswith("visual."):
            yield from transformers_names(rest, value, "prior.space.model.")
        elif rest.startswith("textual."):
            yield from () if chinese else transformers_names(rest, value, "text.0.model.")
        elif head == "xglm":
            yield from [(f"text.0.model.{rest}", value)] if chinese else ()
        else:
            yield name, value


_NORM = re.compile(r"LayerNorm\.(gamma|beta)$")


def _norm(found: re.Match[str]) -> str:
    return f"LayerNorm.{'weight' if found[1] == 'gamma' else 'bias'}"


LAYOUT = Layout(is_folder, recipe_of, read, bases)
