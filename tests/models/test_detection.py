"""What a file or folder is, by recorded names and shapes; full-size files are made of a head and nothing after it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bimo.core.errors import BimoError, WeightsError
from bimo.core.recipe import Recipe
from bimo.hub import registry
from bimo.models.layouts.detection import detect
from bimo.models.stable_diffusion.single_file import read_file, recipe_of_file
from bimo.recipes.taiyi_sd import taiyi_en, taiyi_zh
from tests.fixtures.record_names import load

Names = dict[str, tuple[int, ...]]
CLIP = "cond_stage_model.transformer."
OPEN = "cond_stage_model.model."
ALT = "cond_stage_model."


def under(prefix: str, names: Names) -> Names:
    return {prefix + name: shape for name, shape in names.items()}


def sized(names: Names, rows: int, positions: int = 77) -> Names:
    """A CLIP tower with another vocabulary and other positions."""

    def shape(name: str, old: tuple[int, ...]) -> tuple[int, ...]:
        if "token_embedding" in name:
            return rows, *old[1:]
        return (positions, *old[1:]) if "position" in name and "embedding" in name else old

    return {name: shape(name, old) for name, old in names.items()}


def whole(unet: str, *encoders: Names) -> Names:
    names = under("model.diffusion_model.", load(unet)) | under("first_stage_model.", load("vae"))
    for tower in encoders:
        names |= tower
    return names


def xl(rows: int, positions: int) -> Names:
    first = under("conditioner.embedders.0.transformer.", sized(load("clip-l"), rows, positions))
    second = sized(load("open-clip-g"), rows, positions) | {"logit_scale": ()}
    return whole("unet-xl", first, under("conditioner.embedders.1.model.", second))


def wukong() -> Names:
    """As MindSpore's file reads: OpenCLIP's names, a ViT-L's sizes, no projection."""
    names: Names = {"token_embedding.weight": (49408, 768), "positional_embedding": (77, 768)}
    shapes = {"attn.in_proj_weight": (2304, 768), "attn.in_proj_bias": (2304,), "mlp.c_fc.weight": (3072, 768)}
    for layer in range(12):
        names |= {f"transformer.resblocks.{layer}.{name}": shape for name, shape in shapes.items()}
    return under(OPEN, names)


SYSTEMS: dict[str, tuple[str, Any]] = {
    "taiyi zh": ("taiyi-sd-zh", lambda: whole("unet-sd1", under(CLIP, load("bert")))),
    "sd1, taiyi en": ("stable-diffusion", lambda: whole("unet-sd1", under(CLIP, load("clip-l")))),
    "pai": ("pai-diffusion", lambda: whole("unet-sd1", under(CLIP, sized(load("clip-l"), 21128, 32)))),
    "skypaint": ("skypaint", lambda: whole("unet-sd1", under(CLIP, sized(load("clip-l"), 105879)))),
    "m9": ("altdiffusion-m9", lambda: whole("unet-sd1", under(ALT, load("alt-m9")))),
    "m18": ("altdiffusion-m18", lambda: whole("unet-sd2", under(ALT, load("alt-m18")))),
    "sd2": ("stable-diffusion-2", lambda: whole("unet-sd2", under(OPEN, load("open-clip-h")))),
    "wukong": ("wukong-huahua", lambda: whole("unet-sd1", wukong())),
    "sdxl": ("stable-diffusion-xl", lambda: xl(49408, 77)),
    "taiyi xl": ("taiyi-xl", lambda: xl(57475, 512)),
    "lora": ("lora", lambda: {"lora_unet_down_blocks_0.lora_down.weight": (4, 320)}),
    "lora of diffusers": ("lora", lambda: {"unet.mid_block.attentions.0.to_q.lora_A.weight": (4, 320)}),
    "inversion": ("textual inversion", lambda: {"emb_params": (1, 768)}),
    "controlnet": ("controlnet", lambda: {"control_model.input_hint_block.0.weight": (16, 3, 3, 3)}),
    "vae": ("vae", lambda: load("vae")),
    "tower": ("text encoder", lambda: load("clip-l")),
    "unet in ldm's names": ("unet", lambda: under("model.diffusion_model.", load("unet-sd1"))),
    "viscpm": ("viscpm-paint", lambda: {"llm.a": (1,), "trans_block.b": (1,), "unet.c": (1,)}),
    "hunyuan": (
        "hunyuan-dit",
        lambda: {"mlp_t5.0.weight": (8192, 2048), "blocks.0.attn2.kv_proj.weight": (2816, 1024)},
    ),
}


