"""One tiny checkpoint of every family that is read from diffusers' layout, saved by the libraries' own classes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

from tests.parity.test_kolors import VOCAB, kolors_unet
from tests.parity.test_stable_diffusion_xl import checkpoint as xl
from tests.support import edit_checkpoints, flow_checkpoints, hunyuan_checkpoints, omni_checkpoints
from tests.support.chinese_checkpoints import published
from tests.support.kolors_checkpoints import chatglm, random
from tests.support.kolors_checkpoints import save as save_kolors
from tests.support.tiny_checkpoints import checkpoint, vae

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1}


def _stable_diffusion(folder: Path) -> None:
    checkpoint(folder, "clip", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))


def _bert(folder: Path) -> None:
    checkpoint(folder, "bert", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False))


def _kolors(folder: Path) -> None:
    torch.manual_seed(3)
    scheduler = diffusers.EulerDiscreteScheduler(**{**SCHEDULE, "beta_end": 0.014, "num_train_timesteps": 1100})
    save_kolors(folder, random(chatglm(VOCAB)), kolors_unet(), vae().eval(), scheduler)


def _hunyuan(folder: Path) -> None:
    hunyuan_checkpoints.checkpoint(folder, "1.2")


def _flow(kind: str) -> Callable[[Path], None]:
    return lambda folder: flow_checkpoints.saved(folder, kind) and None


def _xl(folder: Path) -> None:
    xl(folder)


def _published(row: str) -> Callable[[Path], None]:
    return lambda folder: published(folder, row) and None


#: Family by name -> what saves one in a folder; the name of its pipeline is the key of ``pipelines.FAMILIES``.
FAMILIES: dict[str, tuple[str, Callable[[Path], None]]] = {
    "stable-diffusion": ("StableDiffusionPipeline", _stable_diffusion),
    "taiyi": ("StableDiffusionPipeline", _bert),
    "chinese-clip": ("StableDiffusionPipeline", _published("damo")),
    "altdiffusion": ("AltDiffusionPipeline", _published("alt")),
    "xl": ("StableDiffusionXLPipeline", _xl),
    "kolors": ("KolorsPipeline", _kolors),
    "hunyuan": ("HunyuanDiTPipeline", _hunyuan),
    "z_image": ("ZImagePipeline", _flow("z_image")),
    "z_image_omni": ("ZImageOmniPipeline", lambda folder: omni_checkpoints.saved(folder) and None),
    "qwen_image": ("QwenImagePipeline", _flow("qwen_image")),
    "qwen_image_edit": ("QwenImageEditPipeline", lambda folder: edit_checkpoints.saved(folder, "edit") and None),
    "qwen_image_21": ("QwenImage21Pipeline", lambda folder: edit_checkpoints.saved_21(folder) and None),
    "longcat_image": ("LongCatImagePipeline", _flow("longcat_image")),
    "cogview4": ("CogView4Pipeline", _flow("cogview4")),
    "lumina": ("Lumina2Pipeline", _flow("lumina")),
    "ovis_image": ("OvisImagePipeline", _flow("ovis_image")),
    "ernie_image": ("ErnieImagePipeline", _flow("ernie_image")),
    "hunyuan_image": ("HunyuanImagePipeline", _flow("hunyuan_image")),
}
