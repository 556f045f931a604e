"""LoRA files of every published spelling land on the layers they were trained for, and come out again bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from safetensors.torch import save_file

from bimo.core.errors import RecipeError, WeightsError
from bimo.diffusion.system import System
from bimo.models.adapters import attach, lora
from bimo.models.adapters.lora_names import ldm_name
from bimo.models.adapters.lora_settings import sources
from bimo.models.layouts.diffusers_folder import read_folder
from tests.support.drawing import draw
from tests.support.tiny_checkpoints import checkpoint

SCHEDULE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
REQUEST = {"text": "a red cat", "seed": 3, "steps": 2, "size": (64, 64)}
ATTENTION = "down_blocks.0.attentions.0.transformer_blocks.0.attn2"
ENCODER = "encoder.layers.1.self_attn"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("sd") / "saved"
    checkpoint(
        place, "clip", diffusers.DDIMScheduler(**SCHEDULE, clip_sample=False, set_alpha_to_one=False, steps_offset=1)
    )
    return place


@pytest.fixture
def system(folder: Path) -> System:
    return read_folder(folder)


def halves(seed: int, out: int, width: int, rank: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """up [out, r] and down [r, in] of a made-up LoRA."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(out, rank, generator=generator), torch.randn(rank, width, generator=generator)


def weight_of(system: System, name: str) -> torch.Tensor:
    return system.get_parameter(f"image.denoiser.model.{name}.weight").detach().clone()


def spelled(kind: str) -> tuple[dict[str, torch.Tensor], float]:
    """A LoRA for one attention's q and out and one tower's k, spelled as a publisher does; its scale."""
    q, out, k = halves(1, 8, 8), halves(2, 8, 8), halves(3, 16, 16)
    te = f"text_encoder.text_model.{ENCODER}"
    under = ATTENTION.replace(".", "_")
    tables: dict[str, dict[str, Any]] = {
        "peft": {
            f"unet.{ATTENTION}.to_q.lora_B.weight": q[0],
            f"unet.{ATTENTION}.to_q.lora_A.weight": q[1],
            f"unet.{ATTENTION}.to_out.0.lora_B.weight": out[0],
            f"unet.{ATTENTION}.to_out.0.lora_A.weight": out[1],
            f"{te}.k_proj.lora_B.weight": k[0],
            f"{te}.k_proj.lora_A.weight": k[1],
        },
        "diffusers": {
            f"unet.{ATTENTION}.to_q.lora.up.weight": q[0],
            f"unet.{ATTENTION}.to_q.lora.down.weight": q[1],
            f"unet.{ATTENTION}.to_out.0.lora.up.weight": out[0],
            f"unet.{ATTENTION}.to_out.0.lora.down.weight": out[1],
            f"{te}.k_proj.lora_linear_layer.up.weight": k[0],
            f"{te}.k_proj.lora_linear_layer.down.weight": k[1],
        },
        "attn_procs": {
            f"{ATTENTION}.processor.to_q_lora.up.weight": q[0],
            f"{ATTENTION}.processor.to_q_lora.down.weight": q[1],
            f"{ATTENTION}.processor.to_out_lora.up.weight": out[0],
            f"{ATTENTION}.processor.to_out_lora.down.weight": out[1],
            f"{te}.to_k_lora.up.weight": k[0],
            f"{te}.to_k_lora.down.weight": k[1],
        },
        "kohya": {
            f"lora_unet_{under}_to_q.lora_up.weight": q[0],
            f"lora_unet_{under}_to_q.lora_down.weight": q[1],
            f"lora_unet_{under}_to_q.alpha": torch.tensor(1.0),
            f"lora_unet_{under}_to_out_0.lora_up.weight": out[0],
            f"lora_unet_{under}_to_out_0.lora_down.weight": out[1],
            f"lora_unet_{under}_to_out_0.alpha": torch.tensor(1.0),
            "lora_te_text_model_encoder_layers_1_self_attn_k_proj.lora_up.weight": k[0],
            "lora_te_text_model_encoder_layers_1_self_attn_k_proj.lora_down.weight": k[1],
            "lora_te_text_model_encoder_layers_1_self_attn_k_proj.alpha": torch.tensor(1.0),
        },
    }
    return tables[kind], 0.5 if kind == "kohya" else 1.0


