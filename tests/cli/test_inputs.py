"""Pictures, dials and adapters on the command line: good ones are used and recorded, bad ones are named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from bimo.cli import inputs, main
from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.picture import read_metadata
from bimo.engine.adapters import lora
from bimo.recipes.qwen_image_edit import qwen_image_edit_2509
from tests.support.tiny_systems import tiny_system

Draw = Any


@pytest.fixture
def draw(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Draw:
    """Draws two steps at 64 pixels with the toy system, in a folder that has pictures; answers status and words."""
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "BIMO_LANGUAGE", "BIMO_MODEL", "BIMO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C")
    Image.new("RGB", (64, 64), "red").save("red.png")
    Image.new("RGB", (64, 64), "blue").save("blue.png")
    mask = Image.new("L", (64, 64), 0)
    mask.paste(255, (32, 0, 64, 64))
    mask.save("mask.png")
    Path("text.png").write_text("not a picture")
    os.mkfifo("pipe")

    def run(*words: str) -> tuple[int, str]:
        status = main.run(["draw", "-m", str(tiny_folder), *words])
        output = capsys.readouterr()
        return status, output.out + output.err

    return run


PLAIN = ("红苹果", "--size", "64", "--steps", "4", "--seed", "1", "-o")


def test_a_picture_to_begin_with(draw: Draw) -> None:
    assert draw(*PLAIN, "none.png")[0] == 0
    assert draw(*PLAIN, "some.png", "--image", "red.png", "--strength", "0.5")[0] == 0
    assert draw(*PLAIN, "other.png", "--image", "blue.png", "--strength", "0.5")[0] == 0
    contents = {Image.open(name).tobytes() for name in ("none.png", "some.png", "other.png")}
    assert len(contents) == 3
    assert read_metadata("some.png")["request"]["image"].startswith("sha256:")


@pytest.mark.slow
def test_pictures_are_edited_by_words(draw: Draw, tmp_path: Path) -> None:
    tiny_system(qwen_image_edit_2509, tmp_path / "words").save(tmp_path / "edit")
    own = ("--steps", "2", "--seed", "1", "-m", str(tmp_path / "edit"))
    red, blue = ("--image", "red.png"), ("--image", "blue.png")
    words = ("让图1里的人戴上图2里的帽子", *own, *red)
    status, output = draw(*words, *blue, "-o", "both.png")
    assert status == 0, output
    assert draw(*words, "-o", "one.png")[0] == 0
    assert draw(*words, "--image", "red.png", "-o", "same.png")[0] == 0
    assert len({Image.open(f"{name}.png").tobytes() for name in ("both", "one", "same")}) == 3
    request = read_metadata("both.png")["request"]
    assert (request["size"], request["strength"]) == ([64, 64], 1.0)
    assert request["image"] != request["condition_images"]["image-2"]
    status, output = draw("--again", "both.png", "-m", str(tmp_path / "edit"), *red)
    assert (status, "--image" in output) == (2, True)
    assert draw("--again", "both.png", "-m", str(tmp_path / "edit"), *red, *blue, "-o", "again.png")[0] == 0
    assert Image.open("again.png").tobytes() == Image.open("both.png").tobytes()


def test_a_second_picture_is_for_models_that_read_it(draw: Draw) -> None:
    status, output = draw(*PLAIN, "two.png", "--image", "red.png", "--image", "blue.png")
    assert (status, "image-2" in output) == (2, True)


def test_a_mask_keeps_what_is_black(draw: Draw) -> None:
    assert draw(*PLAIN, "half.png", "--image", "red.png", "--mask", "mask.png")[0] == 0
    with Image.open("half.png") as half:
        assert half.crop((0, 0, 32, 64)).getcolors() == [(32 * 64, (255, 0, 0))]
        assert half.crop((32, 0, 64, 64)).getcolors() != [(32 * 64, (255, 0, 0))]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_a_mask_keeps_what_is_transparent(draw: Draw, mode: str) -> None:
    """A white square on a layer on which nothing else was drawn, whatever colour lies below its transparency."""
    layer = Image.new("RGBA", (64, 64), (255, 255, 255, 0))
    layer.paste((255, 255, 255, 255), (32, 0, 64, 64))
    if mode == "P":
        indexed = Image.new("P", (64, 64), 0)
        indexed.putpalette([255, 255, 255, 254, 254, 254])
        indexed.paste(1, (32, 0, 64, 64))
        indexed.save("layer.png", transparency=0)
    else:
        layer.convert(mode).save("layer.png")
    assert draw(*PLAIN, "half.png", "--image", "red.png", "--mask", "mask.png")[0] == 0
    assert draw(*PLAIN, "layered.png", "--image", "red.png", "--mask", "layer.png")[0] == 0
    with Image.open("half.png") as half, Image.open("layered.png") as layered:
        assert layered.tobytes() == half.tobytes()
        assert layered.crop((0, 0, 32, 64)).getcolors() == [(32 * 64, (255, 0, 0))]


def test_sampler_settings_are_recorded_and_drawn_again(draw: Draw) -> None:
    words = ("--schedule", "Karras", "--guidance-rescale", "0.5", "--negative", "", "--sampler", "Euler")
    assert draw(*PLAIN, "some.png", *words)[0] == 0
    assert draw(*PLAIN, "plain.png")[0] == 0
    record = read_metadata("some.png")["request"]
    assert (record["schedule"], record["guidance_rescale"], record["sampler"]) == ("karras", 0.5, "euler")
    assert Image.open("some.png").tobytes() != Image.open("plain.png").tobytes()
    assert json.loads(draw("--again", "some.png", "-o", "again.png", "--json")[1].splitlines()[0])["identical"] is True


def test_ambiguous_prompt_weights_are_reported(draw: Draw) -> None:
    status, said = draw("苹果(甲队:3)", "--size", "64", "--steps", "1", "--seed", "1", "-o", "a.png")
    assert (status, "3 is no weight from 0 to 2" in said) == (0, True)


def test_again_needs_the_input_image_and_verifies_it(draw: Draw) -> None:
    assert draw(*PLAIN, "some.png", "--image", "red.png", "--strength", "0.5")[0] == 0
    status, said = draw("--again", "some.png", "-o", "again.png")
    assert (status, "--image" in said, "sha256:" in said) == (RequestError.exit_status, True, True)
    status, said = draw("--again", "some.png", "-o", "again.png", "--image", "blue.png")
    assert (status, "is not the picture" in said) == (RequestError.exit_status, True)
    status, said = draw("--again", "some.png", "-o", "again.png", "--image", "red.png", "--json")
    assert json.loads(said)["identical"] is True
    assert Path("again.png").read_bytes() == Path("some.png").read_bytes()
    assert draw(*PLAIN, "none.png")[0] == 0
    status, said = draw("--again", "none.png", "-o", "again.png", "--image", "red.png")
    assert (status, "leave it out" in said) == (RequestError.exit_status, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--image", "nowhere.png"), "cannot read nowhere.png"),
        (("--image", "."), ". is a folder; expected a file"),
        (("--image", "/dev/zero"), "is a device; expected a file"),
        (("--image", "red.png", "--mask", "pipe"), "pipe is a pipe; expected a file"),
        (("--condition", "sketch=/dev/zero"), "/dev/zero is a device"),
        (("--lora", "/dev/zero"), "/dev/zero is a device"),
        (("--lora", "pipe:0.5"), "pipe is a pipe"),
        (("--embedding", "/dev/zero"), "/dev/zero is a device"),
        (("--control", "pipe=."), "pipe is a pipe"),
        (("--control", "red.png=/dev/zero"), "/dev/zero is a device"),
        (("--size", "8x8"), "a side of 8 is not a multiple of"),
        (("--sampler", "DPM++ 2M"), "does not go with the noise of this system"),
        (("--schedule", "karas"), "did you mean karras"),
        (("--spacing", "trail"), "did you mean trailing"),
        (("--clip-skip", "2"), "is no CLIP"),
        (("--eta", "0.5"), "has no eta"),
        (("--guidance-rescale", "2"), "expected a number from 0 to 1"),
        (("--seed", str(2**63 - 1), "-n", "2"), f"let seed be at most {2**63 - 2}"),
        (("--image", "text.png"), "text.png cannot be used as a picture"),
        (("--mask", "mask.png"), "--mask without --image"),
        (("--image", "red.png", "--mask", "text.png"), "text.png cannot be used"),
        (("--strength", "0.5"), "strength without an image"),
        (("--image", "red.png", "--strength", "1.5"), "strength is 1.5"),
        (("--condition", "sketch.png"), "expected name=value"),
        (("--condition", "a=red.png", "--condition", "a=red.png"), "each name once"),
        (("--condition", "sketch=red.png"), "reads no picture 'sketch'"),
        (("--guidance-weight", "style"), "expected name=value"),
        (("--guidance-weight", "style=much"), "expected a number"),
        (("--guidance-weight", "style=4"), "no guidance weight 'style'"),
        (("--lora", "nowhere.safetensors:0.5"), "there is no nowhere.safetensors"),
        (("--lora", "text.png"), "text.png"),
        (("--dtype", "fp8"), "--dtype"),
        (("--control", "red.png"), "expected PICTURE=NETWORK"),
        (("--control", "red.png=nowhere"), "expected PICTURE=NETWORK"),
        (("--control", "red.png=nowhere:0.5"), "expected PICTURE=NETWORK"),
        (("--ip-adapter", "red.png"), "expected FILE=PICTURE"),
        (("--ip-adapter", "nowhere.bin=red.png"), "expected FILE=PICTURE"),
        (("--ip-adapter", "text.png=nowhere.png"), "cannot read nowhere.png"),
        (("--ip-adapter", "text.png=red.png", "--image-encoder", "nowhere"), "--image-encoder is nowhere"),
        (("--image-encoder", "."), "together with --ip-adapter"),
        (("--control", "text.png=."), "text.png cannot be used"),
        (("--control", "red.png=."), "no weights in"),
        (("--best", "."), "-n 4"),
        (("--best", "nowhere", "-n", "2"), "there is no folder nowhere"),
        (("--again", "red.png", "--strength", "0.5"), "give no prompt and no settings"),
    ],
)
def test_invalid_inputs_are_refused(draw: Draw, words: tuple[str, ...], said: str) -> None:
    before = sorted(Path().iterdir())
    status, output = draw(*PLAIN, "out.png", *words)
    assert said in output
    assert 0 < status < main.BUG
    assert len(output.strip().splitlines()) == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize(("file", "kind"), [("/dev/zero", "a device"), ("pipe", "a pipe"), (".", "a folder")])
def test_a_record_is_read_from_a_file(draw: Draw, file: str, kind: str) -> None:
    status, said = draw("--again", file)
    assert (status, f"{file} is {kind}; expected a file" in said) == (RequestError.exit_status, True)


def test_a_picture_too_large_is_refused_before_it_is_decoded(
    draw: Draw, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Image.new("1", (9_000, 9_000)).save("wide.png")
    assert "9000x9000 pixels" in draw(*PLAIN, "out.png", "--image", "wide.png")[1]
    monkeypatch.setattr(inputs, "MAXIMUM_PICTURE_BYTES", 10)
    assert "at most" in draw(*PLAIN, "out.png", "--image", "red.png")[1]


def test_a_lora_with_its_weight(tmp_path: Path) -> None:
    file = tmp_path / "ink.safetensors"
    odd = tmp_path / "a:1.5"
    for path in (file, odd):
        path.write_bytes(b"")
    assert lora(str(file)) == (file, LoraWeight(1.0))
    assert lora(f"{file}:0.8") == (file, LoraWeight(0.8))
    assert lora(f"{file}:.5@0.2-1") == (file, LoraWeight(0.5, 0.2, 1.0))
    assert lora(f"{file}:-1") == (file, LoraWeight(-1.0))
    assert lora(str(odd)) == (odd, LoraWeight(1.0))


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a toy Stable Diffusion as diffusers writes it, a ControlNet and a LoRA that fit it, and one that
    fits nothing."""
    import diffusers
    import torch
    from safetensors.torch import save_file

    from tests.support.tiny_checkpoints import checkpoint

    place = tmp_path_factory.mktemp("painter")
    schedule = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    checkpoint(place / "sd", "clip", schedule)
    torch.manual_seed(2)
    net = diffusers.ControlNetModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        cross_attention_dim=16,
        attention_head_dim=2,
        norm_num_groups=4,
        conditioning_embedding_out_channels=(4, 4, 4, 4),
    )
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(torch.randn(parameter.shape) * 0.2)
    net.save_pretrained(str(place / "net"))
    name = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    for file, layer in (("ink", name), ("other", name.replace("down_blocks.0", "down_blocks.7"))):
        halves = {f"unet.{layer}.lora_A.weight": torch.randn(2, 8), f"unet.{layer}.lora_B.weight": torch.randn(8, 2)}
        save_file(halves, str(place / f"{file}.safetensors"))
    return place