@pytest.mark.parametrize("case", SYSTEMS)
def test_names_and_shapes_tell_the_system_and_why(case: str) -> None:
    system, names = SYSTEMS[case]
    found = detect(names())
    assert found is not None
    assert found.system == system
    assert found.why.zh != found.why.en


def test_unknown_tensors_are_no_system() -> None:
    assert detect({"layer.weight": (3, 3)}) is None


def test_clip_of_another_number_of_words_is_no_known_chinese_one() -> None:
    names = whole("unet-sd1", under(CLIP, sized(load("clip-l"), 30000)))
    found = detect(names)
    assert found is not None
    assert found.system == "stable-diffusion"


def hollow(path: Path, names: Names, told: dict[str, str] | None = None) -> Path:
    """A file of float16 with these names and shapes: its head, then nothing that takes room on a disk."""
    head: dict[str, Any] = {"__metadata__": told or {}}
    at = 0
    for name, shape in names.items():
        size = 2 * int(torch.tensor(shape).prod()) if shape else 2
        head[name] = {"dtype": "F16", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(head).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + at)
    return path


@pytest.mark.parametrize(("case", "recipe"), [("taiyi zh", taiyi_zh), ("sd1, taiyi en", taiyi_en)])
def test_a_full_size_file_is_the_recipe(
    tmp_path: Path, case: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    names = SYSTEMS[case][1]() | {"model_ema.decay": (1,)}
    found = recipe_of_file(hollow(tmp_path / "model.safetensors", names))
    assert found.text_encoders == recipe.text_encoders
    assert found.levels[0].denoiser == recipe.levels[0].denoiser
    assert found.levels[0].space == recipe.levels[0].space
    assert found.request.size == (512, 512)
    assert "model_ema 1" in found.note


def test_sd2_does_not_guess_what_it_predicts(tmp_path: Path) -> None:
    names = SYSTEMS["sd2"][1]()
    file = hollow(tmp_path / "model.safetensors", names)
    with pytest.raises(WeightsError, match=r"model\.yaml"):
        recipe_of_file(file)
    file.with_suffix(".yaml").write_text('model:\n  params:\n    parameterization: "v"\n')
    found: Any = recipe_of_file(file)
    assert found.levels[0].schedule.prediction == "v_prediction"
    tower = found.text_encoders[0]
    assert (tower.layers, tower.activation, tower.width) == (23, "gelu", 1024)
    assert found.levels[0].denoiser.heads == (5, 10, 20, 20)
    message = hollow(tmp_path / "told.safetensors", names, {"modelspec.prediction_type": "epsilon"})
    assert recipe_of_file(message).levels[0].schedule.prediction == "epsilon"  # type: ignore[attr-defined]
    file.with_suffix(".yaml").write_bytes("# 预测 v\nparameterization: 'v'\n".encode("gbk"))
    assert recipe_of_file(file).levels[0].schedule.prediction == "v_prediction"  # type: ignore[attr-defined]
    marked = hollow(tmp_path / "marked.safetensors", {**names, "v_pred": ()})
    assert recipe_of_file(marked).levels[0].schedule.prediction == "v_prediction"  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", ["sd1, taiyi en", "sd2", "sdxl"])
def test_marks_of_rescaled_betas_are_heeded(tmp_path: Path, case: str) -> None:
    names = SYSTEMS[case][1]()
    found = recipe_of_file(hollow(tmp_path / "both.safetensors", {**names, "v_pred": (), "ztsnr": ()}))
    schedule: Any = found.levels[0].schedule
    assert (schedule.prediction, schedule.zero_terminal) == ("v_prediction", True)
    assert (schedule.config["rescale_betas_zero_snr"], schedule.config["timestep_spacing"]) == (True, "trailing")
    assert schedule.signal()[-1] < 1e-6
    assert "ztsnr" not in found.note
    alone = hollow(tmp_path / "alone.safetensors", {**names, "ztsnr": ()}, {"modelspec.prediction_type": "epsilon"})
    with pytest.raises(WeightsError, match=r"alone\.safetensors is marked ztsnr"):
        recipe_of_file(alone)


def test_errors_name_the_file_and_its_key(tmp_path: Path) -> None:
    names = SYSTEMS["sd1, taiyi en"][1]()
    key = "model.diffusion_model.input_blocks.0.0.weight"
    file = hollow(tmp_path / "model.safetensors", names | {key: (320, 5, 3, 3)})
    with pytest.raises(BimoError) as caught:
        recipe_of_file(file)
    for told in (caught.value.zh, caught.value.en):
        assert f"in_channels ({key})" in told
        assert str(file) in told
        assert "config.json" not in told


@pytest.mark.parametrize(
    ("case", "message"),
    [
        ("lora", "--lora FILE"),
        ("inversion", "--embedding FILE"),
        ("vae", "autoencoder alone"),
        ("unet in ldm's names", "without a text encoder"),
        ("controlnet", "--control PICTURE=FOLDER"),
    ],
)
def test_what_is_no_model_is_told_by_its_name(tmp_path: Path, case: str, message: str) -> None:
    file = hollow(tmp_path / "model.safetensors", SYSTEMS[case][1]())
    for read in (read_file, recipe_of_file):
        with pytest.raises(WeightsError) as caught:
            read(file)
        assert message in caught.value.en
        assert SYSTEMS[case][0] in caught.value.zh


def test_unknown_names_are_reported(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.zeros(2)}, tmp_path / "odd.safetensors")
    with pytest.raises(WeightsError, match="no known system"):
        read_file(tmp_path / "odd.safetensors")