@pytest.mark.parametrize("kind", ["peft", "diffusers", "attn_procs", "kohya"])
def test_every_spelling_changes_the_same_layers(system: System, tmp_path: Path, kind: str) -> None:
    state, scale = spelled(kind)
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "style.safetensors")
    before = {name: value.clone() for name, value in system.state_dict().items()}
    hash_before = system.weights_hash
    attach.adapt(system, tmp_path / "style.safetensors", 0.8)
    assert attach.adapters(system) == [("style", 0.8)]
    q, out, k = halves(1, 8, 8), halves(2, 8, 8), halves(3, 16, 16)
    changes = {
        f"image.denoiser.model.{ATTENTION}.to_q.weight": q,
        f"image.denoiser.model.{ATTENTION}.to_out.0.weight": out,
        f"text.0.model.{ENCODER}.k_proj.weight": k,
    }
    for name, value in system.state_dict().items():
        wanted = before[name]
        if name in changes:
            wanted = wanted + 0.8 * scale * changes[name][0] @ changes[name][1]
        torch.testing.assert_close(value, wanted, atol=1e-6, rtol=1e-5)
        assert name in changes or torch.equal(value, before[name])
    assert system.weights_hash != hash_before
    attach.unadapt(system)
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())
    assert (system.weights_hash, attach.adapters(system)) == (hash_before, [])


def test_two_of_them_and_one_out_again(system: System, tmp_path: Path) -> None:
    for seed, name in enumerate(("first", "second")):
        up, down = halves(seed + 10, 8, 8)
        state = {f"unet.{ATTENTION}.to_q.lora_B.weight": up, f"unet.{ATTENTION}.to_q.lora_A.weight": down}
        save_file(state, tmp_path / f"{name}.safetensors")
    attach.adapt(system, tmp_path / "second.safetensors", 0.5)
    second = weight_of(system, f"{ATTENTION}.to_q")
    attach.unadapt(system, "second")
    attach.adapt(system, tmp_path / "first.safetensors")
    attach.adapt(system, tmp_path / "second.safetensors", 0.5)
    attach.unadapt(system, "first")
    assert torch.equal(weight_of(system, f"{ATTENTION}.to_q"), second)
    attach.adapt(system, tmp_path / "second.safetensors", 0.25)
    assert attach.adapters(system) == [("second", 0.25)]
    with pytest.raises(WeightsError, match="second"):
        attach.unadapt(system, "third")


def test_a_convolution_and_old_two_dimensional_halves(system: System, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(4)
    down, up = torch.randn(2, 8, 3, 3, generator=generator), torch.randn(8, 2, 1, 1, generator=generator)
    name = "down_blocks.0.resnets.0.conv2"
    state = {f"lora_unet_{name.replace('.', '_')}.lora_{half}.weight": v for half, v in (("down", down), ("up", up))}
    save_file(state, tmp_path / "conv.safetensors")
    before = weight_of(system, name)
    attach.adapt(system, tmp_path / "conv.safetensors")
    wanted = before + torch.einsum("or,rikl->oikl", up[..., 0, 0], down)
    torch.testing.assert_close(weight_of(system, name), wanted)


def test_alpha_in_the_header_of_a_file_counts(system: System, tmp_path: Path) -> None:
    import json

    up, down = halves(1, 8, 8)
    state = {f"unet.{ATTENTION}.to_q.lora_B.weight": up, f"unet.{ATTENTION}.to_q.lora_A.weight": down}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6, "unet.use_rslora": False})}
    save_file(state, tmp_path / "style.safetensors", metadata=header)
    before = weight_of(system, f"{ATTENTION}.to_q")
    attach.adapt(system, tmp_path / "style.safetensors")
    torch.testing.assert_close(weight_of(system, f"{ATTENTION}.to_q"), before + 3 * up @ down)


