"""ControlNets of transformers draw in bimo as in diffusers' own pipelines: Qwen-Image's and Z-Image's, of folders and
files, alone, in a mask and two at once.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from PIL import Image, ImageDraw
from safetensors.torch import load_file, save_file

from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.system import System
from bimo.models.adapters.attach import begin_control, control
from bimo.models.adapters.transformer_controlnets import QwenControlNet, ZImageControlNet
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.recipes.qwen_image import qwen_image
from bimo.recipes.qwen_image_edit import qwen_image_edit
from bimo.recipes.z_image import z_image
from tests.models.test_control_adapters import learns_edges
from tests.parity.test_adapters import compare, lines, loud
from tests.parity.test_image_inputs import unpasted
from tests.support.drawing import alike, draw, within_one
from tests.support.edit_checkpoints import photo
from tests.support.flow_checkpoints import opened, saved
from tests.support.tiny_systems import tiny_system

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

QWEN: dict[str, Any] = {
    "num_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "axes_dims_rope": (4, 2, 2),
}
Z_IMAGE: dict[str, Any] = {"dim": 16, "n_refiner_layers": 1, "n_heads": 2, "n_kv_heads": 2}
#: The versions of Z-Image's: looking at the picture alone, by its own layers twice, by refiners of its own.
VERSIONS: dict[str, dict[str, Any]] = {
    "1": {"control_layers_places": [0, 1], "control_in_dim": 16},
    "2.0": {
        "control_layers_places": [0, 1],
        "control_in_dim": 33,
        "control_refiner_layers_places": [0],
        "add_control_noise_refiner": "control_layers",
    },
    "2.1": {
        "control_layers_places": [0],
        "control_in_dim": 33,
        "control_refiner_layers_places": [0],
        "add_control_noise_refiner": "control_noise_refiner",
    },
}
REQUEST: dict[str, Any] = {"seed": 3, "steps": 3, "guidance": 4.0, "size": (64, 64), "text": "一只红 red 苹果"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / "saved"
            saved(made[kind], kind)
        return made[kind]

    return of


@pytest.fixture
def _by_the_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """diffusers codes a picture of Qwen-Image's by chance, with numbers that the noise then lacks."""
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, *rest, **more: self.mode())


def net(kind: str, folder: Path, **settings: Any) -> Any:
    """A ControlNet whose every number counts, saved in a folder."""
    if kind == "qwen_image":
        made: Any = loud(diffusers.QwenImageControlNetModel(**{**QWEN, **settings}), 0.5)
    else:
        made = loud(diffusers.ZImageControlNetModel(**Z_IMAGE, **settings), 0.1)
    made.save_pretrained(str(folder))
    return made


def by_diffusers(pipeline: Any, request: dict[str, Any], **more: Any) -> list[numpy.ndarray]:
    pipeline.set_progress_bar_config(disable=True)
    scale = "true_cfg_scale" if "Qwen" in type(pipeline).__name__ else "guidance_scale"
    width, height = request["size"]
    found: list[numpy.ndarray] = []
    for index in range(request.get("count", 1)):
        drawn = pipeline(
            prompt=request["text"],
            negative_prompt=request["negative"],
            width=width,
            height=height,
            num_inference_steps=request["steps"],
            generator=torch.Generator().manual_seed(request["seed"] + index),
            **{scale: request["guidance"]},
            **more,
        )
        found += [numpy.asarray(image) for image in drawn.images]
    return found


def pipeline_with(cls: Any, folder: Path, controlnet: Any) -> Any:
    return cls(**opened(folder).components, controlnet=controlnet)


def told(request: dict[str, Any], weight: float = 0.8) -> dict[str, Any]:
    more = {"condition_images": {"control": lines()}, "conditions": {"control": [weight]}}
    return {**request, **more}


@pytest.mark.usefixtures("_by_the_mean")
@pytest.mark.parametrize(
    "changes",
    [
        {"negative": "小桥 of a longer text"},
        {"negative": ""},
        {"negative": "x", "count": 2},
        {"negative": "x", "size": (96, 64)},
        {"negative": "x", "guidance": 1.0},
    ],
)
def test_qwen_image_along_a_picture(folders: Callable[[str], Path], tmp_path: Path, changes: dict[str, Any]) -> None:
    """What the network says of the prompt is added in both branches of guidance."""
    folder, request = folders("qwen_image"), {**REQUEST, **changes}
    own = net("qwen_image", tmp_path / "net", num_layers=1)
    pipeline = pipeline_with(diffusers.QwenImageControlNetPipeline, folder, own)
    system = control(read_folder(folder), tmp_path / "net")
    expected = by_diffusers(pipeline, request, control_image=lines(), controlnet_conditioning_scale=0.8)
    compare(draw(system, told(request), batch=2), expected, draw(system, request))


