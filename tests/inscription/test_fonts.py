"""Fonts: found by name, file and folder; chosen by which characters they have; named where none has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from bimo.core.errors import RequestError
from bimo.inscription.fonts import Face, faces_for, faces_of, find_faces


def test_a_file_a_folder_and_a_family_name_find_the_same_face(faces: tuple[Face, ...], tmp_path: Path) -> None:
    face = faces[0]
    (tmp_path / "某字体.bin").write_bytes(b"")
    (tmp_path / face.path.name).write_bytes(face.path.read_bytes())
    names = {str(face) for face in find_faces(tmp_path)}
    assert str(face) in names
    assert {str(one) for one in find_faces(tmp_path / face.path.name)} == names
    assert find_faces(face.family.lower())[0].family == face.family


def test_characters_fall_back_to_the_next_face_that_has_them(faces: tuple[Face, ...]) -> None:
    class Lacking(Face):
        def has(self, character: str) -> bool:
            return character != "墨" and super().has(character)

    first = Lacking(**vars(faces[0]) | {"family": "Lacking"})
    chosen = faces_for("笔墨", (first, *faces))
    assert (chosen["笔"], chosen["墨"]) == (first, faces[0])


def test_characters_no_font_has_are_named(faces: tuple[Face, ...]) -> None:
    # A code point that Unicode will never give to a character, between one that every font here has.
    with pytest.raises(RequestError, match=r"U\+3FFFE") as caught:
        faces_for("福\U0003fffe", faces)
    assert "U+798F" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\x89PNG" + b"x" * 64, b"OTTO" + b"\xff" * 200])
def test_a_file_that_is_no_font_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "not.ttf"
    path.write_bytes(content)
    with pytest.raises(RequestError, match=r"not\.ttf"):
        faces_of(path)


def test_an_unknown_family_is_answered_with_those_that_are_here(faces: tuple[Face, ...]) -> None:
    with pytest.raises(RequestError) as caught:
        find_faces("No Such Family 体")
    assert faces[0].family in str(caught.value)
