"""ICC profiles made here, of matrices, greys and a small table of CMYK: what cameras, phones and printers embed."""

from __future__ import annotations

import struct

Matrix = tuple[tuple[float, float, float], ...]

#: Columns XYZ of red, green and blue, adapted to D50 (ICC.1), as each space's published profile has them.
DISPLAY_P3: Matrix = ((0.51512, 0.24120, -0.00105), (0.29198, 0.69225, 0.04189), (0.15710, 0.06657, 0.78407))
ADOBE_RGB: Matrix = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
PROPHOTO: Matrix = ((0.79767, 0.28804, 0.0), (0.13519, 0.71188, 0.0), (0.03134, 0.00009, 0.82491))
SRGB: Matrix = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))
D50 = (0.9642, 1.0, 0.8249)
#: The curve of sRGB, which Display P3 has as well: a parametric one of kind 3.
CURVE_OF_SRGB = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)


def _fixed(value: float) -> bytes:
    return struct.pack(">i", round(value * 65536))


def _xyz(values: tuple[float, ...]) -> bytes:
    return b"XYZ \0\0\0\0" + b"".join(map(_fixed, values))


def _curve(gamma: float | tuple[float, ...]) -> bytes:
    if isinstance(gamma, tuple):
        return b"para\0\0\0\0" + struct.pack(">HH", 3, 0) + b"".join(map(_fixed, gamma))
    return b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256)) + b"\0\0"


def _text(text: str) -> bytes:
    data = text.encode() + b"\0"
    return b"desc\0\0\0\0" + struct.pack(">I", len(data)) + data + bytes(4 + 4 + 2 + 1 + 67)


def _profile(
    kind: bytes, space: bytes, connection: bytes, tags: dict[bytes, bytes], version: int = 0x02400000
) -> bytes:
    table, body, place = b"", b"", 128 + 4 + 12 * len(tags)
    for name, data in tags.items():
        data += bytes(-len(data) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", version, kind, space, connection)
    head += bytes(12) + b"acsp" + bytes(28) + b"".join(map(_fixed, D50))
    return head.ljust(128, b"\0") + struct.pack(">I", len(tags)) + table + body


def of_matrix(name: str, matrix: Matrix, gamma: float | tuple[float, ...] = CURVE_OF_SRGB) -> bytes:
    """A profile of RGB by its three colours and one curve."""
    colours = dict(zip((b"rXYZ", b"gXYZ", b"bXYZ"), map(_xyz, matrix), strict=True))
    curves = {curve: _curve(gamma) for curve in (b"rTRC", b"gTRC", b"bTRC")}
    tags = {b"desc": _text(name), b"wtpt": _xyz(D50), **colours, **curves}
    return _profile(b"mntr", b"RGB ", b"XYZ ", tags)


def of_grey(name: str, gamma: float) -> bytes:
    """A profile of grey by its curve."""
    tags = {b"desc": _text(name), b"wtpt": _xyz(D50), b"kTRC": _curve(gamma)}
    return _profile(b"mntr", b"GRAY", b"XYZ ", tags)


def of_cmyk(name: str, paper: tuple[int, int, int], inked: tuple[int, int, int]) -> bytes:
    """A profile of CMYK with two points a channel: no ink is ``paper``, any ink at full ``inked``, in Lab of 8 bits."""
    lattice = b"".join(bytes(paper if place == 0 else inked) for place in range(16))
    straight = bytes(range(256))
    lut = b"mft1\0\0\0\0" + bytes((4, 3, 2, 0))
    lut += b"".join(_fixed(float(row == column)) for row in range(3) for column in range(3))
    lut += straight * 4 + lattice + straight * 3
    tags = {b"desc": _text(name), b"wtpt": _xyz(D50), b"A2B0": lut, b"A2B1": lut}
    return _profile(b"prtr", b"CMYK", b"Lab ", tags)