SMALL = ("a red cat", "--size", "64", "--steps", "2", "--seed", "1")


@pytest.mark.slow
def test_adapters_end_to_end(draw: Draw, painter: Path) -> None:
    def pixels(name: str, *words: str) -> bytes:
        # The last -m counts: the fixture names the toy system first.
        status, output = draw("-m", str(painter / "sd"), *SMALL, "-o", name, *words)
        assert status == 0, output
        with Image.open(name) as image:
            return image.tobytes()

    ink, net = painter / "ink.safetensors", painter / "net"
    Image.linear_gradient("L").resize((64, 64)).save("grey.png")
    plain = pixels("plain.png")
    assert pixels("none.png", "--lora", f"{ink}:0") == plain
    weak, full = pixels("weak.png", "--lora", f"{ink}:0.8"), pixels("full.png", "--lora", str(ink))
    assert len({plain, weak, full}) == 3
    along, other = (pixels(f"along-{name}", "--control", f"{name}={net}") for name in ("grey.png", "red.png"))
    both = pixels("both.png", "--control", f"grey.png={net}", "--lora", f"{ink}:0.8")
    assert len({plain, along, other, both}) == 4
    assert list(read_metadata("both.png")["request"]["condition_images"]) == ["control"]
    again = ("--again", "both.png", "-m", str(painter / "sd"), "-o", "same.png", "--json")
    output = draw(*again, "--control", f"grey.png={net}", "--lora", f"{ink}:0.8")[1]
    assert json.loads(output.splitlines()[0])["identical"] is True
    output = draw(*again, "--control", f"red.png={net}", "--lora", f"{ink}:0.8")[1]
    assert "is not the picture" in output


