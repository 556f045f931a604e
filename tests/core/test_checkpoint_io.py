"""Weights as data: nothing is run, nothing is copied, nothing is unpacked, and each bad file gives one error."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from bimo.core import checkpoint_io, module_weights
from bimo.core.errors import WeightsError

STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2]), "c": torch.ones((), dtype=torch.half)}


class RunsCode:
    def __reduce__(self) -> Any:
        return os.mkdir, ("it-ran",)


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        torch.equal(v, other[n]) and v.dtype == other[n].dtype for n, v in one.items()
    )


def saved(folder: Path, kind: str) -> Path:
    if kind == "safetensors":
        save_file(STATE, folder / "x.safetensors")
        return folder / "x.safetensors"
    path = folder / "x.ckpt"
    torch.save({"state_dict": STATE, "epoch": 3}, path, _use_new_zipfile_serialization=kind == "zip")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old pickle"])
def test_reads_names_shapes_and_tensors(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind)
    assert equal(checkpoint_io.read(path), STATE)
    assert checkpoint_io.shapes(path) == {name: tuple(value.shape) for name, value in STATE.items()}
    assert checkpoint_io.read(path, keep=lambda name: name == "b").keys() == {"b"}
    turned = checkpoint_io.read(path, torch.float64)
    assert [turned[n].dtype for n in STATE] == [torch.float64, torch.int64, torch.float64]
    assert checkpoint_io.surplus(path) == (0 if kind == "safetensors" else 1)


@pytest.mark.parametrize("kind", ["safetensors", "zip", "old pickle"])
@pytest.mark.parametrize("name", ["x.SAFETENSORS", "x.safetensors", "x.ckpt", "x.BIN", "x"])
def test_first_bytes_say_what_a_file_is(tmp_path: Path, kind: str, name: str) -> None:
    (tmp_path / "saved").mkdir()
    path = shutil.move(saved(tmp_path / "saved", kind), tmp_path / name)
    assert equal(checkpoint_io.read(path), STATE)
    assert checkpoint_io.shapes(path) == {name: tuple(value.shape) for name, value in STATE.items()}
    assert checkpoint_io.metadata(path) == {}
    assert checkpoint_io.surplus(path) == (0 if kind == "safetensors" else 1)


def test_a_few_at_a_time_are_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint_io, "HELD_BYTES", 8)
    monkeypatch.setattr(checkpoint_io, "release", lambda tensor: 0)
    opened: list[Path] = []
    own = checkpoint_io._opened
    monkeypatch.setattr(checkpoint_io, "_opened", lambda path: (opened.append(path), own(path))[1])
    found = checkpoint_io.read(saved(tmp_path, "safetensors"), torch.float64)
    assert equal({n: v.to(STATE[n].dtype) for n, v in found.items()}, STATE)
    assert len(opened) > 1


@pytest.mark.parametrize("kind", ["safetensors", "zip"])
def test_tensors_stay_in_the_file(tmp_path: Path, kind: str) -> None:
    """60 MB are mapped while hardly anything is in memory; changing them does not change the file."""
    big = torch.zeros(15_000_000)
    path = tmp_path / f"big.{'safetensors' if kind == 'safetensors' else 'pt'}"
    if kind == "safetensors":
        checkpoint_io.write(path, {"big": big})
    else:
        torch.save({"big": big}, path)
    del big
    before = resident()
    found = checkpoint_io.read(path)
    assert resident() - before < 20 << 20
    found["big"][0] = 7
    assert checkpoint_io.read(path)["big"][0] == 0


def resident() -> int:
    """Bytes of this process in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("this system does not tell")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def test_write_is_what_safetensors_reads(tmp_path: Path) -> None:
    state = {**STATE, "d": torch.zeros(0, 3), "e": torch.arange(4).bfloat16()[::2], "f": torch.tensor([True])}
    checkpoint_io.write(tmp_path / "w.safetensors", state, about={"title": "苹果"})
    assert equal(load_file(tmp_path / "w.safetensors"), state)
    assert checkpoint_io.metadata(tmp_path / "w.safetensors") == {"format": "pt", "title": "苹果"}
    checkpoint_io.write(tmp_path / "h.safetensors", state, torch.float16)
    assert load_file(tmp_path / "h.safetensors")["a.weight"].dtype == torch.float16
    assert load_file(tmp_path / "h.safetensors")["b"].dtype == torch.int64
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.safetensors", "w.safetensors"]


