"""Which device is chosen, in which numbers, and what is said of those that are not there: cards are made up."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from bimo.cli import main
from bimo.core.errors import RequestError
from bimo.core.recipe import Recipe
from bimo.engine import devices
from bimo.engine.devices import CPU, Card, cards, device_of, dtype_for, dtype_warnings, dtypes_of
from bimo.hub import registry

GIGA = 1_000_000_000


@pytest.fixture
def two_cards(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two cards of CUDA; the second has more free memory, and the first no bfloat16."""
    free = [3 * GIGA, 7 * GIGA]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: ("GTX", "RTX")[number])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda number: (free[number], 8 * GIGA))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)


def test_without_a_gpu_the_device_is_the_cpu() -> None:
    assert cards() == []
    assert device_of("auto") == device_of("cpu") == torch.device("cpu")


@pytest.mark.usefixtures("two_cards")
def test_auto_is_the_card_with_the_most_free_memory() -> None:
    assert cards()[1] == Card(torch.device("cuda", 1), "RTX", 8 * GIGA, 7 * GIGA)
    assert device_of("auto") == torch.device("cuda", 1)
    assert device_of("cuda") == device_of("cuda:0") == torch.device("cuda", 0)
    assert device_of("cpu") == torch.device("cpu")


@pytest.mark.parametrize("name", ["cuda:2", "mps", "tpu", "cuda:x", "", "CUDA"])
@pytest.mark.usefixtures("two_cards")
def test_a_device_that_is_not_there_is_refused_with_those_that_are(name: str) -> None:
    with pytest.raises(RequestError) as caught:
        device_of(name)
    assert "there is auto, cpu, cuda:0 (GTX, 8 GB), cuda:1 (RTX, 8 GB)" in caught.value.en


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *(("kolors", "fp16"), ("hunyuan-dit-1.2", "fp16"), ("taiyi-sd-zh", "fp16"), ("taiyi-xl", "fp16")),
        *(("z-image", "bf16"), ("z-image-turbo", "bf16"), ("qwen-image", "bf16"), ("cogview4", "bf16")),
    ],
)
@pytest.mark.usefixtures("two_cards")
def test_the_default_dtype_is_one_that_the_recipe_allows(name: str, expected: str) -> None:
    recipe = registry.recipe(name)
    assert dtype_for(recipe, torch.device("cuda", 1)) == expected
    assert dtype_for(recipe, torch.device("cpu")) == "fp32"
    assert dtype_warnings(recipe, expected, torch.device("cuda", 1)) == ()


def test_what_decodes_in_float16() -> None:
    """That of Stable Diffusion XL does not; HunyuanDiT's is the one that was mended."""
    levels = {name: registry.recipe(name).levels[-1] for name in ("kolors", "taiyi-xl", "hunyuan-dit-1.2", "z-image")}
    assert [name for name, level in levels.items() if "fp16" in level.space_dtypes] == ["hunyuan-dit-1.2"]


@pytest.mark.usefixtures("two_cards")
def test_a_card_without_bfloat16_draws_in_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    card = torch.device("cuda", 0)
    assert dtypes_of(card) == ("fp32", "fp16")
    assert dtype_for(registry.recipe("kolors"), card) == "fp16"
    assert dtype_for(registry.recipe("z-image"), card) == "fp32"
    with pytest.raises(RequestError, match="which cuda:0 does not work out; it has fp32, fp16"):
        dtype_for(registry.recipe("kolors"), card, "bf16")


def test_unverified_dtypes_are_warned_of() -> None:
    card = torch.device("cuda", 0)
    (warning,) = dtype_warnings(registry.recipe("z-image"), "fp16", card)
    assert "z-image is not known to stay finite in fp16; it does in bf16, fp32" in str(warning)
    assert dtype_warnings(Recipe(name="any"), "fp32", card) == ()


@pytest.mark.parametrize(("capability", "emulated"), [("AVX2", ("bf16", "fp16")), ("AVX512", ()), ("DEFAULT", ())])
def test_dtypes_without_instructions_are_warned_of(
    capability: str, emulated: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    recipe = registry.recipe("z-image")
    assert devices.emulated_dtypes(CPU) == emulated
    assert devices.emulated_dtypes(torch.device("cuda", 0)) == ()
    warnings = dtype_warnings(recipe, "bf16", CPU)
    assert [str(warning) for warning in warnings if "no instructions for bf16" in warning] == list(warnings)
    assert len(warnings) == len(emulated) // 2
    assert dtype_warnings(recipe, "fp32", CPU) == dtype_warnings(recipe, "bf16", torch.device("cuda", 0)) == ()


def test_bad_names_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(devices, "cards", list)
    monkeypatch.chdir(tmp_path)
    assert main.run(["draw", "苹果", "--device", "cuda:1", "-o", "a.png", "--language", "en"]) == 2
    said = capsys.readouterr().err
    assert "the device is 'cuda:1', which torch has not here; there is auto, cpu" in said
    assert not list(tmp_path.iterdir())