def test_what_does_not_fit_is_refused_for_its_own_reason(system: System, tmp_path: Path) -> None:
    up, down = halves(1, 8, 8)
    wide = halves(1, 64, 64)
    name = f"unet.{ATTENTION}.to_q"
    good = {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down}
    broken = torch.full_like(up, float("nan"))
    cases: dict[str, tuple[dict[str, torch.Tensor], tuple[str, ...]]] = {
        "one": (
            {**good, "transformer.blocks.3.attn1.Wqkv.lora_A.weight": down},
            ("of the 2 layers", "lacks 1", "Wqkv"),
        ),
        "all": (
            {"transformer.double_blocks.0.img_attn.qkv.lora_A.weight": down},
            ("another family", "none of the 1 layers", "FLUX", "img_attn.qkv"),
        ),
        "wide": ({f"{name}.lora_B.weight": wide[0], f"{name}.lora_A.weight": wide[1]}, ("(64, 2)", "(8, 8)", "shapes")),
        "half": ({f"{name}.lora_A.weight": down}, ("incomplete", "lacks its up", name)),
        "loha": ({**good, "unet.conv_in.hada_w1_a": up}, ("incomplete", "hada_w1_b")),
        "mixed": ({**good, f"{name}.hada_w1_a": up}, ("do not make up one adapter", "hada_w1_a")),
        "lengths": ({**good, f"{name}.dora_scale": torch.ones(7, 1)}, ("shapes", "dora_scale (7, 1)")),
        "zero": ({n: torch.zeros_like(value) for n, value in good.items()}, ("all zeros",)),
        "kind": ({**good, f"{name}.hra_u": up}, ("HRA", "not read", "hra_u")),
        "custom": (
            {f"{ATTENTION}.processor.to_k_custom_diffusion.weight": up},
            ("Custom Diffusion", "not read", "to_k_custom_diffusion"),
        ),
        "none": ({"image.weight": up}, ("no known kind", "image.weight")),
        "nan": ({**good, f"{name}.lora_B.weight": broken}, ("NaN", f"{name}.lora_B.weight (16/16)")),
        "infinite": ({**good, f"{name}.alpha": torch.tensor(float("inf"))}, ("infinite", f"{name}.alpha")),
        "twice": ({**good, f"{name}.lora_up.weight": up}, ("two up", name)),
        "bias": ({**good, f"{name}.diff_b": torch.ones(8)}, ("bias", name)),
    }
    before = {name: value.clone() for name, value in system.state_dict().items()}
    for case, (state, told) in cases.items():
        file = tmp_path / f"{case}.safetensors"
        save_file({n: v.contiguous().clone() for n, v in state.items()}, file)
        with pytest.raises(WeightsError) as error:
            attach.adapt(system, file)
        assert all(each in error.value.en for each in (str(file), *told)), error.value.en
        assert ("another family" in error.value.en) == (case == "all")
    assert all(torch.equal(value, before[name]) for name, value in system.state_dict().items())


def test_truncated_missing_and_running_code_are_refused(system: System, tmp_path: Path) -> None:
    up, down = halves(1, 8, 8)
    state = {f"unet.{ATTENTION}.to_q.lora_B.weight": up, f"unet.{ATTENTION}.to_q.lora_A.weight": down}
    save_file(state, tmp_path / "style.safetensors")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "style.safetensors").read_bytes()[:-40])
    torch.save({**state, "code": _Bomb()}, tmp_path / "code.pt")
    for name in ("cut.safetensors", "code.pt", "none.safetensors"):
        with pytest.raises(WeightsError):
            attach.adapt(system, tmp_path / name)
    assert not (tmp_path / "ran").exists()
    torch.save(state, tmp_path / "plain.pt")
    attach.adapt(system, tmp_path / "plain.pt")


class _Bomb:
    def __reduce__(self) -> Any:
        return (print, ("a pickle ran code",))