def test_what_a_trainer_leaves_is_read_as_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A checkpoint of Lightning names a class of its callbacks; that class is not imported, nor anything run."""
    import sys
    import types

    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    ran: list[str] = []

    class ModelCheckpoint:
        def __init__(self) -> None:
            ran.append("ran")

    ModelCheckpoint.__module__ = module.__name__
    ModelCheckpoint.__qualname__ = "ModelCheckpoint"
    module.ModelCheckpoint = ModelCheckpoint  # type: ignore[attr-defined]
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = tmp_path / "x.ckpt"
    torch.save({"callbacks": {ModelCheckpoint: {"best": 1}}, "state_dict": STATE}, path)
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks", module.__name__):
        monkeypatch.delitem(sys.modules, name)
    assert equal(checkpoint_io.read(path), STATE)
    assert not ran


def bomb(path: Path) -> None:
    """An archive of a few kB that says it holds a tensor of a few GB."""
    real = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, real)
    with zipfile.ZipFile(real) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            content = source.read(entry)
            target.writestr(entry.filename, bytes(40_000_000) if entry.filename.endswith("data/0") else content)


def huge_head(path: Path) -> None:
    path.write_bytes((1 << 60).to_bytes(8, "little") + b"{}")


def overlapping(path: Path) -> None:
    head = (
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}}'
    )
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(12))


def beyond(path: Path) -> None:
    head = b'{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'
    path.write_bytes(len(head).to_bytes(8, "little") + head + bytes(12))


def half(path: Path) -> None:
    torch.save(STATE, path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_pickle(path: Path) -> None:
    torch.save(STATE, path, _use_new_zipfile_serialization=False)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def half_safetensors(path: Path) -> None:
    save_file(STATE, path)
    path.write_bytes(path.read_bytes()[:-7])


def zipped(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner.safetensors", b"x" * 99)


def tarred(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("model.safetensors"), io.BytesIO())


def program(path: Path) -> None:
    torch.save(STATE, path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/constants.pkl", b"")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4265380512\n"
BAD: dict[str, tuple[str, Any, str]] = {
    "bomb": ("x.pt", bomb, "compressed"),
    "huge head": ("x.safetensors", huge_head, "cut off"),
    "overlapping": ("x.safetensors", overlapping, "cannot read"),
    "beyond the end": ("x.safetensors", beyond, "cannot read"),
    "half an archive": ("x.pt", half, "cut off"),
    "half a pickle": ("x.pt", half_pickle, "cut off"),
    "half a safetensors": ("x.safetensors", half_safetensors, "cut off"),
    "empty": ("x.pt", lambda p: p.write_bytes(b""), "is empty"),
    "empty safetensors": ("x.safetensors", lambda p: p.write_bytes(b""), "is empty"),
    "zeros": ("x.safetensors", lambda p: p.write_bytes(bytes(4096)), "zeros alone"),
    "pointer": (
        "x.safetensors",
        lambda p: p.write_text(POINTER),
        r"git LFS's pointer .* 4,265,380,512 bytes.*git lfs pull",
    ),
    "page": ("x.safetensors", lambda p: p.write_text("<!DOCTYPE html>\n<html>"), "a web page"),
    "page with a mark": ("x.ckpt", lambda p: p.write_bytes(b"\xef\xbb\xbf \n<html>"), "a web page"),
    "error of a hub": (
        "x.safetensors",
        lambda p: p.write_text('{"error": "Invalid credentials"}'),
        "Invalid credentials",
    ),
    "text": ("x.ckpt", lambda p: p.write_text("hello, this is no page\n" * 99), "is text .*hello"),
    "packed": ("x.safetensors", lambda p: p.write_bytes(gzip.compress(bytes(99))), "packed by gzip.*gunzip"),
    "zipped": ("x.ckpt", zipped, "a zip archive .*inner.safetensors.*unzip"),
    "tar": ("x.ckpt", tarred, "a tar archive"),
    "program": ("x.pt", program, "TorchScript"),
    "gguf": ("x.safetensors", lambda p: p.write_bytes(b"GGUF\x03\0\0\0" + bytes(64)), "GGUF"),
    "picture": ("x.safetensors", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(64)), "PNG"),
    "no such thing": ("x.safetensors", lambda p: p.write_bytes(bytes(range(1, 99))), "not a file of weights"),
    "code": ("x.ckpt", lambda p: p.write_bytes(pickle.dumps({"a": RunsCode()}, protocol=2)), "would run code"),
    "code in an archive": ("x.pt", lambda p: torch.save({"a": RunsCode()}, p), "would run code"),
    "no tensors": ("x.pt", lambda p: torch.save({"state_dict": {"epoch": 3}}, p), "no table of weights"),
    "a tensor alone": ("x.pt", lambda p: torch.save(torch.zeros(3), p), "no table of weights"),
    "a folder": ("x.pt", lambda p: p.mkdir(), "cannot read"),
    "nothing there": ("x.safetensors", lambda p: None, "cannot read"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_error_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    name, spoil, output = BAD[case]
    monkeypatch.chdir(tmp_path)
    spoil(tmp_path / name)
    before = sorted(tmp_path.rglob("*"))
    for read in (checkpoint_io.read, checkpoint_io.shapes):
        with pytest.raises(WeightsError, match=output) as caught:
            read(tmp_path / name)
        assert caught.value.zh != caught.value.en
        assert name in caught.value.en
    assert sorted(tmp_path.rglob("*")) == before


def test_weights_of_another_version_are_listed(tmp_path: Path) -> None:
    module = torch.nn.Linear(3, 2)
    with pytest.raises(WeightsError) as caught:
        module_weights.assign(module, {"weight": torch.zeros(3, 3), "lora_A": torch.zeros(1)}, None, tmp_path)
    for told in ("missing 1: bias", "unexpected 1: lora_A", "misshapen 1: weight (3, 3)≠(2, 3)"):
        assert told in caught.value.en


def test_int8_is_read_as_what_it_stood_for(tmp_path: Path) -> None:
    torch.manual_seed(0)
    rows = torch.tensor([[0.01], [1.0], [30.0], [0.0]])
    state = {
        "a.weight": torch.randn(4, 2048) * rows,
        "b.weight": torch.randn(64, 8, 3, 3, dtype=torch.float16),
        "b.bias": torch.randn(64),
        "small": torch.randn(8, 8),
        "counted": torch.arange(5000).reshape(5, 1000),
        # Named like a scale, but of nothing.
        "norm.scale": torch.randn(3),
    }
    path = tmp_path / "w.safetensors"
    checkpoint_io.write(path, state, torch.int8)
    assert load_file(path)["a.weight"].dtype == torch.int8
    assert checkpoint_io.shapes(path) == {name: tuple(value.shape) for name, value in state.items()}
    found = checkpoint_io.read(path)
    assert found.keys() == state.keys()
    for name in ("b.bias", "small", "counted", "norm.scale"):
        assert torch.equal(found[name], state[name])
    for name in ("a.weight", "b.weight"):
        step = state[name].float().flatten(1).abs().amax(1) / 127
        error = (found[name] - state[name].float()).flatten(1).abs().amax(1)
        assert found[name].dtype == torch.float32
        assert bool((error <= step * 0.501).all())
    assert checkpoint_io.read(path, torch.bfloat16)["a.weight"].dtype == torch.bfloat16
    # What was read of it and written so again is the same file.
    checkpoint_io.write(tmp_path / "again.safetensors", found, torch.int8)
    assert equal(checkpoint_io.read(tmp_path / "again.safetensors"), found)
    assert checkpoint_io.unsound(path) == []


def test_another_quantization_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    checkpoint_io.write(path, {"a": torch.ones(2)}, about={"bimo.quantization": "int4"})
    for look in (checkpoint_io.read, checkpoint_io.shapes):
        with pytest.raises(WeightsError, match="int4"):
            look(path)
