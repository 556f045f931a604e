"""A picture is decoded once, upright, on white, and says of itself what its file said."""

from __future__ import annotations

import io
import struct
import zlib
from functools import cache
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from bimo.core.files import MAXIMUM_PICTURE_PIXELS
from bimo.curation.decoded_image import MODEL_SIDES, ORIENTATION, decode_image, is_copyable, reduction, shard_bytes
from bimo.curation.readers.rows import Unusable

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


def encoded(picture: Image.Image, kind: str, **settings: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def noise(size: tuple[int, int], channels: int = 3) -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    return Image.fromarray(values)


@cache
def large(kind: str) -> bytes:
    return encoded(noise((1100, 1030)), kind)


def corners() -> Image.Image:
    """40 x 24: red, green, blue and black corners."""
    picture = Image.new("RGB", (40, 24), "white")
    for colour, place in (("red", (0, 0)), ("lime", (32, 0)), ("blue", (0, 16)), ("black", (32, 16))):
        picture.paste(colour, (*place, place[0] + 8, place[1] + 8))
    return picture


def near(found: Any, wanted: tuple[int, ...], within: int = 40) -> bool:
    return all(abs(a - b) <= within for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format(kind: str) -> None:
    seen = decode_image(encoded(corners(), kind))
    assert (seen.format, seen.size, seen.image.mode, seen.image.size) == (kind, (40, 24), "RGB", (40, 24))
    assert near(seen.image.getpixel((2, 2)), (255, 0, 0))
    assert (seen.animated, seen.transparent, seen.turned, seen.profile) == (False, False, False, False)
    assert is_copyable(seen) == (kind in ("JPEG", "PNG", "WEBP"))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_every_orientation(turn: int, kind: str) -> None:
    from PIL.Image import Transpose

    back = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE"}
    back |= {6: "ROTATE_90", 7: "TRANSVERSE", 8: "ROTATE_270"}  # what undoes the turn
    stored = corners() if turn == 1 else corners().transpose(Transpose[back[turn]])
    exif = Image.Exif()
    exif[ORIENTATION] = turn
    data = encoded(stored, kind, exif=exif)
    seen = decode_image(data)
    assert seen.size == seen.image.size == (40, 24)
    for place, colour in (((2, 2), (255, 0, 0)), ((37, 2), (0, 255, 0)), ((2, 21), (0, 0, 255)), ((37, 21), (0, 0, 0))):
        assert near(seen.image.getpixel(place), colour)
    assert seen.turned == (turn != 1)
    sent = shard_bytes(data)
    assert (sent == data) == (turn == 1 and kind != "TIFF")
    assert near(Image.open(io.BytesIO(sent)).convert("RGB").getpixel((37, 2)), (0, 255, 0))


def test_reduced_alike_whatever_the_format() -> None:
    assert [reduction((side, 9999)) for side in (100, 319, 320, 639, 640, 1280, 8000)] == [1, 1, 2, 2, 4, 8, 8]
    # The longer side counts as well: what is square is halved while it stays 256.
    assert [reduction((side, side)) for side in (511, 512, 1023, 1024)] == [1, 2, 2, 4]
    assert [reduction((side, 9999), MODEL_SIDES) for side in (1023, 1024, 2048)] == [1, 2, 4]
    picture = Image.linear_gradient("L").resize((2200, 1201)).convert("RGB")
    sizes = {kind: decode_image(encoded(picture, kind)) for kind in FORMATS}
    assert {seen.image.size for seen in sizes.values()} == {(550, 301)}
    assert {decode_image(encoded(picture, kind), MODEL_SIDES).image.size for kind in FORMATS} == {(1100, 601)}
    assert {seen.size for seen in sizes.values()} == {(2200, 1201)}
    means = [float(np.asarray(seen.image).mean()) for seen in sizes.values()]
    assert max(means) - min(means) < 1.0


def test_a_turned_large_jpeg() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    seen = decode_image(encoded(noise((2048, 1100)), "JPEG", exif=exif))
    assert (seen.size, seen.image.size, seen.turned) == ((1100, 2048), (275, 512), True)
    sent = Image.open(io.BytesIO(shard_bytes(seen.data)))
    assert (sent.format, sent.size) == ("PNG", (1100, 2048))


@pytest.mark.slow
@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9, 0.99])
def test_truncation_is_seen_at_every_place(kind: str, share: float) -> None:
    data = large(kind)
    with pytest.raises(Unusable) as error:
        decode_image(data[: int(len(data) * share)])
    assert error.value.reason == "truncated"


def test_progressive_and_cut_in_the_last_pass() -> None:
    data = encoded(noise((1100, 1030)), "JPEG", progressive=True)
    assert decode_image(data).size == (1100, 1030)
    with pytest.raises(Unusable, match="truncated"):
        decode_image(data[: int(len(data) * 0.99)])


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"<html>404</html>", "not a picture"),
        (b"%PDF-1.7\n" + bytes(50), "not a picture"),
        (b"\xff\xd8\xff\xe0", "damaged"),
        (png_header(30_000, 30_000), "too large"),
        (png_header(8193, 8192), "too large"),
        (png_header(2_000_000_000, 2_000_000_000), "too large"),
        (png_header(100, 100), "truncated"),
    ],
)
def test_what_cannot_be_decoded(data: bytes, reason: str) -> None:
    for decode in (decode_image, lambda data: shard_bytes(data) if reason != "truncated" else decode_image(data)):
        with pytest.raises(Unusable) as error:
            decode(data)
        assert error.value.reason == reason


