"""`bimo eval` from the command line: given pictures to a report in both languages, what is refused, votes."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from bimo.cli import main
from bimo.evaluation.suites.suite import own

GROUPS = ("--group", "counts", "--group", "invariance", "--limit", "2", "--no-text")


@pytest.fixture(autouse=True)
def english(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_LANGUAGE", "en")


@pytest.fixture
def api(tmp_path: Path) -> Path:
    """Pictures that another program drew for some of our suite."""
    folder = tmp_path / "api"
    folder.mkdir()
    for place, prompt in enumerate(own().only(groups=("counts", "invariance"), limit=2).prompts):
        image = Image.linear_gradient("L").rotate(place * 20).convert("RGB")
        image.resize((96, 96)).save(folder / f"{prompt.key}.png")
    return folder


def test_a_report_is_written_in_both_languages(api: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main.run(["eval", "--pictures", str(api), *GROUPS, "--out", str(out)]) == 0
    assert capsys.readouterr().out.strip() == str(out / "report.html")
    page = (out / "report.html").read_text("utf-8")
    assert not re.search("https?:", page.replace("http://www.w3.org/2000/svg", ""))  # nothing is fetched
    assert "<script" not in page
    for word in ("三只猫", "Pictures by group", "逐组的图", "similarity of other spellings (pixels)", "写法不同像不像"):
        assert word in page
    assert page.count("<figure") == 4 + 6  # the Chinese of both groups: 2, and 2 families of 4 spellings
    data = json.loads((out / "report.json").read_text("utf-8"))
    model = data["models"]["api"]
    assert model["numbers"]["zh.alike, spellings (pixels)"]["n"] == 6
    assert model["record"]["measured"]["prompts"] == len(model["pictures"]) == 14
    card = (out / "api" / "model-card.md").read_text("utf-8")
    yaml = pytest.importorskip("yaml")
    index = yaml.safe_load(card.split("---")[1])["model-index"][0]
    assert index["name"] == "api"
    assert index["results"][0]["dataset"]["name"] == "chinese"
    metrics = {one["name"]: one["value"] for one in index["results"][0]["metrics"]}
    wanted = model["numbers"]["zh.alike, spellings (pixels)"]["value"]
    assert metrics["zh.alike, spellings (pixels)"] == pytest.approx(wanted, abs=1e-5)


def test_an_earlier_report_is_compared_where_it_was_made_the_same_way(
    api: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    assert main.run(["eval", "--pictures", str(api), *GROUPS, "--out", str(first)]) == 0
    line = ["eval", "--pictures", str(api), *GROUPS, "--out", str(second), "--against", str(first / "report.json")]
    assert main.run(line) == 0
    assert "api / api  zh.alike, spellings (pixels)" in capsys.readouterr().out
    record = json.loads((first / "report.json").read_text("utf-8"))
    record["models"]["api"]["record"]["measured"]["seeds"] = [7]
    (first / "report.json").write_text(json.dumps(record), encoding="utf-8")
    assert main.run(line) == 5
    assert "seeds ([1] / [7])" in capsys.readouterr().err
    (first / "report.json").write_text(json.dumps({**record, "version": 0}), encoding="utf-8")
    assert main.run(line) == 5
    assert "version 0" in capsys.readouterr().err
    (first / "report.json").write_text("{", encoding="utf-8")
    assert main.run(line) == 5
    assert "is no report of a suite" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "--out"),
        (["--out", "o"], "--pictures"),
        (["xiaomo", "--out", "o", "--suite", "chines"], "chinese"),
        (["xiaomo", "--out", "o", "--seeds", "3-1"], "expected numbers"),
        (["xiaomo", "--out", "o", "--resize", "bicubic"], "clean-fid"),
        (["xiaomo", "--out", "o", "--endpoint", "http://x/v1"], "#MODEL"),
        (["xiaomo", "--out", "o", "--protocol", "coco-cn"], "is of the suite coco-cn, not of chinese"),
        (["xiaomo", "--out", "o", "--group", "dish"], "no group 'dish'"),
        (["xiaomo", "--out", "o", "--suite", "chinese", "--data", "d"], "not for chinese"),
        (["xiaomo", "--out", "o", "--suite", "xiaomo", "--clip-zh", "x", "--data", "d"], "leave out --clip-zh"),
        (["xiaomo", "./xiaomo", "--out", "o"], "two models are called xiaomo"),
        (["--pictures", "none", "--out", "o"], "no folder of pictures"),
        (["xiaomo", "--out", "o", "--suite", "mine.txt", "--endpoint", "http://x/v1#m"], "leave out --endpoint"),
        (["xiaomo", "--out", "o", "--known", "none"], "none holds no picture"),
        (["xiaomo", "--out", "o", "--real", "none"], "none holds no picture"),
        (["xiaomo", "--out", "o", "--real", "real"], "6726825d"),
        (["--votes", "none.jsonl"], "cannot read none.jsonl"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(
    words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "real").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "real" / "1.png")
    (tmp_path / "mine.txt").write_text("红苹果\n", encoding="utf-8")
    assert main.run(["eval", *words]) in (2, 4, 5)
    assert said in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_models_are_rated_by_votes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"a": "1.png", "b": "2.png", "choice": "a", "model_a": "kolors", "model_b": "xiaomo"}
    rows = [{**row, "a": f"{n}.png", "choice": "a" if n else "b"} for n in range(4)]
    (tmp_path / "votes.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{", encoding="utf-8")
    assert main.run(["eval", "--votes", str(tmp_path / "votes.jsonl")]) == 0
    said = capsys.readouterr()
    assert re.match(r"kolors: \d+ points \[\d+, \d+\], 75% won, 4 votes\nxiaomo: ", said.out)
    assert "line is no vote 1" in said.err