@pytest.mark.slow
def test_ip_adapters_end_to_end(draw: Draw, painter: Path, tmp_path: Path) -> None:
    """Two of them and a ControlNet with weights of their own; the record says which, and is drawn again."""
    import torch

    from tests.parity.test_adapters import image_tower, ip_adapter
    from tests.support.tiny_checkpoints import read_by_diffusers

    place = tmp_path / "ip=a:0.5"
    image_tower(place / "models" / "image_encoder")
    unet = read_by_diffusers(painter / "sd").unet
    for name, plus in (("plain", False), ("plus", True)):
        torch.save(ip_adapter(unet, plus), place / "models" / f"{name}.bin")
    plain, plus, net = place / "models" / "plain.bin", place / "models" / "plus.bin", painter / "net"
    Image.linear_gradient("L").resize((64, 64)).save("grey.png")

    def pixels(name: str, *words: str) -> bytes:
        status, output = draw("-m", str(painter / "sd"), *SMALL, "-o", name, *words)
        assert status == 0, output
        with Image.open(name) as image:
            return image.tobytes()

    without = pixels("plain.png")
    assert pixels("none.png", "--ip-adapter", f"{plain}=red.png:0") == without
    every = (
        "--ip-adapter",
        f"{plain}=red.png:0.6",
        "--ip-adapter",
        f"{plus}=blue.png",
        "--control",
        f"grey.png={net}:0.5@0-0.5",
    )
    drawn = [
        pixels("one.png", "--ip-adapter", f"{plain}=red.png"),
        pixels("weak.png", "--ip-adapter", f"{plain}=red.png:0.6"),
        pixels("other.png", "--ip-adapter", f"{plain}=blue.png"),
        pixels("all.png", *every),
    ]
    assert len({without, *drawn}) == 5
    request = read_metadata("all.png")["request"]
    assert sorted(request["condition_images"]) == ["control", "prompt", "prompt-2"]
    assert request["conditions"] == {"control": [0.5, 0.0, 0.5], "prompt": [0.6]}
    again = ("--again", "all.png", "-m", str(painter / "sd"), "-o", "same.png", "--json")
    assert json.loads(draw(*again, *every)[1].splitlines()[0])["identical"] is True
    bare = tuple(word.removesuffix(":0.6").removesuffix(":0.5@0-0.5") for word in every)
    assert json.loads(draw(*again, *bare)[1].splitlines()[0])["identical"] is True
    assert "recorded is 0.6" in draw(*again, "--ip-adapter", f"{plain}=red.png:0.7", *every[2:])[1]
    assert "--ip-adapter NETWORK=PICTURE" in draw(*again, *every[4:])[1]
    (place / "models" / "image_encoder").rename(place / "tower")
    status, output = draw("-m", str(painter / "sd"), *SMALL, "-o", "out.png", "--ip-adapter", f"{plain}=red.png")
    assert 0 < status < main.BUG
    assert "--image-encoder" in output
    assert "projection_dim 12" in output
    assert pixels("named.png", "--ip-adapter", f"{plain}=red.png", "--image-encoder", str(place / "tower")) == drawn[0]


