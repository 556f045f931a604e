"""Reads single files in the layout of latent diffusion: .safetensors, .ckpt and .pt of SD1, SD2, SDXL and their
relatives.

A single file has no configs: they are written here from the shapes of its tensors, and the reader of its family reads
them as it would a folder's. What shapes cannot tell (the kind of prediction of SD2) is asked for, not guessed.
"""

# torch leaves parts of its interface untyped; what crosses it here is named where it is used.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import BimoError, WeightsError
from bimo.core.hashing import LateDigest
from bimo.core.messages import Both, say
from bimo.core.recipe import Recipe
from bimo.diffusion.system import System
from bimo.models.layouts import mindspore
from bimo.models.layouts.configs import read_json
from bimo.models.layouts.detection import Detection, current_name, detect, shapes, unusable
from bimo.models.layouts.diffusers_folder import INDEX_FILE, Reading, load_tokenizer, reading_of
from bimo.models.stable_diffusion import ldm_names
from bimo.models.stable_diffusion.ldm_configs import (
    TEXT_ENCODERS,
    UNET_KEYS,
    VAE_KEYS,
    WORD_PIECES,
    Component,
    below,
    mapped,
    sourced,
    unet_config,
    vae_config,
    vae_convert,
)

Shapes = ldm_names.Shapes
WORDS = ("tokenizer", "tokenizer_2")
TEXT_ENCODER_NAMES = ("text_encoder", "text_encoder_2")
SETTINGS_FILE = "tokenizer_config.json"
#: Empty tensors that say what the others cannot: that v is predicted, that the betas were rescaled so that noise alone
#: is left at the last time.
PREDICTS_V, RESCALED = MARKS = ("v_pred", "ztsnr")
#: The mean and deviation of the latents in a file of Playground 2.5 (arXiv:2402.17245), whose noise is EDM's
#: (arXiv:2206.00364); as diffusers draws it. What CosXL's files are marked with begins otherwise.
MOMENTS = ("edm_mean", "edm_std")
EDM = {"_class_name": "EDMDPMSolverMultistepScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5}
EDM_V = "edm_vpred."
#: What a file of this package says of the ids that its text encoders are padded with.
PADS_KEY = "bimo.pads"
END = "<|endoftext|>"
PIPELINES = {"xl": "StableDiffusionXLPipeline", "roberta": "AltDiffusionPipeline"}
#: As the publishers' folders of SD1, SD2 and XL have it, with what their own class has no use for: samplers that are
#: asked for by name take it over.
BETAS = {
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "num_train_timesteps": 1000,
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}
_CLIP_TOKENIZERS = (
    (("vocab.txt",), "BertTokenizer"),
    (("vocab.json", "merges.txt"), "CLIPTokenizer"),
    (("tokenizer.json",), "CLIPTokenizer"),
)
#: Tokenizers by the layout of the words: files a folder must have (all of one row), and the class they belong to.
TOKENIZERS: dict[str, tuple[tuple[tuple[str, ...], str], ...]] = {
    "bert": ((("vocab.txt",), "BertTokenizer"), (("tokenizer.json",), "BertTokenizer")),
    "roberta": (
        (("sentencepiece.bpe.model",), "XLMRobertaTokenizer"),
        (("tokenizer.json",), "XLMRobertaTokenizer"),
    ),
    **dict.fromkeys(("clip", "openclip", "xl"), _CLIP_TOKENIZERS),
}


@dataclass(frozen=True)
class Layout:
    """A single file as a folder: the pipeline it would be, its components, its words and its noise schedule."""

    path: Path
    found: Detection
    names: Shapes
    pipeline: str
    components: Mapping[str, Component]
    words: tuple[Path | None, ...]
    scheduler: Mapping[str, Any]


def recipe_of_file(path: Path) -> Recipe:
    """The recipe of a single file by its names and shapes; ``note`` says why. Raises WeightsError, RecipeError."""
    return _reading(_layout(path)).recipe


def read_file(path: Path, dtype: torch.dtype | None = torch.float32) -> System:
    """The system in a single file, ready to draw; its words lie beside it.

    Raises WeightsError for a file that is damaged, is no whole model, or has no tokenizer beside it; RecipeError for
    what this package cannot draw. Nothing is ever fetched.
    """
    layout = _layout(path)
    for index, folder in enumerate(layout.words):
        if folder is None:
            raise _wordless(layout, index)
    reading = _reading(layout)
    with module_weights.unfilled():
        system = System(reading.recipe)
    system.weights_hash = LateDigest(path)
    system.files = () if mindspore.is_checkpoint(path) else (path,)
    for filling in reading.fillings:
        part = layout.components[filling.component]
        state = part.convert(_tensors(path, part.prefix, dtype))
        own = checkpoint_io.renamed(state, filling.rename)
        place = f"{path} ({part.prefix}*)"
        module_weights.assign(system.get_submodule(filling.module), own, dtype, place, part.source)
    pads = weights_metadata(path).get(PADS_KEY, "").split()
    for index, (encoder, folder) in enumerate(zip(system.text_encoders, layout.words, strict=True)):
        if folder is not None:
            load_tokenizer(encoder, folder)
            _pad(encoder, layout.components[TEXT_ENCODER_NAMES[index]], int(pads[index]) if pads else None)
    return system.eval()


def weights_metadata(path: Path) -> dict[str, str]:
    """What a file says of itself; {} for one of MindSpore's. Raises WeightsError."""
    return {} if mindspore.is_checkpoint(path) else checkpoint_io.metadata(path)


def _pad(encoder: Any, part: Component, told: int | None) -> None:
    """Has a text encoder pad as it was trained: by what the file says, else as its kind does. A tokenizer's files are
    most often those of another text encoder, or say nothing.
    """
    if not part.pad or encoder.part.words != "pairs":
        return
    own = 0 if part.pad == "zero" else encoder.tokenizer.token_to_id(END)
    pad = own if told is None else told
    encoder.pad = encoder.pad if pad is None else pad


def _layout(path: Path) -> Layout:
    names = shapes(path)
    detection = detect(names)
    if detection is None or not detection.rule.text:
        raise unusable(path, detection)
    kind = detection.rule.text
    unet, vae = below(names, ldm_names.UNET), below(names, ldm_names.VAE)
    for what, prefix in ((unet, ldm_names.UNET), (vae, ldm_names.VAE)):
        if not what:
            raise WeightsError("{path} has no {prefix}*", path=path, prefix=prefix)
    try:
        parts = _components(kind, names, detection, unet, vae)
    except (KeyError, ValueError, IndexError) as error:
        raise WeightsError("{file} is incomplete: it has no {error}; get it again", file=path, error=error) from None
    encoders = [name for name in TEXT_ENCODER_NAMES if name in parts]
    words = tuple(_words(path, kind, index) for index in range(len(encoders)))
    pipeline = PIPELINES.get(kind, "StableDiffusionPipeline")
    scheduler = _scheduler(kind, _prediction(path, names, detection), RESCALED in names, path)
    if set(MOMENTS) <= set(names) and kind == "xl":
        parts["vae"] = replace(parts["vae"], config={**parts["vae"].config, **_moments(path)})
        scheduler = EDM
    if told := next((name for name in names if name.startswith(EDM_V)), ""):
        raise WeightsError(
            "{path} is marked {told}: its noise is EDM's and it predicts v (CosXL), which a single file does "
            "not tell in full; name its folder in diffusers' layout, with an EDMEulerScheduler",
            path=path,
            told=told,
        )
    return Layout(path, detection, names, pipeline, parts, words, scheduler)


def _components(kind: str, names: Shapes, found: Detection, unet: Shapes, vae: Shapes) -> dict[str, Component]:
    """What is in a file, by its names and shapes. Raises KeyError, ValueError or IndexError where a tensor that tells
    something is not there.
    """
    blocks = ldm_names.Blocks.of(unet)
    return {
        "unet": Component(
            ldm_names.UNET,
            "diffusers",
            "UNet2DConditionModel",
            unet_config(unet, blocks),
            mapped(ldm_names.unet_names(blocks)),
            sourced(ldm_names.unet_names(blocks)),
            UNET_KEYS,
        ),
        "vae": Component(
            ldm_names.VAE,
            "diffusers",
            "AutoencoderKL",
            vae_config(vae, kind),
            vae_convert(vae),
            sourced(ldm_names.vae_names(*ldm_names.vae_levels(vae))),
            VAE_KEYS,
        ),
        **TEXT_ENCODERS[kind](names, found),
    }


def _moments(path: Path) -> dict[str, Any]:
    """What a file marked as Playground 2.5 says of its latents."""
    tensors = checkpoint_io.read(path, torch.float32, lambda name: name in MOMENTS)
    moments: list[list[float]] = [tensors[name].flatten().tolist() for name in MOMENTS]
    return {"latents_mean": moments[0], "latents_std": moments[1], "scaling_factor": 0.5}


def _scheduler(kind: str, prediction: str, rescaled: bool, path: Path) -> dict[str, Any]:
    """The sampler that a file of its kind is drawn with, by the noise schedule that it was trained with."""
    settings: dict[str, Any] = {**BETAS, "prediction_type": prediction}
    if rescaled and prediction == "epsilon":
        raise WeightsError(
            "{path} is marked {rescaled} (noise alone at the last time), but not as one that predicts v; to "
            'predict noise draws nothing then: put {name} beside it with parameterization: "v"',
            path=path,
            rescaled=RESCALED,
            name=path.with_suffix(".yaml").name,
        )
    if rescaled:
        # As the paper that rescales the betas draws (arXiv:2305.08891): begun at the last time.
        settings |= {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "steps_offset": 0}
    if kind == "xl":
        # Of the three only XL's says its spacing: samplers of the others go by the default of their class.
        return {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "leading", **settings}
    return {"_class_name": "DDIMScheduler" if rescaled else "PNDMScheduler", **settings}


def _reading(layout: Layout) -> Reading:
    """What the family's reader makes of the folder that the file would be."""
    index: dict[str, Any] = {"_class_name": layout.pipeline}
    with tempfile.TemporaryDirectory(prefix="bimo-") as made:
        folder = Path(made)
        for name, part in layout.components.items():
            index[name] = [part.library, part.kind]
            _write(folder / name / "config.json", part.config)
        for (at, source), name in zip(enumerate(layout.words), WORDS, strict=False):
            settings: dict[str, Any] = {}
            if source is not None:
                shutil.copytree(source, folder / name)
                own = source / SETTINGS_FILE
                settings = read_json(own) if own.is_file() else {}
            rows, positions = _sizes(layout, at)
            limit = settings.get("model_max_length", positions)
            settings["model_max_length"] = min(int(limit), positions)
            _write(folder / name / SETTINGS_FILE, settings)
            index[name] = ["transformers", _tokenizer(layout.found.rule.text, source, rows, settings)]
        index["scheduler"] = ["diffusers", layout.scheduler["_class_name"]]
        _write(folder / "scheduler" / "scheduler_config.json", layout.scheduler)
        _write(folder / INDEX_FILE, index)
        try:
            reading = reading_of(folder)
        except BimoError as error:
            raise type(error)(Both(*(_of_file(text, folder, layout) for text in (error.zh, error.en)))) from None
    why = say(layout.found.why)
    return replace(reading, recipe=replace(reading.recipe, note=why + _left(layout)))


def _of_file(text: str, folder: Path, layout: Layout) -> str:
    """What is told of the folder that a file would be, told of the file, with the tensors that fields follow from."""
    for name, part in layout.components.items():
        if f"{folder / name}/" in text:
            for known, key in part.keys.items():
                text = re.sub(rf"\b{known}\b", f"{known} ({part.prefix}{key})", text)
    return re.sub(rf"{re.escape(str(folder))}[\w./-]*", str(layout.path), text)


def _left(layout: Layout) -> str:
    """How many entries of the file are no part of the system, and what they are."""
    prefixes = tuple(part.prefix for part in layout.components.values())
    beside = (name for name in layout.names if not name.startswith(prefixes) and name not in (*MARKS, *MOMENTS))
    kinds = Counter(name.split(".")[0] for name in beside)
    if more := 0 if mindspore.is_checkpoint(layout.path) else checkpoint_io.surplus(layout.path):
        kinds["optimizer, callbacks ..."] = more
    if not kinds:
        return ""
    listed = ", ".join(f"{kind} {count}" for kind, count in sorted(kinds.items()))
    return say("; {sum} more entries of the file are not loaded ({listed})", sum=sum(kinds.values()), listed=listed)


def _tensors(path: Path, prefix: str, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The tensors below a prefix, named without it. What a trainer kept for its loss is left in the file."""

    def keep(name: str) -> bool:
        return current_name(name).startswith(prefix) and not current_name(name).startswith(f"{ldm_names.VAE}loss.")

    read = mindspore.read if mindspore.is_checkpoint(path) else checkpoint_io.read
    return {current_name(name).removeprefix(prefix): value for name, value in read(path, dtype, keep).items()}


def _sizes(layout: Layout, index: int) -> tuple[int, int]:
    """(rows, longest text) of a text encoder. XLM-R's positions begin after the padding's; its texts were cut at 77."""
    name = TEXT_ENCODER_NAMES[index]
    config = layout.components[name].config
    return config["vocab_size"], 77 if layout.found.rule.text == "roberta" else config["max_position_embeddings"]


def _prediction(path: Path, names: Shapes, found: Detection) -> str:
    """What the UNet answers: by a mark among its names, the file's own words, a .yaml beside it; SD2 must say."""
    # Set by hand, where what a trainer says of its file is often left at its default: A1111 and ComfyUI heed it alone.
    if PREDICTS_V in names:
        return "v_prediction"
    prediction_type = weights_metadata(path).get("modelspec.prediction_type", "")
    if prediction_type:
        return "v_prediction" if prediction_type.startswith("v") else "epsilon"
    config = path.with_suffix(".yaml")
    if config.is_file():
        # Only its ASCII is read: comments are in whatever code their writer's machine had.
        match = re.search(rb"parameterization:\s*[\"']?(\w+)", config.read_bytes())
        return "v_prediction" if match and match[1] == b"v" else "epsilon"
    if found.system == "stable-diffusion-2":
        raise WeightsError(
            "{path} is Stable Diffusion 2, and weights do not tell whether it predicts noise or v; put "
            '{name} beside it with parameterization: "v" or "eps"',
            path=path,
            name=config.name,
        )
    return "epsilon"


def _words(path: Path, kind: str, index: int) -> Path | None:
    """The folder of a text encoder's words beside a file."""
    for name in (f"{path.stem}.words.{index}", f"words.{index}", WORDS[index]):
        folder = path.parent / name
        if any(all((folder / file).is_file() for file in files) for files, _ in TOKENIZERS[kind]):
            return folder
    return None


def _tokenizer(kind: str, folder: Path | None, rows: int, settings: Mapping[str, Any]) -> str:
    """The class of a tokenizer, by its files."""
    if kind in ("clip", "openclip", "xl"):
        tokenizer_class = str(settings.get("tokenizer_class", ""))
        if rows in WORD_PIECES or tokenizer_class.startswith("Bert"):
            return "BertTokenizer"
    for files, cls in TOKENIZERS[kind]:
        if folder is not None and all((folder / file).is_file() for file in files):
            return cls
    return TOKENIZERS[kind][-1][1]


def _wordless(layout: Layout, index: int) -> WeightsError:
    files = say(" or ").join(" + ".join(row) for row, _ in TOKENIZERS[layout.found.rule.text])
    more = ""
    if layout.found.system == "taiyi-xl":
        more = " + added_tokens.json"
    place = layout.path.parent / f"words.{index}"
    return WeightsError(
        "{path} is a single file and holds no tokenizer; put {files}{more} of the publisher's folder "
        "{words} into {place}",
        path=layout.path,
        files=files,
        more=more,
        words=WORDS[index],
        place=place,
    )


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
