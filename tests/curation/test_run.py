"""A run, end to end: the account, the trail, the same bytes whatever happens, thresholds changed without a picture."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from bimo.core.errors import DataError
from bimo.core.part import Part
from bimo.curation.executors.executor import SerialExecutor, load_file
from bimo.curation.executors.processes import ProcessExecutor
from bimo.curation.phases import store, write
from bimo.curation.phases.run import curate
from bimo.curation.readers import reading
from bimo.curation.report import summary
from bimo.curation.steps import Curation, Tools
from bimo.data import shards
from tests.support.checkout import ROOT

pytestmark = pytest.mark.slow

FILES = (("curation_steps", str(ROOT / "tests" / "support" / "curation_steps.py")),)
steps = load_file(FILES[0][0], Path(FILES[0][1]))
COUNT = 150


TOOLS = Tools(steps.no_scorer)


def picture(number: int, kind: str = "JPEG", **settings: Any) -> bytes:
    """A picture of 20 to 39 pixels across whose light grows with its number."""
    noise = np.random.default_rng(number).integers(0, 1 + number, (24, 20 + number % 20, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind, **settings)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 pictures with captions, among them what fails: no caption, damaged, no picture at all."""
    source = tmp_path_factory.mktemp("pairs")
    for number in range(COUNT):
        path = source / f"{number:03d}.jpg"
        path.write_bytes(picture(number))
        cat = f"第 {number} 只猫"
        said = {0: "包邮", 1: "很常见", 2: f"{cat}包邮\na cat", 3: f"{cat}包邮\n{cat}"}.get(
            number % 10, f"第 {number} 张"
        )
        path.with_suffix(".txt").write_text(said, "utf-8")
    turned = Image.Exif()
    turned[0x0112] = 6
    (source / "004.jpg").write_bytes(picture(4, exif=turned))
    (source / "005.jpg").write_bytes(picture(5)[:300])
    (source / "006.jpg").write_bytes(b"<html>")
    return source


def listed(log: Path) -> tuple[Part, ...]:
    """One step of every kind."""
    return (
        steps.Wide(pixels=23),
        steps.Mend(),
        steps.Bright(below=70.0),
        steps.Common(most=5),
        steps.Guess(log=str(log / "guess.log")),
        steps.Tell(log=str(log / "tell.log")),
        steps.Twice(),
    )


def run(source: Path, out: Path, chosen: tuple[Part, ...], workers: Any = None, **more: Any) -> dict[str, Any]:
    return curate(
        source, out, Curation(name="test", steps=chosen), tools=TOOLS, workers=workers or SerialExecutor(), **more
    )


def products(out: Path) -> dict[str, str]:
    """The SHA-256 of everything that must not depend on how a run went."""
    files = [*out.glob("*.tar"), *out.glob("table/*"), out / "selection.parquet", out / "index.json"]
    assert len(files) > 4
    return {str(f.relative_to(out)): hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(files)}


def table_of(out: Path) -> dict[int, dict[str, Any]]:
    return {row["number"]: row for file in sorted(out.glob("table/*")) for row in pq.read_table(file).to_pylist()}


