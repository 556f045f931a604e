"""Records of AUTOMATIC1111, ComfyUI and Fooocus as they write them: carried where they mean something, else named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from bimo.cli import main
from bimo.core.errors import RequestError
from bimo.core.picture import read_metadata
from bimo.serve.foreign import Foreign, foreign
from bimo.serve.infotext import request_of

A1111 = (
    "a red cat, (masterpiece)\nNegative prompt: blurry\nSteps: 3, Sampler: Euler, Schedule type: Automatic, "
    "CFG scale: 7, Seed: 42, Size: 64x64, Model hash: abc, Model: v1-5, ENSD: 31337, Hires upscale: 2, "
    "Hires upscaler: 4x-UltraSharp, Version: v1.10.1"
)
COMFY = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": 5,
            "steps": 4,
            "cfg": 6.5,
            "sampler_name": "dpmpp_2m",
            "scheduler": "karras",
            "denoise": 1.0,
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
            "latent_image": ["5", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 128, "batch_size": 1}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "一只猫", "clip": ["10", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry", "clip": ["10", 1]}},
    "8": {"class_type": "VAEDecode", "inputs": {"samples": ["3", 0], "vae": ["4", 2]}},
    "10": {"class_type": "LoraLoader", "inputs": {"lora_name": "x", "model": ["4", 0], "clip": ["4", 1]}},
}
FOOOCUS = {
    "prompt": "a cat",
    "negative_prompt": "",
    "styles": "['Fooocus V2']",
    "performance": "Speed",
    "resolution": "(64, 96)",
    "guidance_scale": 4.0,
    "base_model": "juggernautXL",
    "sampler": "dpmpp_2m_sde_gpu",
    "scheduler": "karras",
    "seed": "77",
    "steps": 30,
}


def saved(file: Path, **texts: str) -> Path:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    Image.new("RGB", (8, 8)).save(file, pnginfo=info)
    return file


def read(file: Path) -> Foreign:
    found = foreign(file)
    assert found is not None
    return found


def test_automatic1111(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.png", parameters=A1111))
    assert found.fields["text"] == "a red cat, (masterpiece)"
    wanted: dict[str, Any] = {"negative": "blurry", "steps": 3, "guidance": 7.0, "seed": 42, "size": (64, 64)}
    wanted["hires"] = 2.0
    assert found.fields.items() >= wanted.items()
    assert found.model == "v1-5"
    left = " ".join(found.ignored)
    assert all(said in left for said in ("ENSD", "Hires upscaler: 4x-UltraSharp", "(masterpiece)"))


@pytest.mark.parametrize("order", ["utf-16-be", "utf-16-le"])
def test_a_jpeg_has_it_in_exif(tmp_path: Path, order: str) -> None:
    image = Image.new("RGB", (8, 8))
    exif = image.getexif()
    exif.get_ifd(0x8769)[0x9286] = b"UNICODE\0" + "一只猫\nSteps: 3, Seed: 1, Size: 64x64".encode(order)
    image.save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").fields["text"] == "一只猫"


def test_comfyui(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.png", prompt=json.dumps(COMFY), workflow="{}"))
    assert dict(found.fields) == {
        "seed": 5,
        "steps": 4,
        "guidance": 6.5,
        "schedule": "karras",
        "sampler": "DPM++ 2M",
        "text": "一只猫",
        "negative": "blurry",
        "size": (64, 128),
    }
    assert (found.model, found.ignored) == ("sd15.safetensors", ("LoraLoader",))


def test_fooocus(tmp_path: Path) -> None:
    found = read(saved(tmp_path / "a.png", parameters=json.dumps(FOOOCUS), fooocus_scheme="fooocus"))
    assert (found.program, found.model) == ("Fooocus", "juggernautXL")
    assert found.fields["size"] == (64, 96)
    assert (found.fields["seed"], found.fields["sampler"]) == (77, "DPM++ 2M SDE")
    assert len(found.ignored) == 2


@pytest.mark.parametrize("text", ["", "{}", "[1]", "[" * 100_000, "null", '{"prompt": ""}'])
def test_a_record_without_a_prompt_is_said(tmp_path: Path, text: str) -> None:
    file = saved(tmp_path / "a.png", prompt=text)
    assert foreign(file) is None
    if text.startswith("{"):
        with pytest.raises(RequestError, match=r"prompt|提示词"):
            foreign(saved(tmp_path / "b.png", parameters=text if len(text) > 2 else "Steps: 1, Seed: 1"))


def test_foreign_settings_are_drawn_and_unsupported_ones_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    theirs = saved(tmp_path / "theirs.png", parameters=A1111.replace("Size: 64x64", "Size: 61x64"))
    ours = tmp_path / "ours.png"
    assert main.run(["draw", "--again", str(theirs), "-o", str(ours), "--parameters"]) == 0
    output = capsys.readouterr().err
    assert "ENSD" in output
    assert "left out, size" in output
    request = read_metadata(ours)["request"]
    assert (request["text"], request["seed"], request["steps"]) == ("a red cat, (masterpiece)", 42, 3)
    with Image.open(ours) as image:
        again = request_of(image.info["parameters"])
    assert (again["text"], again["seed"], again["steps"]) == (request["text"], 42, 3)
    # With the text of A1111 in it a picture of ours is still ours.
    assert foreign(ours) is None
