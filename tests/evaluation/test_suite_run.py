"""A suite drawn and measured: resumed after a kill, by several processes, refused and damaged pictures counted."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bimo.core.errors import DataError, WeightsError
from bimo.curation.captioning.endpoint import Endpoint
from bimo.evaluation.metrics.inception import Inception
from bimo.evaluation.metrics.resize import Resize, prepared
from bimo.evaluation.suite_drawings import draw_suite, read_pictures, read_table
from bimo.evaluation.suite_run import Entrant, Plan, evaluate_suite
from bimo.evaluation.suites.readers import open_suite
from bimo.evaluation.suites.suite import Suite, own
from bimo.hub.loading import load
from tests.support.chat_endpoint import PROXIES, Standin, said

STEPS = {"steps": 1, "size": (64, 64)}
LOAD = partial(load, "xiaomo")


def quiet(title: str, done: int, total: int) -> None:
    pass


@pytest.fixture(scope="module")
def suite() -> Suite:
    return own().only(groups=("counts", "colours", "invariance", "inscriptions"), limit=1)


def pictures(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "pictures").glob("*.png"))}


@pytest.mark.slow
def test_what_lies_there_is_not_drawn_again(suite: Suite, tmp_path: Path) -> None:
    asked = (("cpu",), suite.prompts[:4], (1, 2), STEPS, tmp_path, 3, quiet)
    first = draw_suite(LOAD, *asked)
    assert [(one.key, one.seed) for one in first.drawn[:3]] == [
        (suite.prompts[0].key, 1), (suite.prompts[0].key, 2), (suite.prompts[1].key, 1)]  # fmt: skip
    assert all(one.seconds > 0 for one in first.drawn)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "pictures").iterdir()}
    assert len(before) == 8
    second = draw_suite(LOAD, *asked)
    assert second.drawn == first.drawn  # with the seconds that they took
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (first.facts["recipe"], first.facts["steps"], first.facts["dtype"]) == ("xiaomo", 1, "fp32")
    assert read_table(tmp_path) == list(first.drawn)


@pytest.mark.slow
def test_two_processes_draw_the_same_pictures(suite: Suite, tmp_path: Path) -> None:
    prompts = suite.prompts[:4]
    draw_suite(LOAD, ("cpu",), prompts, (1,), STEPS, tmp_path / "one", 2, quiet)
    reported: list[tuple[int, int]] = []
    both = draw_suite(
        LOAD, ("cpu", "cpu"), prompts, (1,), STEPS, tmp_path / "two", 2, lambda t, d, n: reported.append((d, n))
    )
    assert pictures(tmp_path / "two") == pictures(tmp_path / "one")
    assert [one.key for one in both.drawn] == [prompt.key for prompt in prompts]
    assert reported[-1] == (4, 4)


@pytest.mark.slow
def test_kill_loses_no_picture(suite: Suite, tmp_path: Path) -> None:
    code = (
        "from tests.evaluation.test_suite_run import *\n"
        "suite = own().only(groups=('counts', 'colours'), limit=9)\n"
        f"draw_suite(LOAD, ('cpu',), suite.prompts, (1,), STEPS, Path({str(tmp_path)!r}), 1, quiet)\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE)
    until = time.monotonic() + 1800  # a busy machine
    while len(list(tmp_path.glob("pictures/*.png"))) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = pictures(tmp_path)
    assert 3 <= len(kept) < 36
    wanted = own().only(groups=("counts", "colours"), limit=9).prompts
    done = draw_suite(LOAD, ("cpu",), wanted, (1,), STEPS, tmp_path, 8, quiet)
    after = pictures(tmp_path)
    assert {name: after[name] for name in kept} == kept
    assert len(done.drawn) + len(done.refused) == len(wanted)


def test_a_prompt_that_is_refused_is_counted_and_the_others_drawn(suite: Suite, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("红苹果\n梨<lora:none:1>\n绿苹果\n", encoding="utf-8")
    mine = open_suite(str(tmp_path / "mine.txt"))
    drawings = draw_suite(LOAD, ("cpu",), mine.prompts, (1,), STEPS, tmp_path / "out", 3, quiet)
    assert [one.key for one in drawings.drawn] == ["0001", "0003"]
    assert list(drawings.refused) == ["0002#1"]
    (tmp_path / "none.txt").write_text("梨<lora:none:1>", encoding="utf-8")
    with pytest.raises(DataError, match="not one of 1 prompts could be drawn"):
        draw_suite(
            LOAD, ("cpu",), open_suite(str(tmp_path / "none.txt")).prompts, (1,), STEPS, tmp_path / "no", 3, quiet
        )


def paint(folder: Path, suite: Suite) -> None:
    """Pictures of a suite by hand: inscriptions printed, others of a colour."""
    from bimo.evaluation.suite_text import printed

    folder.mkdir()
    for place, prompt in enumerate(suite.prompts):
        image = printed(prompt.written) if prompt.written else Image.new("RGB", (96, 96), (place * 40 % 256, 80, 120))
        image.save(folder / f"{prompt.key}.png")


def numbers(report: Sequence[object], measure: str, language: str = "zh") -> float:
    [one] = report
    return next(n.interval.value for n in one.numbers if n.name == f"{language}.{measure}")  # type: ignore[attr-defined]


def test_given_pictures_are_read_and_damaged_ones_counted(suite: Suite, tmp_path: Path) -> None:
    pytest.importorskip("rapidocr")
    paint(tmp_path / "api", suite)
    (tmp_path / "api" / f"{suite.prompts[0].key}.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    (tmp_path / "api" / f"{suite.prompts[1].key}.png").unlink()
    report = evaluate_suite([Entrant("api", pictures=tmp_path / "api")], Plan(suite), tmp_path / "out")
    assert report[0].counted["picture cannot be read"] == 1
    assert report[0].counted["not drawn"] == 1
    assert numbers(report, "text similarity") == pytest.approx(1)
    assert numbers(report, "text OneIG") == pytest.approx(1)
    assert numbers(report, "text similarity, clean print") == pytest.approx(1)
    assert numbers(report, "text similarity, error less the reader's") == pytest.approx(0)
    # Spellings have pictures of different colours here, which are flat: nothing agrees.
    assert report[0].record["measured"]["asked"] == {"steps": None, "guidance": None, "sampler": None, "size": None}
    readings = (tmp_path / "out" / "api" / "readings.jsonl").read_text("utf-8")
    evaluate_suite([Entrant("api", pictures=tmp_path / "api")], Plan(suite), tmp_path / "out")
    assert (tmp_path / "out" / "api" / "readings.jsonl").read_text("utf-8") == readings
    with pytest.raises(DataError, match=r"holds no picture of this suite.*\.png"):
        read_pictures(tmp_path, suite.prompts)


def test_models_that_were_measured_differently_are_not_put_side_by_side(suite: Suite, tmp_path: Path) -> None:
    paint(tmp_path / "a", suite)
    paint(tmp_path / "b", suite)
    for prompt in suite.prompts[:3]:
        Image.new("RGB", (96, 96), "blue").save(tmp_path / "b" / f"{prompt.key}-2.png")
    both = [Entrant(name, pictures=tmp_path / name) for name in "ab"]
    with pytest.raises(DataError, match=r"a and b were not measured in the same way.*pictures \("):
        evaluate_suite(both, Plan(suite, read_text=False), tmp_path / "out")


@pytest.mark.network
def test_an_endpoint_answers_every_check(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    paint(tmp_path / "api", suite)
    standin = Standin()
    try:
        standin.reply = lambda body, count: said("yes" if "Can you" in json.dumps(body) else "是")
        plan = Plan(suite, endpoint=Endpoint(address=standin.address, model="眼"), read_text=False)
        report = evaluate_suite([Entrant("api", pictures=tmp_path / "api")], plan, tmp_path / "out")
    finally:
        standin.close()
    zh = [prompt for prompt in suite.prompts if prompt.language == "zh"]
    right = [np.mean([check.seen for check in prompt.checks]) for prompt in zh]  # who always says yes
    assert numbers(report, "checks (endpoint)") == pytest.approx(np.mean(right))
    asked = {(prompt.key, check) for prompt in suite.prompts for check in prompt.checks}
    assert len(standin.bodies) == len(asked)


class Corners(torch.nn.Module):
    """Stands for Inception: the colours of six points of a picture."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        points = x[:, :, ::150, ::250].flatten(1)
        return points, points