def test_adapters_that_do_not_fit_are_named(draw: Draw, painter: Path) -> None:
    ink, other, net = painter / "ink.safetensors", painter / "other.safetensors", painter / "net"
    before = sorted(Path().iterdir())
    for model, words, said in (
        ("sd", ("--lora", f"{other}:0.8"), "down_blocks"),
        ("sd", ("--lora", str(painter)), str(painter)),
        ("sd", ("--control", f"red.png={painter}"), "no weights in"),
        ("sd", ("--control", f"nowhere.png={net}"), "cannot read nowhere.png"),
        ("", ("--lora", str(ink)), "ink.safetensors"),
        ("", ("--control", f"red.png={net}"), "net"),
    ):
        which = ("-m", str(painter / model)) if model else ()
        status, output = draw(*which, *SMALL, "-o", "out.png", *words)
        assert 0 < status < main.BUG, output
        assert said in output
        assert len(output.strip().splitlines()) == 1
    assert sorted(Path().iterdir()) == before


@pytest.mark.parametrize("words", ["--offload parts", "--dtype bf16", "--dtype fp16 --offload parts"])
def test_weights_in_other_dtypes_draw(draw: Draw, words: str) -> None:
    assert draw(*PLAIN, "plain.png", "-n", "2")[0] == 0
    assert draw(*PLAIN, "kept.png", "-n", "2", *words.split())[0] == 0
    for one, other in (("plain.png", "kept.png"), ("plain-2.png", "kept-2.png")):
        same = Path(one).read_bytes() == Path(other).read_bytes()
        assert same == (words == "--offload parts")