@pytest.mark.usefixtures("_by_the_mean")
def test_two_of_qwen_image_at_once(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """One network for two pictures as diffusers has it, here two of it; each counts as much as it is told to."""
    folder, request = folders("qwen_image"), {**REQUEST, "negative": "小桥"}
    own = net("qwen_image", tmp_path / "net")
    several = diffusers.QwenImageMultiControlNetModel([own])
    pipeline = pipeline_with(diffusers.QwenImageControlNetPipeline, folder, several)
    system = control(control(read_folder(folder), tmp_path / "net"), tmp_path / "net", "control-2")
    other = photo(80, 80)
    expected = by_diffusers(pipeline, request, control_image=[lines(), other], controlnet_conditioning_scale=[0.8, 0.5])
    asked = told(request)
    asked["condition_images"]["control-2"] = other
    asked["conditions"] = {"control": [0.8], "control-2": [0.5]}
    compare(draw(system, asked), expected, draw(system, request))


def hole(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size)
    ImageDraw.Draw(mask).ellipse((size[0] // 4, size[1] // 4, size[0] * 3 // 4, size[1] * 3 // 4), fill=255)
    return mask


@pytest.mark.usefixtures("_by_the_mean")
def test_qwen_image_paints_in_a_mask(folders: Callable[[str], Path], tmp_path: Path) -> None:
    folder, request = folders("qwen_image"), {**REQUEST, "negative": "小桥"}
    own = net("qwen_image", tmp_path / "net", extra_condition_channels=4)
    pipeline = pipeline_with(diffusers.QwenImageControlNetInpaintPipeline, folder, own)
    system = unpasted(control(read_folder(folder), tmp_path / "net"))
    image, mask = photo(), hole((90, 70))
    expected = by_diffusers(
        pipeline, request, control_image=image, control_mask=mask, controlnet_conditioning_scale=0.8
    )
    asked = {**request, "image": image, "mask": mask, "conditions": {"control": [0.8]}}
    compare(draw(system, asked), expected, draw(system, request))
    again = draw(system, {**asked, "condition_images": {"control": image}})
    assert again[0].image.tobytes() == draw(system, asked)[0].image.tobytes()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("changes", [{}, {"size": (96, 64), "guidance": 0.0}])
def test_z_image_along_a_picture(
    folders: Callable[[str], Path], tmp_path: Path, version: str, changes: dict[str, Any]
) -> None:
    folder, request = folders("z_image"), {**REQUEST, "negative": "小桥", **changes}
    own = net("z_image", tmp_path / "net", **VERSIONS[version])
    pipeline = pipeline_with(diffusers.ZImageControlNetPipeline, folder, own)
    system = control(read_folder(folder), tmp_path / "net")
    expected = by_diffusers(pipeline, request, control_image=lines(), controlnet_conditioning_scale=0.7)
    compare(draw(system, told(request, 0.7)), expected, draw(system, request))


@pytest.mark.parametrize("version", ["2.0", "2.1"])
def test_z_image_paints_in_a_mask_along_a_picture(folders: Callable[[str], Path], tmp_path: Path, version: str) -> None:
    folder, request = folders("z_image"), {**REQUEST, "negative": "小桥"}
    own = net("z_image", tmp_path / "net", **VERSIONS[version])
    pipeline = pipeline_with(diffusers.ZImageControlNetInpaintPipeline, folder, own)
    system = unpasted(control(read_folder(folder), tmp_path / "net"))
    image, mask = photo(64, 64), hole((64, 64))
    more = {"image": image, "mask_image": mask, "control_image": lines()}
    expected = by_diffusers(pipeline, request, **more, controlnet_conditioning_scale=0.7)
    asked = {**told(request, 0.7), "image": image, "mask": mask}
    compare(draw(system, asked), expected, draw(system, request))


@pytest.mark.parametrize(
    ("kind", "settings"),
    [("qwen_image", {}), ("qwen_image", {"extra_condition_channels": 4})]
    + [("z_image", VERSIONS[version]) for version in VERSIONS],
)
def test_in_one_file_it_is_as_in_a_folder(
    folders: Callable[[str], Path], tmp_path: Path, kind: str, settings: dict[str, Any]
) -> None:
    """Which it is is told by names and shapes; of Z-Image's the places are those its authors have."""
    folder = folders(kind)
    net(kind, tmp_path / "net", **settings)
    (file,) = (tmp_path / "net").glob("*.safetensors")
    shutil.copy(file, tmp_path / "one.safetensors")
    asked = {**told(REQUEST), "image": photo(), "mask": hole((90, 70))}
    one, other = (control(read_folder(folder), tmp_path / name) for name in ("net", "one.safetensors"))
    assert one.recipe.levels[0].denoiser == other.recipe.levels[0].denoiser
    alike(one, other, asked)


def test_refiners_that_say_nothing_are_left(folders: Callable[[str], Path], tmp_path: Path) -> None:
    """Version 2.0 was published with them, and is drawn by its layers."""
    net("z_image", tmp_path / "net", **VERSIONS["2.1"])
    (file,) = (tmp_path / "net").glob("*.safetensors")
    state = load_file(file)
    for name in ("weight", "bias"):
        state[f"control_noise_refiner.0.before_proj.{name}"].zero_()
    save_file(state, tmp_path / "one.safetensors")
    system = control(read_folder(folders("z_image")), tmp_path / "one.safetensors")
    adapter: Any = system.recipe.levels[0].denoiser
    assert adapter.adapter.refiner == "control_layers"
    assert not [name for name in system.state_dict() if "control_noise_refiner" in name]


@pytest.mark.parametrize("kind", ["qwen_image", "z_image"])
def test_saved_it_reads_back_and_holds_no_layer_twice(
    folders: Callable[[str], Path], tmp_path: Path, kind: str
) -> None:
    settings = {} if kind == "qwen_image" else VERSIONS["2.1"]
    net(kind, tmp_path / "net", **settings)
    system = control(read_folder(folders(kind)), tmp_path / "net")
    assert not [name for name in system.state_dict() if ".adapter." in name and "embedder.mlp" in name and "z_" in kind]
    system.save(tmp_path / "saved")
    again = System.read(tmp_path / "saved")
    assert again.recipe == system.recipe
    alike(system, again, told(REQUEST))
    within_one(draw(again, REQUEST)[0].image, draw(read_folder(folders(kind)), REQUEST)[0].image)


def test_each_is_for_its_own_transformer(folders: Callable[[str], Path], tmp_path: Path) -> None:
    net("qwen_image", tmp_path / "qwen")
    net("z_image", tmp_path / "z", **VERSIONS["1"])
    for name, kind in (("qwen", "z_image"), ("z", "qwen_image")):
        (file,) = (tmp_path / name).glob("*.safetensors")
        for place in (tmp_path / name, file):
            with pytest.raises(RecipeError, match="cannot stand beside"):
                control(read_folder(folders(kind)), place)
    net("qwen_image", tmp_path / "wide", joint_attention_dim=24)
    (file,) = (tmp_path / "wide").glob("*.safetensors")
    with pytest.raises(WeightsError, match="txt_norm 24≠16"):
        control(read_folder(folders("qwen_image")), file)
    with pytest.raises(WeightsError, match="joint_attention_dim 24≠16"):
        control(read_folder(folders("qwen_image")), tmp_path / "wide")


def test_a_new_one_of_qwen_image_begins_silent_and_learns(folders: Callable[[str], Path]) -> None:
    system = begin_control(read_folder(folders("qwen_image")))
    plain = draw(read_folder(folders("qwen_image")), REQUEST)[0].image.tobytes()
    assert draw(system, told(REQUEST))[0].image.tobytes() == plain
    learns_edges(system)


def test_beside_an_edited_picture(tmp_path: Path) -> None:
    """Tokens of reference pictures are left alone by what is said of the picture that is drawn."""
    torch.manual_seed(0)
    system = tiny_system(qwen_image_edit, tmp_path)
    request = {**REQUEST, "image": photo()}
    controlled = begin_control(system)
    before = draw(controlled, told(request))[0].image.tobytes()
    assert before == draw(system, request)[0].image.tobytes()
    loud(controlled.get_submodule("image.denoiser.adapter"), 0.3)
    assert draw(controlled, told(request))[0].image.tobytes() != before


def test_full_size() -> None:
    """As many parameters as diffusers' classes have at the published sizes."""
    with torch.device("meta"):
        qwen: Any = QwenControlNet(qwen=qwen_image.levels[0].denoiser).build()  # type: ignore[arg-type]
        theirs = diffusers.QwenImageControlNetModel(num_layers=5)
        assert sum(p.numel() for p in qwen.parameters()) == sum(p.numel() for p in theirs.parameters())
        z: Any = ZImageControlNet(z_image=z_image.levels[0].denoiser).build()  # type: ignore[arg-type]
        own = diffusers.ZImageControlNetModel(control_layers_places=[0, 5, 10, 15, 20, 25], control_in_dim=16)
        assert sum(p.numel() for p in z.parameters()) == sum(p.numel() for p in own.parameters())
