"""Both labels of GB 45438-2025: written into three formats, read back, found again in the picture."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from bimo.core.errors import RequestError
from bimo.core.label import FIELDS, NAMESPACE, Label, is_marked, labelled, marked, read_label

LABEL = Label("某某公司 & <Co>")


def picture(size: tuple[int, int] = (256, 192), kind: str = "PNG") -> bytes:
    rows = np.random.default_rng(1).integers(0, 255, (size[1] // 8, size[0] // 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(rows).resize(size, Image.Resampling.BICUBIC).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_both_labels_are_read_back(kind: str) -> None:
    with Image.open(io.BytesIO(labelled(picture(kind=kind), LABEL, "job-1/0"))) as image:
        found = read_label(image)
        assert found == dict.fromkeys(FIELDS, "") | {
            "Label": "1",
            "ContentProducer": "某某公司 & <Co>",
            "ProduceID": "job-1/0",
        }
        assert is_marked(image)
    with Image.open(io.BytesIO(labelled(picture(kind=kind), LABEL, "x", visible=False))) as image:
        assert read_label(image) is not None
        assert not is_marked(image)


def test_a_picture_without_is_told_from_one_with() -> None:
    with Image.open(io.BytesIO(picture())) as image:
        assert read_label(image) is None
        assert not is_marked(image)
    assert not is_marked(Image.new("RGB", (256, 256)))
    assert not is_marked(Image.new("RGB", (3, 3)))


@pytest.mark.parametrize("size", [(64, 64), (128, 128), (512, 300), (1024, 2000)])
def test_the_visible_label_is_as_high_as_the_law_asks(size: tuple[int, int]) -> None:
    plain = Image.new("RGB", size, (90, 120, 60))
    made = marked(plain)
    changed = np.abs(np.asarray(made, int) - np.asarray(plain, int)).sum(2) > 0
    rows, columns = np.nonzero(changed)
    white = np.nonzero((np.asarray(made.convert("L")) > 200).any(1))[0]
    assert white.max() - white.min() + 1 >= 0.05 * min(size)
    assert (rows.max(), columns.max()) == (size[1] - 1, size[0] - 1)
    assert changed.mean() < 0.2
    assert is_marked(made)


def test_texts_of_a_png_stay() -> None:
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_itxt("bimo", "记录")
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64)).save(buffer, "PNG", pnginfo=info)
    with Image.open(io.BytesIO(labelled(buffer.getvalue(), LABEL, "x"))) as image:
        assert image.info["bimo"] == "记录"


@pytest.mark.parametrize(
    "packet",
    [
        f'<x xmlns:A="{NAMESPACE}" A:AIGC=\'{{"Label":"2"}}\'/>',
        f'<x xmlns:A="{NAMESPACE}" A:AIGC="{{&quot;Label&quot;:&quot;2&quot;}}"/>',
        f'<x xmlns:A="{NAMESPACE}"><A:AIGC>\n{{"Label": "2"}}\n</A:AIGC></x>',
    ],
)
def test_packets_of_others_are_read(packet: str) -> None:
    image = Image.new("RGB", (8, 8))
    image.info["xmp"] = packet.encode()
    assert read_label(image) == {"Label": "2"}


@pytest.mark.parametrize("value", ["[1]", "{", "null", '"x"', "[" * 5000])
def test_packets_that_say_nothing_are_none(value: str) -> None:
    image = Image.new("RGB", (8, 8))
    image.info["xmp"] = f'<x xmlns:TC260="{NAMESPACE}"><TC260:AIGC>{value}</TC260:AIGC></x>'.encode()
    assert read_label(image) is None


def test_what_is_no_label_is_refused() -> None:
    for wrong in (" ", "x" * 201, "a\nb"):
        with pytest.raises(RequestError):
            Label(wrong)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "BMP")
    with pytest.raises(RequestError, match="BMP"):
        labelled(buffer.getvalue(), LABEL, "x")
    assert json.loads(json.dumps(LABEL.fields("a")))["ProduceID"] == "a"
