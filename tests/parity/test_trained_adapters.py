"""What a LoRA stage writes is drawn by diffusers as by bimo, for every family; LyCORIS' kinds by peft."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy
import pytest
import torch
from peft import LoHaConfig, LoKrConfig, LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file

from bimo.core.errors import RecipeError
from bimo.diffusion.system import System
from bimo.models.adapters.attach import adapt
from bimo.models.adapters.lora import injected
from bimo.models.adapters.lora_names import root_of
from bimo.models.layouts.diffusers_folder import read_folder
from bimo.training.adapters.lora_stage import Lora
from tests.parity.test_chinese_text_encoders import by_diffusers as chinese_by_diffusers
from tests.parity.test_flow import by_diffusers as flow_by_diffusers
from tests.support import edit_checkpoints, flow_checkpoints, kolors_checkpoints, omni_checkpoints
from tests.support.chinese_checkpoints import ROWS, published
from tests.support.drawing import draw
from tests.support.edit_pipelines import by_diffusers as pictured_by_diffusers
from tests.support.families import FAMILIES
from tests.support.flow_checkpoints import opened

pytestmark = pytest.mark.slow

REQUEST: dict[str, Any] = {
    "seed": 3,
    "steps": 2,
    "guidance": 3.0,
    "size": (64, 64),
    "text": "a red 苹果",
    "negative": "",
}
#: What opens diffusers' pipeline of a folder, where its own loader lacks what it needs.
GIVEN_PICTURES = {
    "z_image_omni": omni_checkpoints.opened,
    "qwen_image_21": edit_checkpoints.opened_21,
    "glm_image": flow_checkpoints.opened,
}
FLOWS = ("z_image", "qwen_image", "longcat_image", "cogview4", "lumina", "ovis_image", "ernie_image", "hunyuan_image")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in made:
            made[family] = tmp_path_factory.mktemp("family") / "saved"
            if family in FAMILIES:
                FAMILIES[family][1](made[family])
            else:
                flow_checkpoints.saved(made[family], family)
        return made[family]

    return folder


def learnt(system: System, path: Path, **fields: Any) -> Path:
    """A stage's adapter with numbers in the place of what it would have learnt, as the stage leaves it."""
    at = root_of(system)
    layers = [name for name, m in system.get_submodule(at).named_modules() if isinstance(m, torch.nn.Linear)]
    ends = [end for end in ("to_q", "to_v", "to_out.0") if any(name.endswith(end) for name in layers)]
    adapter = Lora(
        **{"targets": tuple(f"{at}.*{end}" for end in ends), "rank": 2, "alpha": 3.0, "merge": False, **fields}
    )
    adapter.put(system)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for low in injected(system).values():
            for parameter in low.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.3)
    file = adapter.write(system, path, adapter.learnt(system))
    adapter.leave(system)
    return file


def drawn(pipeline: Any, family: str) -> numpy.ndarray:
    if family in GIVEN_PICTURES:
        return pictured_by_diffusers(pipeline, REQUEST)[0]
    if family in FLOWS:
        return flow_by_diffusers(pipeline, family, REQUEST)[0]
    own = {"use_resolution_binning": False} if family == "hunyuan" else {}
    generator = torch.Generator().manual_seed(REQUEST["seed"])
    made = pipeline(
        REQUEST["text"],
        negative_prompt="",
        height=64,
        width=64,
        num_inference_steps=REQUEST["steps"],
        guidance_scale=REQUEST["guidance"],
        generator=generator,
        **own,
    )
    return numpy.asarray(made.images[0])


def same(folder: Path, file: Path, expected: numpy.ndarray) -> None:
    system = read_folder(folder)
    plain = numpy.asarray(draw(system, REQUEST)[0].image).astype(int)
    adapt(system, file)
    found = numpy.asarray(draw(system, REQUEST)[0].image).astype(int)
    assert numpy.abs(found - expected).max() <= 1
    assert numpy.abs(found - plain).max() > 8  # it does something


def put_into(model: Any, config: Any, state: dict[str, torch.Tensor]) -> None:
    """Numbers of an adapter into a model, by peft alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        inject_adapter_in_model(config, model)
        found = set_peft_model_state_dict(model, state)
    assert not found.unexpected_keys


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["stable-diffusion", "taiyi", "xl", "hunyuan", *FLOWS, *GIVEN_PICTURES])
def test_a_lora_is_drawn_by_diffusers(folders: Any, tmp_path: Path, family: str) -> None:
    folder = folders(family)
    file = learnt(read_folder(folder), tmp_path / "lora-1")
    pipeline = GIVEN_PICTURES.get(family, opened)(folder)
    if isinstance(pipeline, diffusers.loaders.lora_base.LoraBaseMixin):
        pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    else:  # a pipeline that reads none: its transformer by peft
        state = {name.removeprefix("transformer."): value for name, value in load_file(file).items()}
        layers = sorted({name.partition(".lora_")[0] for name in state})
        put_into(pipeline.transformer, LoraConfig(r=2, lora_alpha=2, target_modules=layers), state)
    same(folder, file, drawn(pipeline, family))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("row", ROWS)
def test_a_lora_of_a_chinese_relative_is_drawn_by_diffusers(tmp_path: Path, row: str) -> None:
    """Text encoders of BERT, Chinese CLIP and XLM-R, in their publishers' layouts."""
    made = published(tmp_path / "saved", row)
    file = learnt(read_folder(made.folder), tmp_path / "lora-1")
    made.pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    same(made.folder, file, chinese_by_diffusers(made, REQUEST)[0])