def test_the_pixel_limit_is_the_packages() -> None:
    assert MAXIMUM_PICTURE_PIXELS == 8192 * 8192
    seen = decode_image(encoded(Image.new("1", (30_000, 20)), "PNG"))
    assert (seen.size, seen.image.size, seen.mode) == ((30_000, 20), (30_000, 20), "1")


def test_damaged_inside() -> None:
    data = bytearray(encoded(noise((200, 200)), "PNG"))
    place = data.index(b"IDAT") + 4
    data[place : place + 2] = b"\xff\xff"
    with pytest.raises(Unusable) as error:
        decode_image(bytes(data))
    assert error.value.reason == "damaged"


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
def test_animated(kind: str) -> None:
    frames = [Image.new("RGB", (40, 30), colour) for colour in ("red", "blue")]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    seen = decode_image(data)
    assert seen.animated
    assert near(seen.image.getpixel((5, 5)), (255, 0, 0))
    assert not is_copyable(seen)
    still = Image.open(io.BytesIO(shard_bytes(data)))
    assert (still.format, getattr(still, "n_frames", 1)) == ("PNG", 1)


def test_two_pictures_in_one_jpeg_of_a_phone() -> None:
    data = encoded(corners(), "MPO", save_all=True, append_images=[corners()])
    seen = decode_image(data)
    assert (seen.format, seen.animated, is_copyable(seen), shard_bytes(data) == data) == ("JPEG", False, True, True)


def test_transparent_is_on_white() -> None:
    clear = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    clear.paste((0, 0, 255, 255), (0, 0, 10, 20))
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    palette.paste(0, (0, 0, 10, 20))
    grey = Image.new("LA", (20, 20), (29, 0))
    grey.paste((29, 255), (0, 0, 10, 20))
    for data in (
        encoded(clear, "PNG"),
        encoded(clear, "WEBP", lossless=True),
        encoded(palette, "PNG", transparency=1),
        encoded(palette, "GIF", transparency=1),
        encoded(grey, "PNG"),
    ):
        seen = decode_image(data)
        assert seen.transparent
        assert near(seen.image.getpixel((15, 5)), (255, 255, 255), 2)
        assert seen.image.getpixel((5, 5)) in ((0, 0, 255), (29, 29, 29))
        assert near(Image.open(io.BytesIO(shard_bytes(data))).getpixel((15, 5)), (255, 255, 255), 2)
    opaque = decode_image(encoded(Image.new("RGBA", (9, 9), (1, 2, 3, 255)), "PNG"))
    assert (opaque.transparent, opaque.image.getpixel((0, 0)), is_copyable(opaque)) == (False, (1, 2, 3), False)


def test_cmyk_jpeg_of_adobe_is_not_inverted() -> None:
    data = encoded(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in data
    seen = decode_image(data)
    assert seen.mode == "CMYK"
    assert near(seen.image.getpixel((9, 9)), (255, 0, 0), 6)
    assert near(Image.open(io.BytesIO(shard_bytes(data))).getpixel((9, 9)), (255, 0, 0), 6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled(kind: str) -> None:
    values = np.linspace(0, 65535, 64, dtype=np.uint16)
    seen = decode_image(encoded(Image.fromarray(np.tile(values, (8, 1))), kind))
    assert seen.mode == "I;16"
    row = np.asarray(seen.image)[0, :, 0]
    assert row.tolist() == np.rint(values / 257).astype(int).tolist()


def test_fractions_and_wide_numbers_are_scaled() -> None:
    fractions = Image.fromarray(np.array([[0.0, 0.5, 1.0, np.nan]], dtype=np.float32))
    assert np.asarray(decode_image(encoded(fractions, "TIFF")).image)[0, :, 0].tolist() == [0, 128, 255, 0]
    wide = Image.fromarray(np.array([[-100_000, 0, 100_000]], dtype=np.int32))
    assert np.asarray(decode_image(encoded(wide, "TIFF")).image)[0, :, 0].tolist() == [0, 128, 255]


def test_one_bit_palette_and_grey() -> None:
    for mode in ("1", "L", "P"):
        seen = decode_image(encoded(corners().convert(mode), "PNG"))
        assert (seen.mode, seen.image.mode, is_copyable(seen)) == (mode, "RGB", False)


def test_a_profile_is_noted_and_left() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    data = encoded(corners(), "PNG", icc_profile=profile)
    seen = decode_image(data)
    assert seen.profile
    assert seen.image.getpixel((2, 2)) == (255, 0, 0)
    assert is_copyable(seen)
    exif = Image.Exif()
    exif[ORIENTATION] = 3
    sent = Image.open(io.BytesIO(shard_bytes(encoded(corners(), "PNG", icc_profile=profile, exif=exif))))
    assert sent.info["icc_profile"] == profile


def test_damaged_exif_is_no_damaged_picture() -> None:
    data = encoded(corners(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(range(60)))
    assert (decode_image(data).size, decode_image(data).turned) == ((40, 24), False)
