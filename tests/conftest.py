"""What tests share: a toy system in a folder, the bundled recipe at toy width with made-up weights."""

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.chat_endpoint import PROXIES, Standin

# Beside other processes of the same tests, each computes on one core. Read when torch is first imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine must not fail a test: nothing here is judged by its time.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection() -> None:
    """Importing all tests and their libraries makes a million objects that stay: nothing is looked for among them."""
    gc.disable()


def pytest_collection_finish() -> None:
    """What stays is left out of later searches, which are made less often, as toy networks come by the thousand."""
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)
    gc.enable()


KNOWN = ("红苹果", "苹果", "红色", "一只", "猫", "水墨画", "3d风格", "小桥", "流水", "人家", "apple", "red", "cat", "a")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a system that draws in a second; what it draws means nothing. Not to be written to."""
    import torch

    from bimo.diffusion.system import System
    from bimo.xiaomo.recipe import xiaomo

    folder = tmp_path_factory.mktemp("models") / "tiny"
    torch.manual_seed(0)
    system = System(xiaomo.tiny()).eval()
    for tower in system.text:
        tower.build_tokenizer(("一只红苹果", "a red cat"), KNOWN)
    system.save(folder)
    return folder


@pytest.fixture
def standin(monkeypatch: pytest.MonkeyPatch) -> Iterator[Standin]:
    """A stand-in for an OpenAI-compatible endpoint, reached without a proxy."""
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    made = Standin()
    yield made
    made.close()


def _picture(number: int) -> bytes:
    """A square of one of four colours on white, 128 x 128, as PNG."""
    import io

    from PIL import Image, ImageDraw

    canvas = Image.new("RGB", (128, 128), "white")
    colour = ("red", "green", "blue", "black")[number % 4]
    left = 16 + 8 * (number // 4)
    ImageDraw.Draw(canvas).rectangle((left, 32, left + 48, 96), fill=colour)
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def tiny_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shards as training wants them: sixteen pictures, two captions each. Not to be written to."""
    from bimo.data.shards import shard_name, write_index, write_shard

    folder = tmp_path_factory.mktemp("data") / "squares"
    folder.mkdir()
    words = (("红色", "red"), ("绿色", "green"), ("蓝色", "blue"), ("黑色", "black"))
    rows = []
    for number in range(16):
        zh, en = words[number % 4]
        captions = [{"text": f"一个{zh}的方块", "lang": "zh"}, {"text": f"a {en} square", "lang": "en"}]
        labels = dict.fromkeys(("effect", "background", "scene", "count", "kind2", "place", "size"))
        labels |= {"type": "single", "kind": "25fc", "style": "flat", "colour": en, "score": number / 16}
        labels["pair"] = str(number % 8)
        pose = [0, 1.0, 0.01 * (number // 4), 0.0, 0.0]
        rows.append((f"{number:04d}", _picture(number), {"captions": captions, "labels": labels, "pose": pose}))
    shards = [write_shard(folder / shard_name(i), rows[i * 8 : i * 8 + 8], "squares") for i in range(2)]
    write_index(folder, shards)
    layers = (f"layer-{number}{what}" for number in (1, 2) for what in ("", "-alpha"))
    for name in ("depth", "instances", "skeleton", "hands", "image", *layers):
        (folder / "maps" / name).mkdir(parents=True)
        for number in range(16):
            (folder / "maps" / name / f"{number:04d}.png").write_bytes(_picture(number))
    (folder / "words.txt").write_text("\n".join(w for pair in words for w in pair) + "\n方块\nsquare\n一个\n", "utf-8")
    return folder