def test_the_best_of_several_is_kept(draw: Draw, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from bimo.hub import registry
    from bimo.models.clip import scoring

    real, real_recipe = registry.load, registry.recipe
    eye = SimpleNamespace(name="eye", vision=None)

    def third(system: object, texts: Any, images: Any) -> Any:
        """Likes the third picture best."""
        assert system == "the eye"
        assert list(texts) == ["红苹果"]
        return torch.tensor([[0.1, 0.2, 0.9][: len(images)]])

    monkeypatch.setattr(registry, "load", lambda name, **more: "the eye" if str(name) == "." else real(name, **more))
    monkeypatch.setattr(registry, "recipe", lambda name: eye if str(name) == "." else real_recipe(name))
    monkeypatch.setattr(scoring, "similarity", third)
    assert "eye, which scores no pictures" in draw(*PLAIN, "best.png", "-n", "3", "--best", ".")[1]
    eye.vision = "an encoder"
    status, said = draw(*PLAIN, "best.png", "-n", "3", "--best", ".", "--json")
    assert status == 0
    assert json.loads(said)["seeds"] == [3]
    assert draw(*PLAIN[:-3], "--seed", "3", "-o", "alone.png")[0] == 0
    assert Path("best.png").read_bytes() == Path("alone.png").read_bytes()
    assert not Path("best-2.png").exists()