@pytest.mark.slow
@pytest.mark.parametrize("dora", [False, True])
@pytest.mark.parametrize("spelling", ["diffusers", "kohya"])
def test_learnt_written_and_merged_it_draws_what_was_learnt(
    folder: Path, tmp_path: Path, spelling: Any, dora: bool
) -> None:
    system, other = read_folder(folder), read_folder(folder)
    plain = draw(system, REQUEST)[0].image
    targets = ("image.denoiser.*.attn2.to_q", "text.0.*.q_proj", "image.denoiser.*.conv1")
    names = lora.inject(system, targets, 2, 3.0, dora)
    assert set(names) <= set(dict(system.named_parameters()))
    assert draw(system, REQUEST)[0].image.tobytes() == plain.tobytes()  # it begins at nothing
    assert any(name.endswith(".magnitude") for name in names) == dora
    for name in names:
        torch.nn.init.normal_(system.get_parameter(name), mean=1.0 if name.endswith("magnitude") else 0.0, std=0.5)
    learnt = draw(system, REQUEST)[0].image
    assert learnt.tobytes() != plain.tobytes()
    lora.save_lora(tmp_path / "mine.safetensors", system, lora.extract(system), spelling)
    attach.adapt(other, tmp_path / "mine.safetensors")
    close(draw(other, REQUEST)[0].image, learnt)
    lora.eject(system, merge=True)
    assert not lora.injected(system)
    assert set(dict(system.named_parameters())) == set(dict(other.named_parameters()))
    close(draw(system, REQUEST)[0].image, learnt)


def close(one: Any, other: Any) -> None:
    import numpy

    assert numpy.abs(numpy.asarray(one).astype(int) - numpy.asarray(other)).max() <= 1


def test_a_dora_at_a_weight_goes_that_share_of_the_way(system: System, tmp_path: Path) -> None:
    up, down = halves(1, 8, 8)
    lengths = torch.rand(8, generator=torch.Generator().manual_seed(2)) + 0.5
    name = f"unet.{ATTENTION}.to_q"
    state = {f"{name}.lora_B.weight": up, f"{name}.lora_A.weight": down, f"{name}.lora_magnitude_vector": lengths}
    save_file(state, tmp_path / "whole.safetensors")
    before = weight_of(system, f"{ATTENTION}.to_q")
    attach.adapt(system, tmp_path / "whole.safetensors")
    whole = weight_of(system, f"{ATTENTION}.to_q")
    torch.testing.assert_close(whole.norm(dim=1), lengths)
    torch.testing.assert_close(whole, torch.nn.functional.normalize(before + up @ down, dim=1) * lengths[:, None])
    attach.adapt(system, tmp_path / "whole.safetensors", 0.25)
    torch.testing.assert_close(weight_of(system, f"{ATTENTION}.to_q"), before + 0.25 * (whole - before))
    attach.unadapt(system)
    assert torch.equal(weight_of(system, f"{ATTENTION}.to_q"), before)


def test_what_a_file_holds_counts_and_not_its_ending(system: System, tmp_path: Path) -> None:
    """Its settings in the head of a .safetensors as well."""
    import json

    up, down = halves(1, 8, 8)
    state = {f"unet.{ATTENTION}.to_q.lora_B.weight": up, f"unet.{ATTENTION}.to_q.lora_A.weight": down}
    header = {"lora_adapter_metadata": json.dumps({"unet.r": 2, "unet.lora_alpha": 6})}
    save_file(state, tmp_path / "head.pt", metadata=header)
    torch.save(state, tmp_path / "pickle.safetensors")
    save_file(state, tmp_path / "STYLE.SAFETENSORS")
    before = weight_of(system, f"{ATTENTION}.to_q")
    for name, strength in (("head.pt", 3), ("pickle.safetensors", 1), ("STYLE.SAFETENSORS", 1)):
        attach.adapt(system, tmp_path / name)
        torch.testing.assert_close(weight_of(system, f"{ATTENTION}.to_q"), before + strength * up @ down)
        attach.unadapt(system)