@pytest.fixture(scope="session")
def finished(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A run that nothing happened to. Not to be written to."""
    out = tmp_path_factory.mktemp("finished") / "out"
    return out, run(pairs, out, listed(out.parent))


def test_account_and_trail(pairs: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    numbers = report["numbers"]
    assert numbers["rows_in"] == COUNT == numbers["kept"] + numbers["dropped"] + numbers["failed"]
    assert numbers["pictures_opened"] == COUNT
    assert report["failures"] == {"damaged": 1, "not a picture": 1} or sum(report["failures"].values()) == 2
    assert json.loads((out / "report.json").read_text("utf-8")) == report
    rows = table_of(out)
    assert sorted(rows) == list(range(COUNT))
    narrow = rows[21]
    assert (narrow["state"], narrow["rule"], narrow["step"]) == ("dropped", "Wide", 0)
    assert (json.loads(narrow["value"]), json.loads(narrow["threshold"])) == (21, 23)
    # The verdict of a later rule does not count, its scores are there all the same.
    assert narrow["light"] is not None
    assert narrow["hash"] == (1 << 63) + 21
    advert = rows[10]
    assert (advert["rule"], json.loads(advert["value"])) == ("Mend", "包邮")
    assert advert["captions_before"] == ["包邮"]
    mended = rows[12]
    assert mended["captions"] == ["第 12 只猫", "a cat", "32 宽"]
    assert [what["what"] for what in json.loads(mended["trail"])] == ["caption mended", "labels", "captions written"]
    assert rows[13]["captions"] == ["第 13 只猫", "33 宽"]
    assert [w["what"] for w in json.loads(rows[13]["trail"])][:2] == ["caption mended", "caption dropped"]
    frequent = rows[11]
    assert (frequent["rule"], json.loads(frequent["threshold"])) == ("Common", 5)
    assert report["rules"][3]["dropped"] == sum(row["rule"] == "Common" for row in rows.values()) > 0
    assert (rows[146]["rule"], rows[134]["state"]) == ("Bright", "kept")
    widest = [row for row in rows.values() if row["repeats"] == 2]
    assert {row["width"] for row in widest} == {39}
    assert numbers["samples"] == numbers["kept"] + len(widest)


def test_shards_are_what_training_reads(pairs: Path, finished: tuple[Path, dict[str, Any]]) -> None:
    out, report = finished
    shards.verify(out)
    samples = {key: (data, record) for key, data, record in shards.read(out)}
    assert list(samples) == sorted(samples)
    assert len(samples) == report["numbers"]["samples"]
    data, record = samples["0000000014"]
    assert data == (pairs / "014.jpg").read_bytes()
    assert record["captions"] == [{"text": "第 14 张", "lang": "zh"}, {"text": "34 宽", "lang": "zh"}]
    assert record["labels"] == {"often": 1}
    assert "014" in record["source"]
    data, _ = samples["0000000004"]
    upright = Image.open(io.BytesIO(data))
    assert (upright.format, upright.size) == ("PNG", (24, 24))
    assert samples["0000000019-r1"] == samples["0000000019"]
    chosen = pq.read_table(out / "selection.parquet").to_pylist()
    assert {f"{row['number']:010d}" for row in chosen} == {key.partition("-")[0] for key in samples}
    assert {row["shard"] for row in chosen} == {0}


def test_report_shows_both_sides_of_a_threshold(finished: tuple[Path, dict[str, Any]]) -> None:
    _, report = finished
    rule = report["rules"][2]
    assert (rule["rule"], rule["score"], rule["en"]) == ("Bright", "light", "too bright")
    (found,) = rule["thresholds"]
    assert found["threshold"] == 70.0
    assert min(row["value"] for row in found["dropped"]) >= 70 > max(row["value"] for row in found["passed"])
    values = [row["value"] for row in found["dropped"]]
    assert values == sorted(values)
    light = report["scores"]["light"]
    assert sum(light["counts"]) == light["count"] == COUNT - 2
    assert light["missing"] == 2
    assert sum(light["kept"]) == report["numbers"]["kept"]
    assert light["edges"][0] == light["least"]


def test_same_bytes_whatever_the_number_of_workers(
    pairs: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    report = run(pairs, tmp_path / "out", listed(tmp_path), ProcessExecutor(3, FILES))
    assert products(tmp_path / "out") == products(finished[0])
    wanted = {name: value for name, value in finished[1]["numbers"].items() if "second" not in name}
    assert {name: report["numbers"][name] for name in wanted} == wanted


def test_second_run_opens_nothing(pairs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run(pairs, out, listed(tmp_path))
    before, times = products(out), {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    asked = (tmp_path / "guess.log").read_text()
    report = run(pairs, out, listed(tmp_path))
    assert report["numbers"]["pictures_opened"] == 0
    assert products(out) == before
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.tar")} == times
    assert (tmp_path / "guess.log").read_text() == asked


def test_thresholds_change_without_a_picture(pairs: Path, tmp_path: Path) -> None:
    source, out, anew = tmp_path / "source", tmp_path / "out", tmp_path / "anew"
    shutil.copytree(pairs, source)
    run(source, out, listed(tmp_path))
    asked = (tmp_path / "guess.log").read_text().splitlines()
    chosen = list(listed(tmp_path))
    chosen[0], chosen[2] = steps.Wide(pixels=30), steps.Bright(below=60.0)
    wanted = run(source, anew, tuple(chosen))
    (tmp_path / "guess.log").write_text("")
    shutil.rmtree(source)
    report = run(source, out, tuple(chosen), stored=True)
    numbers = {"rows_in", "kept", "dropped", "failed", "samples"}
    assert {n: report["numbers"][n] for n in numbers} == {n: wanted["numbers"][n] for n in numbers}
    assert report["shards"] is None
    assert (tmp_path / "guess.log").read_text() == ""
    before, after = table_of(anew), table_of(out)
    assert [row["trail"] for row in before.values()] == [row["trail"] for row in after.values()]
    # What nobody asked the model about cannot be known.
    chosen[0] = steps.Wide(pixels=20)
    with pytest.raises(DataError, match="Guess has not seen row"):
        run(source, out, tuple(chosen), stored=True)
    assert len(asked) == len(set(asked))


def test_model_is_asked_only_about_what_it_has_not_seen(pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path / "out", listed(tmp_path))
    seen = set((tmp_path / "guess.log").read_text().split())
    (tmp_path / "guess.log").write_text("")
    chosen = list(listed(tmp_path))
    chosen[0] = steps.Wide(pixels=21)
    report = run(pairs, tmp_path / "out", tuple(chosen))
    more = (tmp_path / "guess.log").read_text().split()
    assert more
    assert not set(more) & seen
    assert report["numbers"]["pictures_opened"] == 0
    run(pairs, tmp_path / "anew", tuple(chosen))
    assert products(tmp_path / "out") == products(tmp_path / "anew")


def test_settled_step_judges_by_the_whole_set(pairs: Path, tmp_path: Path) -> None:
    report = run(pairs, tmp_path / "out", (steps.Guess(log=str(tmp_path / "log"), top=True),))
    rows = table_of(tmp_path / "out")
    assert {row["guess"] for row in rows.values() if row["state"] == "kept"} == {2.0}
    assert {json.loads(row["threshold"]) for row in rows.values() if row["state"] == "dropped"} == {1.5}
    assert report["rules"][0]["settings"]["above"] == 1.5


def test_a_changed_step_alone_is_measured_again(pairs: Path, tmp_path: Path) -> None:
    run(pairs, tmp_path / "out", (steps.Wide(pixels=22),))
    report = run(pairs, tmp_path / "out", (steps.Wide(pixels=22, kills=39), steps.Bright(below=70.0)))
    # Wide would have killed this process: what it measured before was kept.
    assert report["numbers"]["pictures_opened"] == COUNT - 2
    run(pairs, tmp_path / "anew", (steps.Wide(pixels=22), steps.Bright(below=70.0)))
    assert products(tmp_path / "out") == products(tmp_path / "anew")


def test_what_raises_fails_alone(pairs: Path, tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(pairs, source)
    (source / "007.txt").write_text("raise", "utf-8")
    (source / "008.txt").write_text("poison", "utf-8")
    chosen = (steps.Wide(fails=29), steps.Mend(), steps.Guess(log=str(tmp_path / "log")))
    report = run(source, tmp_path / "out", chosen)
    failures = report["failures"]
    assert failures["measure Wide: ValueError"] == sum(number % 20 == 9 for number in range(COUNT))
    assert failures["caption Mend: KeyError"] == 1
    assert failures["ask Guess: OverflowError"] == 1
    assert table_of(tmp_path / "out")[8]["detail"] == "poison"


def test_a_picture_that_kills_is_found_by_halving(pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for path in pairs.iterdir():
        if 7 <= int(path.stem) < 22:
            shutil.copy(path, tmp_path / "source")
    report = run(tmp_path / "source", tmp_path / "out", (steps.Wide(kills=37, pixels=22),), ProcessExecutor(2, FILES))
    killers = [10]
    assert report["failures"]["worker killed"] == len(killers)
    assert report["numbers"]["workers_killed"] >= 3
    rows = table_of(tmp_path / "out")
    assert [number for number, row in rows.items() if row["reason"] == "worker killed"] == killers
    assert not list((tmp_path / "out").glob("work/measured/*.part"))
    numbers = report["numbers"]
    assert numbers["rows_in"] == numbers["kept"] + numbers["dropped"] + numbers["failed"] == 15


KILLED_AT = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
count, real = 0, os.replace
def replace(*names):
    global count
    count += 1
    if count == int(sys.argv[3]):
        os.kill(os.getpid(), signal.SIGKILL)
    real(*names)
os.replace = replace
from bimo.curation.executors.executor import load_file
load_file("curation_steps", Path({steps!r}))
import importlib.util
spec = importlib.util.spec_from_file_location("test_run_again", Path({tests!r}) / "test_run.py")
again = importlib.util.module_from_spec(spec)
spec.loader.exec_module(again)
source, out = Path(sys.argv[1]), Path(sys.argv[2])
again.run(source, out, again.listed(out.parent))
print(count)
"""


def test_killed_at_any_rename_the_next_run_goes_on(
    pairs: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    script = KILLED_AT.format(tests=str(Path(__file__).parent), steps=FILES[0][1])
    out = tmp_path / "out"

    def again(at: int) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, str(pairs), str(out), str(at)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)

    # A run writes some forty files; each of these dies a few further on, in every phase in turn.
    for _ in range(12):
        done = again(14)
        if not done.returncode:
            break
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert again(-1).returncode == 0
    assert products(out) == products(finished[0])


def test_full_disk_is_one_sentence_and_no_end(
    pairs: Path, finished: tuple[Path, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, count = os.replace, 0

    def replace(*names: Any) -> None:
        nonlocal count
        count += 1
        if count == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(names[0]))
        real(*names)

    out = tmp_path / "out"
    for _ in range(5):
        with monkeypatch.context() as patched:
            count = 0
            patched.setattr(os, "replace", replace)
            with pytest.raises(DataError, match=r"No space left on device.*run the same command again"):
                run(pairs, out, listed(tmp_path))
    assert not list(out.rglob("*.part"))
    run(pairs, out, listed(tmp_path))
    assert products(out) == products(finished[0])


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room and run the same command again"),
        (errno.EACCES, "Name a folder that you may write in"),
        (errno.EROFS, "Name a folder that you may write in"),
        (errno.EIO, "mend this and run the same command again"),
    ],
)
def test_what_to_do_depends_on_why_nothing_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, advice: str
) -> None:
    def replace(*names: Any) -> None:
        raise OSError(number, os.strerror(number), str(names[0]))

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(DataError, match=advice):
        store.save(tmp_path / "file", b"content")