@pytest.mark.parametrize(
    ("case", "file", "place"),
    [
        ("taiyi zh", "vocab.txt", "words.0"),
        ("sd1, taiyi en", "vocab.json + merges.txt", "words.0"),
        ("m9", "sentencepiece.bpe.model", "words.0"),
        ("taiyi xl", "added_tokens.json", "words.0"),
    ],
)
def test_without_words_the_files_and_their_place_are_reported(tmp_path: Path, case: str, file: str, place: str) -> None:
    with pytest.raises(WeightsError) as caught:
        read_file(hollow(tmp_path / "model.safetensors", SYSTEMS[case][1]()))
    for text in (caught.value.zh, caught.value.en):
        assert file in text
        assert str(tmp_path / place) in text


def test_an_incomplete_model_is_reported(tmp_path: Path) -> None:
    names = {n: s for n, s in SYSTEMS["taiyi zh"][1]().items() if not n.startswith("first_stage_model.")}
    with pytest.raises(WeightsError, match=r"first_stage_model"):
        recipe_of_file(hollow(tmp_path / "model.safetensors", names))


def test_an_adapter_given_as_a_model_is_told_what_it_is(tmp_path: Path) -> None:
    file = tmp_path / "style.safetensors"
    save_file({"lora_unet_mid.lora_up.weight": torch.ones(2, 2)}, file)
    with pytest.raises(WeightsError) as raised:
        registry.load(file)
    assert raised.value.en == (
        f"{file} is not a whole model but lora (its tensors are named as a LoRA's); "
        "it goes with a model: -m MODEL --lora FILE"
    )