def test_a_strength_that_is_a_number_in_a_pickle_counts(system: System, tmp_path: Path) -> None:
    up, down = halves(1, 8, 8)
    name = f"lora_unet_{ATTENTION.replace('.', '_')}_to_q"
    state = {f"{name}.lora_up.weight": up, f"{name}.lora_down.weight": down, f"{name}.alpha": 6.0}
    before = weight_of(system, f"{ATTENTION}.to_q")
    for table in (state, {"state_dict": state, "epoch": 3}):
        torch.save(table, tmp_path / "style.pt")
        attach.adapt(system, tmp_path / "style.pt")
        torch.testing.assert_close(weight_of(system, f"{ATTENTION}.to_q"), before + 3 * up @ down)
        attach.unadapt(system)


def test_globs_that_match_nothing_are_refused(system: System) -> None:
    with pytest.raises(RecipeError, match="to_qq"):
        lora.inject(system, ("image.denoiser.*.to_qq",), 2, 2.0)


def test_the_authors_names_of_a_unet() -> None:
    """Recorded from kohya-ss files for Stable Diffusion XL, whose names are those of the authors' code."""
    recorded = {
        "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.4.1.transformer_blocks.0"
        ".attn1.to_q",
        "down_blocks.2.attentions.1.proj_in": "input_blocks.8.1.proj_in",
        "down_blocks.0.resnets.1.conv1": "input_blocks.2.0.in_layers.2",
        "down_blocks.0.downsamplers.0.conv": "input_blocks.3.0.op",
        "mid_block.attentions.0.transformer_blocks.9.ff.net.2": "middle_block.1.transformer_blocks.9.ff.net.2",
        "mid_block.resnets.1.time_emb_proj": "middle_block.2.emb_layers.1",
        "up_blocks.0.attentions.2.proj_out": "output_blocks.2.1.proj_out",
        "up_blocks.1.attentions.0.transformer_blocks.1.attn2.to_k": "output_blocks.3.1.transformer_blocks.1.attn2.to_k",
        "up_blocks.2.resnets.2.conv_shortcut": "output_blocks.8.0.skip_connection",
        "up_blocks.0.upsamplers.0.conv": "output_blocks.2.2.conv",
        "time_embedding.linear_1": "time_embed.0",
    }
    for name, authors in recorded.items():
        assert ldm_name(name, 2, frozenset({0, 1})) == authors


@pytest.fixture(scope="module")
def hunyuan() -> System:
    from bimo.recipes.hunyuan_dit import hunyuan_dit_1_2

    torch.manual_seed(0)
    return System(hunyuan_dit_1_2.tiny()).eval()


def test_fused_projections_of_hunyuans_authors_are_cut(hunyuan: System, tmp_path: Path) -> None:
    """A folder of peft, as their training script saves it, with a strength of its own."""
    import json

    qkv, kv, out = halves(1, 48, 16), halves(2, 32, 16), halves(3, 16, 16)
    inner = {"blocks.1.attn1.Wqkv": qkv, "blocks.1.attn2.kv_proj": kv, "blocks.1.attn2.out_proj": out}
    state = {f"base_model.model.{n}.lora_B.weight": pair[0] for n, pair in inner.items()}
    state |= {f"base_model.model.{n}.lora_A.weight": pair[1] for n, pair in inner.items()}
    save_file(state, tmp_path / "adapter_model.safetensors")
    with pytest.raises(WeightsError, match="adapter_config"):
        attach.adapt(hunyuan, tmp_path)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 4, "use_rslora": False}))
    at = "image.denoiser.model.blocks.1"
    before = {name: value.clone() for name, value in hunyuan.state_dict().items()}
    attach.adapt(hunyuan, tmp_path)
    wanted = {f"{at}.attn2.to_out.0.weight": 2 * out[0] @ out[1]}
    wanted |= {f"{at}.attn1.to_{c}.weight": 2 * qkv[0][i * 16 : i * 16 + 16] @ qkv[1] for i, c in enumerate("qkv")}
    wanted |= {f"{at}.attn2.to_{c}.weight": 2 * kv[0][i * 16 : i * 16 + 16] @ kv[1] for i, c in enumerate("kv")}
    for name, value in hunyuan.state_dict().items():
        torch.testing.assert_close(value, before[name] + wanted.get(name, 0.0))
    attach.unadapt(hunyuan)
    assert all(torch.equal(value, before[name]) for name, value in hunyuan.state_dict().items())