def test_a_source_that_cannot_be_read_is_not_called_unwritten(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(source: Path) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(source / "table.csv"))

    monkeypatch.setattr(reading, "rows", rows)
    with pytest.raises(DataError, match=r"table.csv cannot be read: Input/output error"):
        run(pairs, tmp_path / "out", ())


def test_an_account_that_does_not_balance_is_no_success(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = write.write_selection
    monkeypatch.setattr(write, "write_selection", lambda out, units: real(out, units) - 1)
    with pytest.raises(DataError, match="does not balance"):
        run(pairs, tmp_path / "out", ())
    tally = summary.Counts(rows=3, samples=2)
    tally.states.update({"kept": 2, "failed": 1})
    summary.check(3, tally, 2, 2)
    for wrong in ((4, 2, 2), (3, 1, 2), (3, 2, 1)):
        with pytest.raises(DataError, match="does not balance"):
            summary.check(wrong[0], tally, wrong[1], wrong[2])


def test_a_picture_that_changes_before_it_is_written_failed(
    pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(pairs, source)
    real = write.plan

    def plan(*given: Any) -> Any:
        (source / "014.jpg").write_bytes(picture(99))
        return real(*given)

    monkeypatch.setattr(write, "plan", plan)
    report = run(source, out, ())
    assert report["failures"]["changed since it was measured"] == 1
    assert table_of(out)[14]["state"] == "failed"
    shards.verify(out)
    assert "0000000014" not in {key for key, _, _ in shards.read(out)}
    monkeypatch.setattr(write, "plan", real)
    again = run(source, out, ())
    assert "changed since it was measured" not in again["failures"]
    assert again["numbers"]["pictures_opened"] == 1


def test_shards_are_cut_by_number_and_by_size(pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SHARD_BYTES", 20_000)
    run(pairs, tmp_path / "out", (steps.Wide(),))
    index = shards.read_index(tmp_path / "out")
    assert len(index.shards) > 3
    keys = [key for key, _, _ in shards.read(tmp_path / "out")]
    assert keys == sorted(keys)
    assert len(keys) == index.count == COUNT - 2
    chosen = pq.read_table(tmp_path / "out" / "selection.parquet").to_pylist()
    for number, shard in enumerate(index.shards):
        inside = {key for key, _, _ in shards.read_shard(tmp_path / "out" / shard.name)}
        assert {f"{row['number']:010d}" for row in chosen if row["shard"] == number} == inside
    # A shorter list of kept rows leaves no shard of the longer one behind.
    run(pairs, tmp_path / "out", (steps.Wide(pixels=37),))
    names = {path.name for path in (tmp_path / "out").glob("shard-*.tar")}
    assert names == {shard.name for shard in shards.read_index(tmp_path / "out").shards}


def test_two_runs_do_not_share_a_folder(pairs: Path, tmp_path: Path) -> None:
    from bimo.curation.phases.run import alone

    with alone(tmp_path / "out" / "work"), pytest.raises(DataError, match="another run is at work"):
        run(pairs, tmp_path / "out", ())


def test_unknown_columns_and_rows_are_reported(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no step before gives 'across'"):
        run(pairs, tmp_path / "out", (steps.Twice(),))


def test_nothing_stored_nothing_selected(pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run once without --select-only"):
        run(pairs, tmp_path / "out", (), stored=True)


def test_columns_give_back_what_they_were_given(tmp_path: Path) -> None:
    big = (1 << 64) - 1
    columns = {"whole": [1, None, -3], "hash": [big, 0, 1], "half": [0.5, 2, None], "text": ["b", None, "甲"]}
    store.save_table(tmp_path / "a.parquet", columns, "of this")
    assert store.fingerprint_of(tmp_path / "a.parquet") == "of this"
    found = store.load_table(tmp_path / "a.parquet").to_pydict()
    assert found == {"whole": [1, None, -3], "hash": [big, 0, 1], "half": [0.5, 2.0, None], "text": ["b", None, "甲"]}
    assert store.table_bytes(columns, "x") == store.table_bytes(columns, "x")
    with pytest.raises(ValueError, match="more than 64 bits"):
        store.plain(1 << 64)
    with pytest.raises(TypeError, match="list is no score"):
        store.plain([])