def test_distances_need_weights_and_say_which(suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("torchmetrics")
    paint(tmp_path / "a", suite)
    plan = Plan(suite, read_text=False, real=tmp_path / "a", inception=tmp_path / "none.pth")
    for given, error, message in (
        (plan, WeightsError, "none.pth.*6726825d.*--inception"),
        (replace(plan, real=tmp_path / "nothing"), DataError, "nothing holds no picture"),
        (replace(plan, real=None, training_pictures=tmp_path / "nothing"), DataError, "nothing holds no picture"),
    ):
        with pytest.raises(error, match=message):
            evaluate_suite([Entrant("a", pictures=tmp_path / "a")], given, tmp_path / "out")
        assert not (tmp_path / "out").exists()  # said before hours of drawing
    monkeypatch.setattr("bimo.evaluation.suite_run.load_inception", lambda path: (Corners(), "f" * 64))
    [report] = evaluate_suite([Entrant("a", pictures=tmp_path / "a")], plan, tmp_path / "out")
    found = {number.measure: number.interval.value for number in report.numbers}
    assert found["FID"] == pytest.approx(0, abs=1e-3)  # the same pictures on both sides
    assert found["precision"] == found["recall"] == 1
    assert report.record["measured"]["resize"] == {"how": "torch-fidelity", "short side and centre": 0}
    assert report.record["measured"]["scorers"]["inception"] == "f" * 64
    assert any("SHA-256 ffffffff" in note.en and "6726825d" in note.en for note in report.notes)
    # Features are kept: the network is not asked again.
    monkeypatch.setattr(Corners, "forward", lambda self, x: 1 / 0)
    evaluate_suite([Entrant("a", pictures=tmp_path / "a")], plan, tmp_path / "out")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance` will save")
def test_a_file_of_inception_s_layout_gives_what_torchmetrics_makes_of_its_features(tmp_path: Path) -> None:
    """From a file with the published names to the report, against the library on features taken apart from it."""
    metrics = pytest.importorskip("torchmetrics.image")
    torch.manual_seed(1)
    network = Inception().eval()
    named = {name: value for name, value in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    torch.save(named, tmp_path / "inception.pth")
    suite = own().only(groups=("counts", "colours"), language="zh", limit=5)
    rng = np.random.default_rng(2)
    (tmp_path / "a").mkdir()
    (tmp_path / "real").mkdir()
    images: list[list[Image.Image]] = [[], []]
    for place, prompt in enumerate(suite.prompts):
        for kind, path in enumerate((tmp_path / "a" / f"{prompt.key}.png", tmp_path / "real" / f"{place:02}.png")):
            small = rng.integers(0, 200 + 55 * kind, (4 + 3 * kind, 4, 3), np.uint8)
            image = Image.fromarray(small).resize((80, 60), Image.Resampling.BICUBIC)
            image.save(path)
            images[kind].append(image)
    plan = Plan(suite, read_text=False, real=tmp_path / "real", inception=tmp_path / "inception.pth")
    [report] = evaluate_suite([Entrant("a", pictures=tmp_path / "a")], plan, tmp_path / "out")
    found = {number.measure: number.interval.value for number in report.numbers}
    digest = hashlib.sha256((tmp_path / "inception.pth").read_bytes()).hexdigest()
    assert report.record["measured"]["scorers"]["inception"] == digest

    def features(kind: int) -> torch.Tensor:
        with torch.inference_mode():
            rows = [network(prepared(image, Resize.torch_fidelity)[None])[0] for image in images[kind]]
        return torch.cat(rows).double()

    class Precomputed(torch.nn.Module):
        num_features = 2048

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    drawn, real = features(0), features(1)
    fid = metrics.fid.FrechetInceptionDistance(feature=Precomputed())
    kid = metrics.kid.KernelInceptionDistance(feature=Precomputed(), subsets=1, subset_size=len(drawn))
    for metric in (fid, kid):
        metric.update(real, real=True)
        metric.update(drawn, real=False)
    assert found["FID"] == pytest.approx(float(fid.compute()), rel=1e-3)
    assert found["KID"] == pytest.approx(float(kid.compute()[0]), rel=1e-3)
    assert found["FID"] > 0


def test_near_copies_of_training_pictures_are_named(suite: Suite, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    paint(tmp_path / "a", suite)
    (tmp_path / "train").mkdir()
    wild = Image.fromarray(rng.integers(0, 256, (6, 6, 3), np.uint8)).resize((90, 90), Image.Resampling.BICUBIC)
    wild.save(tmp_path / "train" / "seen.jpg", quality=95)
    wild.resize((64, 64)).save(tmp_path / "a" / f"{suite.prompts[0].key}.png")
    plan = Plan(suite, read_text=False, training_pictures=tmp_path / "train")
    [report] = evaluate_suite([Entrant("a", pictures=tmp_path / "a")], plan, tmp_path / "out")
    assert report.copies == {f"{suite.prompts[0].key}.png": "seen.jpg"}
