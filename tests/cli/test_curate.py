"""`bimo curate`: lists by name, file and JSON, the account in lines, a threshold changed, what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bimo.cli import curate
from bimo.core.errors import RecipeError, WeightsError
from bimo.core.part import dumps, loads
from bimo.curation.steps import Curation
from bimo.data.loader import Pictures
from tests.support import icc_profiles as profiles
from tests.support.command_line import Run, runner

MINE = """
from dataclasses import dataclass
from typing import ClassVar
from bimo.curation.filters.image_rules import MinSide
from bimo.curation.steps import CaptionStep, Curation, Verdict

@dataclass(frozen=True, kw_only=True)
class Quiet(CaptionStep):
    word: str = "吵"
    says: ClassVar[tuple[str, str]] = ("太吵", "too loud")
    def caption(self, text):
        return Verdict(text, self.word) if self.word in text else text

mine = Curation(name="mine", steps=(MinSide(pixels=30), Quiet()))
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs the command line beside ten pictures; returns (status, standard output, standard error)."""
    monkeypatch.chdir(tmp_path)
    for name in ("LC_ALL", "BIMO_LANGUAGE", "BIMO_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LANG", "C")
    (tmp_path / "photos").mkdir()
    for number in range(10):
        Image.fromarray(np.full((24 + number, 60, 3), 20 * number, np.uint8)).save(tmp_path / f"photos/{number}.png")
        (tmp_path / f"photos/{number}.txt").write_text("太吵了" if number == 9 else f"第 {number} 张照片", "utf-8")
    (tmp_path / "photos/3.png").write_bytes(b"no picture")
    (tmp_path / "mine.py").write_text(MINE, "utf-8")

    return runner(capfd)


def test_a_recipe_file_and_a_threshold_given_by_set(here: Run) -> None:
    command = ("curate", "photos", "data", "--recipe", "./mine.py:mine", "--workers", "1")
    status, out, err = here(*command)
    assert status == 0, err
    lines = out.splitlines()
    assert lines[:4] == [
        "rows in 10 = kept 3 + dropped 6 + failed 1",
        "dropped, MinSide (the shorter side is too small): 5",
        "dropped, Quiet (too loud): 1",
        "failed, not a picture: 1",
    ]
    assert lines[-1] == "data"
    pictures = Pictures(Path("data"))
    assert list(pictures.captions) == [(f"第 {number} 张照片",) for number in (6, 7, 8)]
    assert set(pictures.languages) == {("zh",)}
    status, out, err = here(*command, "--set", "steps.0.pixels=32", "--select-only")
    assert (status, out.splitlines()[0]) == (0, "rows in 10 = kept 1 + dropped 8 + failed 1"), err
    assert "the shards are those of the run before" in err
    report = json.loads(Path("data/report.json").read_text("utf-8"))
    assert report["numbers"]["pictures_opened"] == 0
    assert report["curation"]["steps"][0]["pixels"] == 32


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--recipe", "wukon"), "there is no list called 'wukon'; did you mean wukong?"),
        (("--recipe", "./none.py:x"), "there is no file"),
        (("--recipe", "./mine.py:x"), "has no list 'x'"),
        (("--recipe", "wukong", "--set", "steps.0.pixel=3"), "no field 'pixel'; did you mean pixels?"),
        (("--recipe", "wukong", "--set", "steps.0.pixels"), "expected path=value"),
        (("--recipe", "wukong", "--scorer", "x"), "no step of wukong scores pairs"),
        (("--recipe", "wukong", "--on", "moon"), "expected local or ray"),
        (("--recipe", "wukong", "--select-only"), "run once without --select-only first"),
    ],
)
def test_invalid_arguments_are_refused(here: Run, words: tuple[str, ...], said: str) -> None:
    status, _, err = here("curate", "photos", "data", *words)
    assert status != 0
    assert "Traceback" not in err
    assert said in " ".join(err.split())


def test_the_output_does_not_lie_in_the_source(here: Run) -> None:
    assert "lies in photos" in here("curate", "photos", "photos/data", "--recipe", "wukong")[2]
    assert "there is no nowhere" in here("curate", "nowhere", "data", "--recipe", "wukong")[2]
    status, _, err = here("curate", "photos", "photos/", "--recipe", "wukong")
    assert (status, "are one: photos" in err) == (5, True)


@pytest.mark.slow
def test_the_output_is_that_of_one_source(here: Run) -> None:
    command = ("--recipe", "./mine.py:mine", "--workers", "1")
    assert here("curate", "photos", "data", *command)[0] == 0
    before = {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()}
    shutil.copytree("photos", "others")
    Path("others/0.png").unlink()
    for more in ((), ("--select-only",)):
        status, out, err = here("curate", "others", "data", *command, *more)
        assert (status, out) == (5, "")
        summary = " ".join(err.split())
        assert f"data holds what was made of {Path('photos').resolve()}" in summary
        assert f"the source is {Path('others').resolve()} now; write to another folder, or delete data first" in summary
    assert {path: path.read_bytes() for path in Path("data").rglob("*") if path.is_file()} == before
    # The same source in another place is the same, and without its stored scores the folder is still its own.
    Path("photos").rename("moved")
    assert here("curate", "moved", "data", *command)[0] == 0
    shutil.rmtree("data/work")
    assert here("curate", "others", "data", *command)[0] == 5
    assert here("curate", "moved", "data", *command)[0] == 0
    # Shards that nobody knows the source of are not written over either.
    Path("foreign").mkdir()
    Path("foreign/shard-000000.tar").write_bytes(b"of somebody")
    assert "shards of an unknown source" in " ".join(here("curate", "moved", "foreign", *command)[2].split())
    assert [path.name for path in Path("foreign").iterdir()] == ["shard-000000.tar"]


def test_aesthetic_scores_use_the_users_weights(here: Run) -> None:
    every = curate.lists()
    Path("head.pth").write_bytes(b"")
    with pytest.raises(WeightsError, match=r"there is no file none\.pth"):
        curate.changed(every["huahua"], [], None, "none.pth")
    for name in ("huahua", "danqing"):
        status, _, err = here("curate", "photos", "data", "--recipe", name)
        assert (status, "--aesthetic none to leave that step out" in " ".join(err.split())) == (3, True)
        kinds = [type(step).__name__ for step in every[name].steps]
        without = curate.changed(every[name], [], None, "none")
        assert [type(step).__name__ for step in without.steps] == [kind for kind in kinds if kind != "Aesthetic"]
        at = kinds.index("Aesthetic")
        filled = curate.changed(every[name], [], "./chinese-clip", "head.pth").steps
        assert (filled[at].head, filled[at].scorer) == ("head.pth", "openai/clip-vit-large-patch14")  # type: ignore[attr-defined]
        assert filled[kinds.index("Similarity")].scorer == "./chinese-clip"  # type: ignore[attr-defined]
        assert curate.changed(every[name], [f"steps.{at}.head=./head.pth"]).steps[at].head == "./head.pth"  # type: ignore[attr-defined]
    with pytest.raises(RecipeError, match="no step of wukong judges beauty"):
        curate.changed(every["wukong"], [], None, "head.pth")


def test_limits_of_fetching_are_given_by_name() -> None:
    limits = curate.limits_of(["hosts=oss.local,10.0.0.5", "seconds=60", "redirects=0"])
    assert (limits.hosts, limits.seconds, limits.redirects) == ({"oss.local", "10.0.0.5"}, 60.0, 0)
    assert limits.workers == 32
    for setting, said in (
        ("hots=a", "did you mean hosts"),
        ("seconds=soon", "number above 0, such as seconds=20.0"),
        ("workers=0", "number above 0, such as workers=32"),
        ("workers", "number above 0"),
    ):
        with pytest.raises(RecipeError, match=said):
            curate.limits_of([setting])


def test_why_nothing_can_be_written_is_said(here: Run) -> None:
    Path("file").write_text("a file", "utf-8")
    for out in ("file", "file/data"):
        status, _, err = here("curate", "photos", out, "--recipe", "wukong")
        assert status == 5
        assert "A part of the path is a file and no folder" in " ".join(err.split())
        assert "make room" not in err


def test_every_list_is_data_and_can_be_a_file(here: Run) -> None:
    every = curate.lists()
    assert set(every) == {"wukong", "huahua", "taiyi", "altdiffusion", "danqing"}
    for name, listed in every.items():
        assert name == listed.name
        assert loads(dumps(listed)) == listed
        assert listed.title
        assert len(listed.note) > 100
    Path("wukong.json").write_text(dumps(every["wukong"]), "utf-8")
    assert curate.curation("wukong.json") == (every["wukong"], ())
    changed = curate.changed(every["taiyi"], ["steps.0.pixels=256"], "./clip")
    assert isinstance(changed, Curation)
    assert (changed.steps[0].pixels, changed.steps[-1].scorer) == (256, "./clip")  # type: ignore[attr-defined]


def test_the_scorer_has_a_text_and_an_image_encoder(tmp_path: Path) -> None:
    import torch

    from bimo.diffusion.system import System
    from bimo.recipes.taiyi_clip import taiyi_clip_b32

    torch.manual_seed(0)
    tiny = taiyi_clip_b32.tiny()
    system = System(replace(tiny, text_encoders=(replace(tiny.text_encoders[0], words="lexicon"),))).eval()
    system.text_encoders[0].build_tokenizer(("一只猫",), ("猫", "一只"))  # type: ignore[attr-defined]
    system.save(tmp_path / "clip")
    scorer = curate.open_scorer(str(tmp_path / "clip"))
    assert scorer is curate.open_scorer(str(tmp_path / "clip"))
    words = scorer.words(["一只猫", "猫"])
    seen = scorer.pictures([Image.new("RGB", (40, 30), "red")])
    assert (words.dtype, seen.dtype) == (np.float32, np.float32)
    assert words.shape[1] == seen.shape[1]
    np.testing.assert_allclose(np.linalg.norm(words, axis=1), 1, atol=1e-5)
    assert len(scorer.digest) == 64
    assert np.array_equal(scorer.pictures([scorer.fitted(Image.new("RGB", (40, 30), "red"))]), seen)
    rounded = curate.open_scorer(str(tmp_path / "clip"), curate.Scoring.bf16)
    assert rounded.digest == f"{scorer.digest} bf16"
    assert rounded.words(["猫"]).dtype == np.float32
    assert not np.array_equal(rounded.words(["一只猫", "猫"]), words)


def test_a_continued_run_scores_in_the_dtype_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bimo.models.clip import scoring

    every, kinds = curate.lists(), curate.Scoring

    def chosen(times: float, asked: str = "fastest", name: str = "taiyi") -> tuple[str, str]:
        monkeypatch.setattr(scoring, "fastest", lambda: times)
        return curate.dtype_of(every[name], tmp_path, kinds(asked)), capsys.readouterr().err

    assert chosen(9.0, name="wukong") == ("fp32", "")
    assert chosen(0.4)[0] == "fp32"
    # What is measured later does not change it: a run that goes on would mix two kinds of scores.
    assert chosen(4.3) == ("fp32", "scoring in fp32 (as the scores that are there)\n")
    dtype, said = chosen(4.3, "bf16")
    assert (dtype, "scores in fp32 are made anew" in said) == ("bf16", True)
    assert chosen(0.4)[0] == "bf16"
    (tmp_path / "work" / "scoring.json").unlink()
    assert chosen(4.3) == ("bf16", "scoring in bf16 (measured: bf16 is 4.3 times as fast as fp32)\n")


def test_a_run_that_keeps_no_row_fails(here: Run) -> None:
    command = ("curate", "photos", "data", "--recipe", "./mine.py:mine", "--workers", "1")
    status, out, err = here(*command, "--set", "steps.0.pixels=999")
    assert out.splitlines()[0] == "rows in 10 = kept 0 + dropped 9 + failed 1"
    assert (status, "data" in out.splitlines()) == (5, False)
    assert "not one row was kept; data/report.html and data/table have what became of each" in " ".join(err.split())
    assert not Path("data/index.json").exists()
    # Another threshold finds some: the same folder goes on.
    assert here(*command)[0] == 0


def test_a_start_that_fails_leaves_nothing(here: Run) -> None:
    Path("empty").mkdir()
    Path("header").mkdir()
    Path("header/t.csv").write_text("file_name,caption\n")
    for recipe in (("--recipe", "wukong"), ("--recipe", "taiyi", "--scorer", "./none")):
        for source, said in (("empty", "nothing in empty can be read"), ("header", "header is empty: tables")):
            status, _, err = here("curate", source, "deep/data", *recipe)
            assert (status, said in " ".join(err.split())) == (5, True)
            assert not Path("deep").exists()
    assert here("curate", "photos", "deep/data", "--recipe", "./mine.py:mine", "--workers", "1")[0] == 0


def test_files_colours_and_formats_are_in_the_account(here: Run) -> None:
    profile = profiles.of_matrix("Display P3", profiles.DISPLAY_P3)
    Image.new("RGB", (60, 60), (200, 60, 40)).save("photos/8.png", icc_profile=profile)
    Path("photos/4.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(99))
    Path("photos/.DS_Store").write_bytes(b"\0")
    Path("photos/people.csv").write_text("name,age\nBob,3\n")
    status, out, err = here("curate", "photos", "data", "--recipe", "./mine.py:mine", "--workers", "1")
    assert status == 0, err
    lines = out.splitlines()
    assert "failed, not a format that is read: 1; convert them to JPEG or PNG" in lines
    assert "kept with colours converted from Display P3 to sRGB: 1" in lines
    assert "read as 11 pictures in folders; captions are in .txt or .json files of the same name" in lines
    assert "files 23 = captions 10 + pictures 11 + not read 2" in lines
    assert "not read, a table without a column of pictures: 1 (people.csv: name, age)" in lines
    assert "not read, hidden, or left behind by a system: 1 (.DS_Store)" in lines
    page = Path("data/report.html").read_text("utf-8")
    assert "people.csv: name, age" in page
    assert ".DS_Store" in page
    # Selecting anew looks at no file, and says what was said.
    assert [line for line in lines if line.startswith(("files", "not read", "read as"))] == [
        line
        for line in here("curate", "photos", "data", "--recipe", "./mine.py:mine", "--select-only")[1].splitlines()
        if line.startswith(("files", "not read", "read as"))
    ]
