"""Pictures come to eight bits of sRGB by their own profile and kind: known colours, whatever way they are read."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from bimo.core import colour
from bimo.core.errors import RequestError
from bimo.core.request import Request
from bimo.curation.decoded_image import decode_image, is_copyable, shard_bytes
from bimo.curation.folder import build_folder
from bimo.curation.readers.rows import Unusable
from bimo.data.loader import Pictures
from bimo.diffusion.image_inputs import pixels_of
from tests.support import icc_profiles as profiles

P3 = profiles.of_matrix("Display P3", profiles.DISPLAY_P3)
ADOBE = profiles.of_matrix("Adobe RGB (1998)", profiles.ADOBE_RGB, 2.19921875)
PROPHOTO = profiles.of_matrix("ProPhoto RGB", profiles.PROPHOTO, 1.8)
GREY = profiles.of_grey("Gray Gamma 1.0", 1.0)
CMYK = profiles.of_cmyk("A press", (250, 128, 128), (100, 190, 170))
SRGB = profiles.of_matrix("sRGB of somebody", profiles.SRGB)
#: (profile, mode, pixel, the same in sRGB by the spaces' own definitions, clipped to what sRGB can show)
COLOURS = {
    "Display P3": (P3, "RGB", (200, 60, 40), (217, 42, 23)),
    "Adobe RGB (1998)": (ADOBE, "RGB", (120, 160, 90), (99, 161, 85)),
    "ProPhoto RGB": (PROPHOTO, "RGB", (120, 120, 120), (139, 139, 139)),
    "Gray Gamma 1.0": (GREY, "L", 55, (128, 128, 128)),
}


def encoded(image: Image.Image, kind: str = "PNG", **settings: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **settings)
    return buffer.getvalue()


def near(found: Any, wanted: tuple[int, ...], within: int = 3) -> bool:
    return all(abs(int(a) - b) <= within for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("name", COLOURS)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP", "AVIF"])
def test_known_colours(name: str, kind: str) -> None:
    profile, mode, given, wanted = COLOURS[name]
    if kind in ("WEBP", "AVIF") and mode != "RGB":
        pytest.skip("holds no grey of one channel")
    more = {"quality": 100} if kind in ("JPEG", "WEBP", "AVIF") else {}
    data = encoded(Image.new(mode, (32, 32), given), kind, icc_profile=profile, **more)
    seen = decode_image(data)
    within = 3 if kind in ("PNG", "TIFF") else 6
    assert near(seen.image.getpixel((9, 9)), wanted, within)
    assert (seen.profile, seen.converted, is_copyable(seen)) == (True, name, False)
    sent = Image.open(io.BytesIO(shard_bytes(data)))
    assert near(sent.convert("RGB").getpixel((9, 9)), wanted, within)
    # What was converted is not converted again.
    assert colour.profile_of(sent) == ""
    assert near(decode_image(shard_bytes(data)).image.getpixel((9, 9)), wanted, within)


def test_cmyk_with_a_profile_and_without() -> None:
    blank = Image.new("CMYK", (16, 16), (0, 0, 0, 0))
    seen = decode_image(encoded(blank, "TIFF", icc_profile=CMYK))
    assert seen.converted == "A press"
    inked = decode_image(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "TIFF", icc_profile=CMYK))
    own = ImageCms.profileToProfile(
        Image.new("CMYK", (4, 4), (255, 0, 0, 0)),
        io.BytesIO(CMYK),
        ImageCms.createProfile("sRGB"),
        ImageCms.Intent.RELATIVE_COLORIMETRIC,
        "RGB",
        flags=ImageCms.Flags.BLACKPOINTCOMPENSATION,
    )
    assert own is not None
    wanted: Any = own.getpixel((0, 0))
    assert near(inked.image.getpixel((3, 3)), wanted, 1)
    assert not near(inked.image.getpixel((3, 3)), (0, 255, 255), 20)
    bare = decode_image(encoded(Image.new("CMYK", (16, 16), (255, 0, 0, 0)), "TIFF"))
    assert (bare.converted, bare.image.getpixel((3, 3))) == ("", (0, 255, 255))


def test_transparency_stays_and_white_is_white() -> None:
    image = Image.new("RGBA", (16, 16), (200, 60, 40, 255))
    image.paste((9, 9, 9, 0), (8, 0, 16, 16))
    seen = decode_image(encoded(image, icc_profile=P3))
    assert near(seen.image.getpixel((2, 2)), (217, 42, 23))
    assert seen.image.getpixel((12, 2)) == (255, 255, 255)
    assert seen.transparent
    palette = image.convert("RGB").quantize(4)
    assert near(decode_image(encoded(palette, icc_profile=P3)).image.getpixel((2, 2)), (217, 42, 23))
    grey = decode_image(encoded(Image.new("LA", (9, 9), (55, 255)), icc_profile=GREY))
    assert near(grey.image.getpixel((2, 2)), (128, 128, 128))


def test_grey_of_sixteen_bits_with_transparency() -> None:
    """A PNG of colour type 4, which Pillow gives as RGBA."""
    row = b"\0" + struct.pack(">HH", 55 * 257, 65535) * 8
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 16, 4, 0, 0, 0)), (b"iCCP", b"g\0\0" + zlib.compress(GREY))]
    chunks += [(b"IDAT", zlib.compress(row * 8)), (b"IEND", b"")]
    data = b"".join(struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c)) for k, c in chunks)
    seen = decode_image(b"\x89PNG\r\n\x1a\n" + data)
    assert (seen.image.getpixel((3, 3)), seen.converted) == ((128, 128, 128), "Gray Gamma 1.0")


def test_what_is_srgb_stays_byte_by_byte() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for profile in (SRGB, ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()):
        data = encoded(noise, icc_profile=profile)
        seen = decode_image(data)
        assert (seen.profile, seen.converted) == (True, "")
        assert shard_bytes(data) == data
        assert np.array_equal(np.asarray(seen.image), np.asarray(noise))


@pytest.mark.parametrize("profile", [b"no profile at all", P3[:200], P3[:128] + bytes(300), GREY, CMYK])
def test_a_profile_that_is_none_or_of_other_pixels_says_nothing(profile: bytes) -> None:
    seen = decode_image(encoded(Image.new("RGB", (9, 9), (200, 60, 40)), icc_profile=profile))
    assert (seen.converted, seen.image.getpixel((2, 2))) == ("", (200, 60, 40))


def test_grey_pixels_beside_a_profile_of_rgb() -> None:
    linear = profiles.of_matrix("linear", profiles.SRGB, 1.0)
    seen = decode_image(encoded(Image.new("L", (9, 9), 55), icc_profile=linear))
    assert near(seen.image.getpixel((2, 2)), (128, 128, 128))
    assert seen.converted == "linear"


def test_numbers_by_their_kind() -> None:
    def shown(values: Any, kind: str) -> list[int]:
        image = Image.fromarray(np.asarray([values], kind))
        from_curation = np.asarray(decode_image(encoded(image, "TIFF")).image)[0, :, 0].tolist()
        assert np.asarray(colour.opaque(image)[0])[0, :, 0].tolist() == from_curation
        return from_curation

    assert shown([0, 257, 32896, 65535], "uint16") == [0, 1, 128, 255]
    assert shown([0, 100, 200], "uint16") == [0, 0, 1]  # dark, not stretched
    assert shown([0.0, 0.25, 1.0], "float32") == [0, 64, 255]
    assert shown([0.25, 0.5], "float32") == [64, 128]
    assert shown([0, 32896, 65535], "int32") == [0, 128, 255]
    assert shown([0, 7, 255], "int32") == [0, 7, 255]
    assert shown([-100, 0, 100], "int32") == [0, 128, 255]
    for values in ([0.0, 255.0], [-0.5, 0.5], [0.0, float("inf")]):
        image = Image.fromarray(np.asarray([values], "float32"))
        with pytest.raises(RequestError, match="nothing says which is white"):
            colour.opaque(image)
        with pytest.raises(Unusable) as error:
            decode_image(encoded(image, "TIFF"))
        assert error.value.reason == "range unknown"


def test_drawing_curation_and_training_see_one_colour(tmp_path: Path) -> None:
    """A phone's photo, on its side: turned, and in the colours that a viewer shows."""
    turned = Image.Exif()
    turned[0x0112] = 6
    image = Image.new("RGB", (48, 32), (200, 60, 40))
    data = encoded(image, "PNG", icc_profile=P3, exif=turned)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").write_bytes(data)
    (tmp_path / "photos" / "a.txt").write_text("红")
    report = build_folder(tmp_path / "photos", tmp_path / "data")
    assert report.converted == {"Display P3": 1}
    learnt = Pictures(tmp_path / "data").fitted((32, 48)).pixels([0])
    asked: Any = Request(text="红", image=data).image
    drawn = pixels_of(asked, (32, 48))
    for pixels in (learnt, drawn):
        values = ((pixels[0, :, 20, 20] + 1) * 127.5).round().int().tolist()
        assert near(values, (217, 42, 23))


def test_training_reads_shards_that_others_wrote_by_their_profiles(tmp_path: Path) -> None:
    from bimo.data.shards import shard_name, write_index, write_shard

    data = encoded(Image.new("RGB", (32, 32), (200, 60, 40)), icc_profile=P3)
    row = {"captions": [{"text": "红", "lang": "zh"}], "labels": {}}
    write_index(tmp_path, [write_shard(tmp_path / shard_name(0), [("0", data, row)], "s")])
    values = ((Pictures(tmp_path).fitted().pixels([0])[0, :, 3, 3] + 1) * 127.5).round().int().tolist()
    assert near(values, (217, 42, 23))
