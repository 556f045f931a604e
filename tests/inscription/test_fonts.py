"""Fonts: found by name, file and folder; chosen by which characters they have; named where none has one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from bimo.core.errors import RequestError
from bimo.inscription.fonts import VARIABLE, Face, add_place, faces_for, faces_of, find_faces, system_faces


def test_a_file_a_folder_and_a_family_name_find_the_same_face(
    faces: tuple[Face, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = faces[0]
    (tmp_path / "某字体.bin").write_bytes(b"")
    (tmp_path / face.path.name).write_bytes(face.path.read_bytes())
    monkeypatch.setenv(VARIABLE, "")
    assert add_place(tmp_path) == add_place(tmp_path / face.path.name)
    system_faces.cache_clear()
    assert find_faces(face.family.lower())[0].family == face.family
    monkeypatch.undo()
    system_faces.cache_clear()


def test_a_request_never_names_a_file(faces: tuple[Face, ...]) -> None:
    with pytest.raises(RequestError, match="no font family"):
        find_faces(str(faces[0].path))


def test_a_place_without_chinese_is_named(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=re.escape(tmp_path.name)):
        add_place(tmp_path)


def test_characters_fall_back_to_the_next_face_that_has_them(faces: tuple[Face, ...]) -> None:
    class Lacking(Face):
        def has(self, character: str) -> bool:
            return character != "墨" and super().has(character)

    fields: dict[str, Any] = vars(faces[0]) | {"family": "Lacking"}
    first = Lacking(**fields)
    chosen = faces_for("笔墨", (first, *faces))
    assert (chosen["笔"], chosen["墨"]) == (first, faces[0])


@pytest.mark.slow
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