@pytest.mark.filterwarnings("ignore")
def test_a_lora_of_kolors_is_drawn_by_diffusers(folders: Any, tmp_path: Path) -> None:
    folder = folders("kolors")
    file = learnt(read_folder(folder), tmp_path / "lora-1")
    with kolors_checkpoints.tokenizers_of_diffusers() as words:
        pipeline = kolors_checkpoints.opened(folder, words)
        pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
        same(folder, file, drawn(pipeline, "kolors"))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "spelling"),
    [("stable-diffusion", "kohya"), ("xl", "kohya"), ("z_image", "comfyui"), ("qwen_image", "comfyui")],
)
def test_other_spellings_are_drawn_by_diffusers(folders: Any, tmp_path: Path, family: str, spelling: str) -> None:
    """Of layers of two ranks, each with an alpha of its own."""
    folder = folders(family)
    system = read_folder(folder)
    file = learnt(system, tmp_path / "lora-1", spelling=spelling, ranks=(("*to_v", 3, 1.5),))
    ranks = {v.shape[0] for k, v in load_file(file).items() if k.endswith(("lora_down.weight", "lora_A.weight"))}
    assert ranks == {2, 3}
    pipeline = opened(folder)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    same(folder, file, drawn(pipeline, family))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("algo", ["loha", "lokr"])
def test_kinds_of_lycoris_are_pefts(folders: Any, tmp_path: Path, algo: str) -> None:
    folder = folders("stable-diffusion")
    file = learnt(read_folder(folder), tmp_path / "lora-1", algo=algo, alpha=2.0)
    pipeline = opened(folder)
    names = {name.replace(".", "_"): name for name, _ in pipeline.unet.named_modules()}
    state = {}
    for key, value in load_file(file).items():
        layer, _, role = key.removeprefix("lora_unet_").rpartition(".")
        if role != "alpha":
            state[f"{names[layer]}.{role}"] = value
    layers = sorted({name.rpartition(".")[0] for name in state})
    config: Any = LoHaConfig(r=2, alpha=2, target_modules=layers)
    if algo == "lokr":
        config = LoKrConfig(r=2, alpha=2, target_modules=layers, decompose_factor=-1)
    put_into(pipeline.unet, config, state)
    same(folder, file, drawn(pipeline, "stable-diffusion"))


@pytest.mark.filterwarnings("ignore")
def test_lokr_of_a_transformer_is_drawn_by_diffusers(folders: Any, tmp_path: Path) -> None:
    folder = folders("z_image")
    file = learnt(read_folder(folder), tmp_path / "lora-1", algo="lokr", rank=1, alpha=1.0)
    pipeline = opened(folder)
    pipeline.load_lora_weights(str(tmp_path), weight_name=file.name)
    same(folder, file, drawn(pipeline, "z_image"))


@pytest.mark.parametrize("algo", ["loha", "lokr", "oft"])
@pytest.mark.parametrize("family", ["stable-diffusion", "z_image"])
def test_what_learns_is_what_the_file_is_read_as(folders: Any, tmp_path: Path, family: str, algo: str) -> None:
    """Convolutions too: the answers of a layer while it learns are those of its weight with the file's change."""
    system = read_folder(folders(family))
    at = root_of(system)
    ends = ("*to_q", "*conv1") if family == "stable-diffusion" else ("*to_q", "*w1")
    adapter = Lora(targets=tuple(f"{at}.{end}" for end in ends), rank=2, alpha=2.0, merge=False, algo=algo)  # type: ignore[arg-type]
    names = adapter.put(system)
    assert all(system.get_parameter(name).requires_grad for name in names)
    generator = torch.Generator().manual_seed(1)
    inputs, answers = {}, {}
    with torch.no_grad():
        for name, low in injected(system).items():
            layer: Any = system.get_submodule(name)
            shape = (2, layer.in_features) if isinstance(layer, torch.nn.Linear) else (2, layer.in_channels, 5, 5)
            inputs[name] = torch.randn(shape, generator=generator)
            for parameter in low.parameters():
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
            answers[name] = layer(inputs[name])
        file = adapter.write(system, tmp_path / "lora-1", adapter.learnt(system))
        adapter.leave(system)
        adapt(system, file)
        for name, answer in answers.items():
            torch.testing.assert_close(system.get_submodule(name)(inputs[name]), answer, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("family", "fields", "message"),
    [
        ("stable-diffusion", {"spelling": "comfyui"}, "let it be 'kohya'"),
        ("z_image", {"spelling": "kohya"}, "let it be 'comfyui'"),
        ("z_image", {"ranks": (("*.to_z", 2, 1.0),)}, "matches no layer"),
        ("z_image", {"algo": "loha", "spelling": "diffusers"}, "no names for loha"),
        ("z_image", {"algo": "oft", "dora": True}, "leave one of the two out"),
        ("z_image", {"rank": 0}, "at least 1"),
    ],
)
def test_what_no_program_reads_is_refused(folders: Any, family: str, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        Lora(**{"targets": ("image.*to_q",), **fields}).put(read_folder(folders(family)))
