"""Fetching weights, from a hub on this machine: cut off and resumed, damaged, offline, gone; terms said once."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bimo.core.errors import WeightsError
from bimo.hub import download

COMMIT = "0123456789abcdef0123456789abcdef01234567"
INDEX = "diffusion_pytorch_model.safetensors.index.fp16.json"
LARGE = bytes(range(256)) * 400


@dataclass
class Hub:
    """What the server has, how it misbehaves, and what it was asked."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cut: int = 0
    damaged: bool = False
    asked: list[tuple[str, str]] = field(default_factory=list)

    def digest(self, name: str) -> str:
        content = self.files[name]
        if name.endswith(".safetensors"):
            return hashlib.sha256(content).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()

    def info(self) -> dict[str, Any]:
        rows: list[dict[str, Any]] = []
        for name, content in self.files.items():
            row: dict[str, Any] = {"rfilename": name, "size": len(content), "blobId": self.digest(name)}
            if name.endswith(".safetensors"):
                row["lfs"] = {"sha256": self.digest(name), "size": len(content), "pointerSize": 130}
            rows.append(row)
        return {"id": "some/model", "sha": COMMIT, "siblings": rows, "tags": [], "private": False, "downloads": 0}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    state = Hub(files={"model_index.json": b'{"_class_name": "X"}', "unet/model.safetensors": LARGE, "big.ckpt": b"no"})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self.answer(False)

        def do_GET(self) -> None:
            self.answer(True)

        def answer(self, body: bool) -> None:
            state.asked.append((self.path, self.headers.get("Range", "")))
            if self.path.startswith("/api/models/some/model"):
                return self.send(json.dumps(state.info()).encode(), {}, body)
            found = re.fullmatch(r"/some/model/resolve/[^/]+/(.+)", self.path)
            if found is None or found[1] not in state.files:
                return self.send(b"{}", {"X-Error-Code": "RepoNotFound"}, body, 404)
            content = state.files[found[1]]
            headers = {"ETag": f'"{state.digest(found[1])}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
            if state.damaged and found[1].endswith(".safetensors"):
                content = bytes(len(content))
            status = 200
            if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
                start = int(wanted[1])
                headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
                content, status = content[start:], 206
            cut = state.cut if body and found[1].endswith(".safetensors") else 0
            return self.send(content, headers, body, status, cut)

        def send(self, content: bytes, headers: dict[str, str], body: bool, status: int = 200, cut: int = 0) -> None:
            self.send_response(status)
            for name, value in {"Content-Type": "application/json", **headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content[: cut or None])
            if cut:
                self.close_connection = True

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    state.address = f"http://127.0.0.1:{server.server_port}"
    from huggingface_hub import constants, file_download

    monkeypatch.setenv("HF_ENDPOINT", state.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def parts(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache").rglob("*.bimo-part"))


def test_fetches_what_is_wanted_and_then_asks_no_more(hub: Hub, tmp_path: Path) -> None:
    folder = download.fetch("some/model")
    assert (folder / "unet/model.safetensors").read_bytes() == LARGE
    assert (folder / "model_index.json").is_file()
    assert not (folder / "big.ckpt").exists()
    assert not parts(tmp_path)
    hub.asked.clear()
    assert download.fetch("some/model") == folder
    assert hub.asked == []


def test_a_folder_in_a_repository(hub: Hub) -> None:
    hub.files |= {f"beta/{name}": content for name, content in hub.files.items()} | {"beta/own.json": b"{}"}
    folder = download.fetch("some/model/beta")
    assert (folder.name, (folder / "own.json").is_file()) == ("beta", True)
    assert (folder / "unet/model.safetensors").read_bytes() == LARGE
    assert not (folder.parent / "model_index.json").exists()
    hub.asked.clear()
    assert download.fetch("some/model/beta") == folder
    assert hub.asked == []


def test_the_same_weights_are_not_fetched_twice(hub: Hub) -> None:
    hub.files |= {"vae/pytorch_model.bin": b"old", "unet/pytorch_model.bin": b"the same as the safetensors"}
    hub.files |= {"lora/other.safetensors": LARGE, "lora/pytorch_model.bin": b"not the same"}
    folder = download.fetch("some/model")
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.bin"))
    assert found == ["lora/pytorch_model.bin", "vae/pytorch_model.bin"]


SHARDS = [f"unet/diffusion_pytorch_model.fp16-0000{n}-of-00002.safetensors" for n in (1, 2)]


def test_a_variant_is_fetched_where_there_is_nothing_else(hub: Hub) -> None:
    """As Kolors is published: every part in fp16 alone, one of them in shards."""
    hub.files = {"model_index.json": b"{}", "vae/config.json": b"{}", "unet/config.json": b"{}"}
    hub.files |= {"vae/diffusion_pytorch_model.fp16.safetensors": LARGE, "unet/" + INDEX: b'{"weight_map": {}}'}
    hub.files |= dict.fromkeys(SHARDS, LARGE) | {"tokenizer/config.json": b"{}"}
    hub.files |= {"text_encoder/config.json": b"{}", "text_encoder/model.fp16.safetensors": LARGE}
    hub.files |= {"text_encoder/model.safetensors": LARGE, "whole_model.safetensors": LARGE}
    folder = download.fetch("some/model")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    wanted = {"vae/diffusion_pytorch_model.fp16.safetensors", "text_encoder/model.safetensors", *SHARDS}
    assert found == wanted
    assert (folder / "unet" / INDEX).is_file()
    hub.asked.clear()
    assert download.fetch("some/model") == folder
    assert hub.asked == []


def test_whole_is_what_has_the_weights_of_every_part(hub: Hub) -> None:
    hub.files |= {"vae/config.json": b"{}", SHARDS[0]: LARGE, "unet/config.json": b"{}"}
    del hub.files["unet/model.safetensors"]
    folder = download.fetch("some/model")
    assert download.lacking(folder) == ["unet", "vae"]
    # It was marked as whole by a fetch of another day, or the publisher put more there since.
    (folder / download._whole(folder)).write_text("")
    hub.files |= {"vae/diffusion_pytorch_model.bf16.safetensors": LARGE, SHARDS[1]: LARGE}
    assert download.fetch("some/model") == folder
    assert download.lacking(folder) == []


def test_a_repository_of_one_text_encoder(hub: Hub) -> None:
    hub.files = {"config.json": b"{}", "model.safetensors": LARGE}
    with pytest.raises(WeightsError, match="model_index"):
        download.fetch("some/model")
    folder = download.fetch("some/model", indices=download.TEXT_ENCODER_FILES)
    assert (folder / "model.safetensors").read_bytes() == LARGE
    assert download.cached("some/model", download.TEXT_ENCODER_FILES) == folder


def test_text_encoders_out_of_reach_say_where_each_belongs(hub: Hub) -> None:
    with pytest.raises(WeightsError, match=r"some/gone .*FOLDER/text_encoder.*FOLDER/vision_encoder"):
        download.fetch("some/gone", indices=download.TEXT_ENCODER_FILES)


def test_an_interrupted_download_resumes(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants, file_download

    own = file_download.http_get
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(file_download, "http_get", lambda *args, **named: own(*args, **named, _nb_retries=0))
    hub.cut = 50_000
    with pytest.raises(WeightsError, match="some/model"):
        download.fetch("some/model")
    assert [part.stat().st_size for part in parts(tmp_path)] == [50_000]
    hub.cut = 0
    folder = download.fetch("some/model")
    assert (folder / "unet/model.safetensors").read_bytes() == LARGE
    assert [wanted for _, wanted in hub.asked if wanted] == ["bytes=50000-"]
    assert not parts(tmp_path)


def test_a_wrong_hash_is_told_and_nothing_kept(hub: Hub, tmp_path: Path) -> None:
    hub.damaged = True
    with pytest.raises(WeightsError) as caught:
        download.fetch("some/model")
    assert hashlib.sha256(LARGE).hexdigest() in caught.value.en
    assert "unet/model.safetensors" in caught.value.zh
    assert not parts(tmp_path)
    hub.damaged = False
    assert (download.fetch("some/model") / "unet/model.safetensors").read_bytes() == LARGE


def test_a_cut_off_folder_is_not_taken_for_whole(hub: Hub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    hf_hub_download("some/model", "model_index.json", endpoint=hub.address)
    folder = download.cached("some/model")
    assert folder is not None
    assert not (folder / "unet").exists()
    assert (download.fetch("some/model") / "unet/model.safetensors").is_file()


def test_a_repository_of_a_single_file_is_reported(hub: Hub) -> None:
    hub.files = {"big.ckpt": b"x", "readme.md": b"y"}
    with pytest.raises(WeightsError, match="single file"):
        download.fetch("some/model")


def test_an_unreachable_hub_is_reported(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeightsError, match=r"model_index\.json"):
        download.fetch("nobody/nothing")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(WeightsError, match="HF_ENDPOINT"):
        download.fetch("some/model")


def test_offline_makes_no_request(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="HF_HUB_OFFLINE"):
        download.fetch("some/model", "owner/name")
    assert hub.asked == []


def test_modelscope_is_next_and_says_what_it_needs(hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys
    import types

    monkeypatch.setitem(sys.modules, "modelscope", None)
    for name in ("modelscope:owner/name", "nobody/nothing"):
        with pytest.raises(WeightsError, match="pip install modelscope"):
            download.fetch(name, "owner/name")
    client = types.ModuleType("modelscope")
    asked: list[str] = []
    client.snapshot_download = lambda name, **_: (asked.append(name), str(tmp_path))[1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", client)
    assert download.fetch("nobody/nothing", "owner/name") == tmp_path
    assert download.fetch("modelscope:other/name") == tmp_path
    assert asked == ["owner/name", "other/name"]


def test_modelscope_is_asked_for_variants_of_what_has_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import fnmatch
    import sys
    import types

    there = ["model_index.json", "vae/config.json", "vae/model.safetensors", "vae/model.fp16.safetensors"]
    there += ["unet/config.json", *SHARDS]

    def snapshot(name: str, allow_patterns: list[str], ignore_patterns: list[str]) -> str:
        for path in there:
            wanted = any(fnmatch.fnmatch(path, p) for p in allow_patterns)
            if wanted and not any(fnmatch.fnmatch(path, p) for p in ignore_patterns):
                (tmp_path / path).parent.mkdir(exist_ok=True)
                (tmp_path / path).write_bytes(b"{}")
        return str(tmp_path)

    client = types.ModuleType("modelscope")
    client.snapshot_download = snapshot  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "modelscope", client)
    folder = download.fetch("modelscope:some/model")
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert found == {"vae/model.safetensors", *SHARDS}


def test_terms_are_said_once(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    said: list[str] = []
    for _ in range(2):
        download.show_terms("model", ("不得商用", "no commercial use"), said.append)
    download.show_terms("free", ("", ""), said.append)
    assert said == ["terms of model: no commercial use"]
    download.show_terms("model", ("新条款", "new terms"), said.append)
    assert said[1:] == ["terms of model: new terms"]
