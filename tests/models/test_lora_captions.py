"""What a LoRA was trained on stands in its file, as kohya-ss writes it, and is no longer said to be unknown."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bimo.diffusion.system import System
from bimo.models.adapters import attach
from bimo.models.adapters.lora import extract, inject, injected, save_lora
from bimo.models.adapters.lora_captions import KEY, about_captions, captions_of
from bimo.prompts.token_budget import Budget


def test_captions_are_written_and_read_as_kohya_does(tmp_path: Path) -> None:
    about = about_captions(["麻婆豆腐, on a plate", "麻婆豆腐", " , "])
    assert json.loads(about[KEY]) == {"captions": {"麻婆豆腐": 2, "on a plate": 1}}
    save_file({"x": torch.zeros(1)}, tmp_path / "own.safetensors", about)
    assert captions_of(tmp_path / "own.safetensors") == ("麻婆豆腐", "on a plate")
    assert about_captions([]) == {}
    theirs = {"10_cat": {"sks cat": 10, "sitting": 4}, "reg": {"cat": 5, "sitting": 1}}
    save_file({"x": torch.zeros(1)}, tmp_path / "kohya.safetensors", {KEY: json.dumps(theirs)})
    assert captions_of(tmp_path / "kohya.safetensors") == ("sks cat", "sitting", "cat")


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"a": 3}', "[" * 100_000])
def test_what_is_no_such_table_says_nothing(tmp_path: Path, text: str) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "x.safetensors", {KEY: text})
    assert captions_of(tmp_path / "x.safetensors") == ()


def test_a_budget_knows_what_captions_say() -> None:
    budget = Budget(3, 40, unknown=("麻婆豆腐",), near=("豆腐",), mostly=True, wholly=True)
    assert budget.knowing(("一盘麻婆豆腐",)).warnings() == ()
    assert budget.knowing(("一盘麻婆豆腐",)).nothing_known() == ""
    assert budget.knowing(("宫保鸡丁",)) == budget
    two = Budget(6, 40, unknown=("麻婆豆腐", "玻璃鱼", "火烈鸟"), mostly=True, wholly=True).knowing(("麻婆豆腐",))
    assert (two.unknown, two.mostly, two.wholly) == (("玻璃鱼", "火烈鸟"), True, False)


def test_a_word_that_a_lora_taught_is_not_warned_of(tiny_folder: Path, tmp_path: Path) -> None:
    learning = System.read(tiny_folder)
    inject(learning, ["image.denoiser.*.to_q"], 2, 2.0)
    for low in injected(learning).values():
        torch.nn.init.ones_(low.up.weight)  # type: ignore[arg-type]
    save_lora(tmp_path / "plain.safetensors", learning, extract(learning))
    from bimo.core import checkpoint_io

    state = checkpoint_io.read(tmp_path / "plain.safetensors")
    checkpoint_io.write(tmp_path / "dish.safetensors", state, about=about_captions(["一盘麻婆豆腐"]))
    system = System.read(tiny_folder)
    plain = [budget.unknown for budget in system.budgets("麻婆豆腐")]
    assert any(plain)
    attach.adapt(system, tmp_path / "plain.safetensors")
    assert [budget.unknown for budget in system.budgets("麻婆豆腐")] == plain
    attach.adapt(system, tmp_path / "dish.safetensors")
    assert not any(budget.unknown for budget in system.budgets("麻婆豆腐"))
    attach.unadapt(system, "dish")
    assert [budget.unknown for budget in system.budgets("麻婆豆腐")] == plain