def test_names_with_dots_alone_are_weaker_without_alpha(hunyuan: System, tmp_path: Path) -> None:
    """HunyuanDiT's own reader divides by the root of the rank where a file says no alpha."""
    up, down = halves(4, 16, 16)
    name = "unet.blocks.0.attn1.out.proj"
    save_file({f"{name}.lora.up.weight": up, f"{name}.lora.down.weight": down}, tmp_path / "style.safetensors")
    at = "image.denoiser.model.blocks.0.attn1.to_out.0.weight"
    before = hunyuan.get_parameter(at).detach().clone()
    attach.adapt(hunyuan, tmp_path / "style.safetensors")
    torch.testing.assert_close(hunyuan.get_parameter(at).detach(), before + up @ down / 2**0.5)
    attach.unadapt(hunyuan)


@pytest.mark.parametrize("spelling", ["diffusers", "kohya"])
def test_hunyuan_learns_and_writes_one(hunyuan: System, tmp_path: Path, spelling: Any) -> None:
    lora.inject(hunyuan, ("image.denoiser.*.attn?.to_v", "text.0.*.query", "text.1.*.q"), 2, 1.0)
    state = {name: torch.randn_like(v) if "lora" in name else v for name, v in lora.extract(hunyuan).items()}
    lora.save_lora(tmp_path / "mine.safetensors", hunyuan, state, spelling)
    lora.eject(hunyuan, merge=False)
    before = {name: value.clone() for name, value in hunyuan.state_dict().items()}
    attach.adapt(hunyuan, tmp_path / "mine.safetensors")
    changed = {n for n, v in hunyuan.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {f"{name.removesuffix('.alpha')}.weight" for name in state if name.endswith(".alpha")}
    attach.unadapt(hunyuan)


def test_kohyas_names_for_two_text_encoders_and_the_large_unet(tmp_path: Path) -> None:
    from bimo.recipes.taiyi_xl import taiyi_xl

    system = System(taiyi_xl.tiny()).eval()
    up, down = halves(5, 16, 16)
    small = halves(6, 8, 8)
    state = {
        "lora_te1_text_model_encoder_layers_0_mlp_fc1": (torch.randn(32, 2), down),
        "lora_te2_text_model_encoder_layers_1_self_attn_out_proj": (up, down),
        "lora_unet_input_blocks_3_1_transformer_blocks_0_attn1_to_k": small,
        "lora_unet_middle_block_1_proj_in": small,
    }
    named = {f"{name}.lora_up.weight": pair[0].clone() for name, pair in state.items()}
    named |= {f"{name}.lora_down.weight": pair[1].clone() for name, pair in state.items()}
    save_file(named, tmp_path / "style.safetensors")
    before = {name: value.clone() for name, value in system.state_dict().items()}
    attach.adapt(system, tmp_path / "style.safetensors")
    changed = {n for n, v in system.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == {
        "text.0.model.encoder.layers.0.mlp.fc1.weight",
        "text.1.model.encoder.layers.1.self_attn.out_proj.weight",
        "image.denoiser.model.down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_k.weight",
        "image.denoiser.model.mid_block.attentions.0.proj_in.weight",
    }


@pytest.mark.parametrize("others", [(), ("state.pt", "weights.safetensors")])
def test_a_folder_of_a_learnt_word_is_no_lora(tmp_path: Path, others: tuple[str, ...]) -> None:
    for name in ("learned_embeds.safetensors", *others):
        (tmp_path / name).touch()
    with pytest.raises(WeightsError, match="a word that was learnt and no LoRA; give it with --embedding"):
        sources(tmp_path)
