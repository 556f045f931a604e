"""Fine-tuning by the page: what is refused, what its process leaves, and that a run outlives servers and is its own."""

import base64
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

from PIL import Image
from starlette.testclient import TestClient

from bimo.core.errors import RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.finetuning.finetuner import Finetuner, FinetuneRequest, Photo
from bimo.serve.finetuning.record import LORA_FILE, RECORD, State, progress, records
from bimo.serve.jobs import State as JobState
from bimo.serve.keys import KeyStore
from bimo.serve.page.layout import mount
from bimo.serve.page.session import Page
from bimo.serve.pool import pool_of
from bimo.serve.safety import PromptFilter
from bimo.serve.service import DrawingService
from bimo.serve.settings import Limits, ServeSettings
from tests.support.waiting import until

#: gradio, with the pandas of today.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
#: In place of `bimo`: a run of five stages of a step that ends, or not, as the class word says.
STAND_IN = """
import json, os, pathlib, signal, sys, time
options = dict(word.split("=", 1) for word in sys.argv if "=" in word)
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
photos = pathlib.Path(sys.argv[2])
out.mkdir(exist_ok=True)
(out / "finetune.json").write_text(json.dumps({"stages": [{"steps": 5}, {"steps": 3}]}))
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
print(f"rank: 8 (for 2 pictures)\\nloading /srv/models/x ...\\n{out.parent}/run/recipe.py was edited", flush=True)
done = len((out / "log.jsonl").read_text().splitlines()) if (out / "log.jsonl").exists() else 0
while done < 5:
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps({"stage": "lora", "step": done + 1, "loss": 0.5, "seconds": 2.0}) + "\\n")
    done += 1
    while options.get("--class") == "slow" and not asked and not (out / "go").exists():
        time.sleep(0.02)
    if asked:
        sys.exit(143)
if options.get("--class") == "wrong":
    print("bimo: 照片都一样", file=sys.stderr)
    sys.exit(6)
if options.get("--class") == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
(out / "state.pt").write_bytes(b"large")
(out / "pytorch_lora_weights.safetensors").write_bytes(b"lora")
(out / "before-after.png").write_bytes((photos / "0001.png").read_bytes())
"""


def png(colour: str = "red", size: tuple[int, int] = (32, 32)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def asked(word: str = "猫", **changed: Any) -> FinetuneRequest:
    photos = (Photo(png(), "red_apple-03.png"), Photo(png("blue"), "IMG_2.png", "一只猫"))
    return FinetuneRequest(**({"model": "tiny", "name": "lanterns", "photos": photos, "word": word} | changed))


@pytest.fixture
def make(tmp_path: Path, tiny_folder: Path) -> Iterator[Callable[..., Finetuner]]:
    """Makes finetuners of one server folder, started; with ``command`` that of the stand-in."""
    (tmp_path / "stand_in.py").write_text(STAND_IN)
    made: list[Finetuner] = []

    def build(check: Callable[[str], None] = lambda text: None, **limits: int) -> Finetuner:
        settings = ServeSettings((str(tiny_folder),), tmp_path / "serve", finetuning=True, limits=Limits(**limits))
        made.append(Finetuner(settings, pool_of(settings), check, (sys.executable, str(tmp_path / "stand_in.py"))))
        made[-1].start()
        return made[-1]

    yield build
    for finetuner in made:
        for record in records(finetuner.settings.folder):
            finetuner.halt(record.id, record.key)
        finetuner.stop()


def state(finetuner: Finetuner, name: str) -> State:
    return finetuner.one(name, "ann").state


def test_a_run_is_done_and_leaves_its_result_alone(make: Callable[..., Finetuner]) -> None:
    finetuner = make()
    record = finetuner.begin(asked(subject="一只<我的>猫", steps=7), "ann")
    assert [path.read_text() for path in sorted((record.folder / "photos").glob("*.txt"))] == ["red apple", "一只猫"]
    words = finetuner._words(record)
    assert words[-3:] == ["--dreambooth=一只<我的>猫", "--steps", "7"]
    until(lambda: state(finetuner, record.id) is State.done)
    left = {path.relative_to(record.folder).as_posix() for path in record.folder.rglob("*") if path.is_file()}
    assert {f"run/{LORA_FILE}", "run/before-after.png", "run/log.jsonl", RECORD} <= left
    assert not any("photos" in name or name.endswith(".pt") for name in left)
    # Only its owner can draw with it, by any interface.
    name = finetuner.one(record.id, "ann").name
    assert name.startswith("lanterns-")
    assert finetuner.pool.loras_of("ann") == [name]
    assert finetuner.pool.lora(name, "ann") == name
    assert finetuner.pool.loras_of("bob") == []
    with pytest.raises(RequestError):
        finetuner.pool.lora(name, "bob")
    for action in (finetuner.one, finetuner.halt, finetuner.resume, finetuner.forget):
        with pytest.raises(RequestError, match="no such fine-tuning"):
            action(record.id, "bob")
    finetuner.forget(record.id, "ann")
    assert not record.folder.exists()
    assert finetuner.pool.loras_of("ann") == []


def test_one_at_a_time_stopped_and_gone_on_with(make: Callable[..., Finetuner]) -> None:
    finetuner = make()
    record = finetuner.begin(asked("slow"), "ann")
    until(lambda: progress(record).done == 1)
    found = progress(record)
    assert (found.steps, found.loss, found.seconds) == (8, 0.5, 14.0)
    assert found.lines == ("rank: 8 (for 2 pictures)", "run/recipe.py was edited")  # a path of the server is not shown
    with pytest.raises(RequestError, match="one at a time"):
        finetuner.begin(asked(), "bob")
    with pytest.raises(RequestError, match="stop it first"):
        finetuner.forget(record.id, "ann")
    finetuner.halt(record.id, "ann")
    until(lambda: state(finetuner, record.id) is State.stopped)
    assert (record.folder / "photos").is_dir()
    (record.run / "go").touch()
    finetuner.resume(record.id, "ann")
    until(lambda: state(finetuner, record.id) is State.done)


@pytest.mark.parametrize(("word", "said"), [("wrong", "照片都一样"), ("killed", "signal 9")])
def test_how_it_failed_is_said(make: Callable[..., Finetuner], word: str, said: str) -> None:
    finetuner = make()
    record = finetuner.begin(asked(word), "ann")
    until(lambda: state(finetuner, record.id) is State.failed)
    assert said in finetuner.one(record.id, "ann").failure


def test_a_stopped_server_goes_on_after_its_next_start(make: Callable[..., Finetuner]) -> None:
    first = make()
    record = first.begin(asked("slow"), "ann")
    until(lambda: progress(record).done == 1)
    first.stop()
    assert state(first, record.id) is State.running
    with pytest.raises(RequestError, match="stopping"):
        first.begin(asked(), "ann")
    (record.run / "go").touch()
    second = make()
    until(lambda: state(second, record.id) is State.done)


def test_a_killed_server_finds_the_process_that_is_still_there(make: Callable[..., Finetuner]) -> None:
    first = make()
    record = first.begin(asked("slow"), "ann")
    until(lambda: progress(record).done == 1)
    second = make()  # as after kill -9: the first has recorded nothing
    assert second.one(record.id, "ann").process == record.process
    with pytest.raises(RequestError, match="one at a time"):
        second.begin(asked(), "bob")
    (record.run / "go").touch()
    until(lambda: state(second, record.id) is State.done)
    assert len((record.run / "log.jsonl").read_text().splitlines()) == 5


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"name": ""}, "the name is"),
    ({"name": "../x"}, "the name is"),
    ({"name": "a" * 41}, "the name is"),
    ({"model": "nonesuch"}, "no model"),
    ({"model": "/etc"}, "no model"),
    ({"photos": ()}, "0 photos"),
    ({"photos": (Photo(png()),) * 4}, "4 photos"),
    ({"photos": (Photo(b"<svg/>", "a.svg"),)}, "a.svg is not a picture"),
    ({"photos": (Photo(png(size=(5000, 5000))),)}, "pixels"),
    ({"steps": 3001}, "at most 3000"),
    ({"steps": -1}, "steps is -1"),
    ({"word": "x" * 201}, "longer than 200"),
    ({"subject": "a\0b"}, "cannot be shown"),
    ({"subject": "my cat", "word": ""}, "class word"),
    ({"word": "", "photos": (Photo(png(), "IMG_1.png"), Photo(png(), "apple.png"))}, "1 photos have no caption"),
    ({"word": "porn"}, "this server draws no prompt"),
]


@pytest.mark.parametrize(("wrong", "said"), WRONG, ids=lambda each: str(each)[:40])
def test_wrong_requests_get_a_sentence_and_leave_nothing(
    make: Callable[..., Finetuner], wrong: dict[str, Any], said: str
) -> None:
    finetuner = make(PromptFilter().check, photos=3)
    with pytest.raises(RequestError) as caught:
        finetuner.begin(asked(**wrong), "ann")
    assert said in caught.value.message.said("en")
    assert records(finetuner.settings.folder) == []
    assert not any((finetuner.settings.folder / "finetuning").glob("*"))


def test_only_so_many_are_kept(make: Callable[..., Finetuner]) -> None:
    finetuner = make(finetunings=1)
    record = finetuner.begin(asked(), "ann")
    until(lambda: state(finetuner, record.id) is State.done)
    with pytest.raises(RequestError, match="delete one"):
        finetuner.begin(asked(), "ann")
    finetuner.begin(asked(), "bob")


@pytest.fixture
def page(make: Callable[..., Finetuner], make_service: Callable[..., DrawingService]) -> Iterator[TestClient]:
    """The page with its tab, and a login."""
    service = make_service()
    keys = KeyStore(service.settings.folder)
    finetuner = make()
    app = create_app(service, keys=keys, finetuner=finetuner)
    unknown_paths(app)
    mount(app, Page(service, keys, finetuner))
    with TestClient(app, base_url="http://127.0.0.1", headers={"accept-language": "en"}) as client:
        client.cookies.set("bimo_key", keys.add("ann"))
        client.headers["x-other"] = keys.add("bob")
        yield client
    keys.close()


def body(word: str = "猫") -> dict[str, Any]:
    photo = {"data": "data:image/png;base64," + base64.b64encode(png()).decode(), "name": "IMG_1.png"}
    return {"model": "tiny", "name": "lanterns", "word": word, "photos": [photo]}


def test_the_routes_are_for_ones_own_runs(page: TestClient) -> None:
    path = "/page/finetunings"
    assert "stays here" in page.get(path).text
    begun = page.post(path, json=body("slow"))
    assert begun.status_code == 200
    assert 'data-state="running"' in begun.text
    name = begun.text.partition('data-run="')[2][:32]
    other = {"cookie": f"bimo_key={page.headers['x-other']}"}
    token, page.cookies = page.cookies.get("bimo_key"), None  # type: ignore[assignment]
    assert name not in page.get(path, headers=other).text
    for action in ("stop", "resume", "forget"):
        assert page.post(f"{path}/{name}/{action}", headers=other).status_code == 400
    assert page.get(f"{path}/{name}/sheet.jpeg", headers=other).status_code == 404
    for wanted in (path, f"{path}/{name}/sheet.jpeg"):
        assert page.get(wanted).status_code == 401
    assert page.post(path, json=body()).status_code == 401
    mine = {"cookie": f"bimo_key={token}"}
    assert page.get(f"{path}/{name}/sheet.jpeg", headers=mine).status_code == 404
    until(lambda: "step 1 of 8" in page.get(path, headers=mine).text)
    page.post(f"{path}/{name}/stop", headers=mine)
    until(lambda: 'data-state="stopped"' in page.get(path, headers=mine).text)
    assert page.post(f"{path}/{name}/explode", headers=mine).status_code == 404
    assert page.post(f"{path}/..%2f..%2fetc/forget", headers=mine).status_code == 404
    assert "stays here" in page.post(f"{path}/{name}/forget", headers=mine).text
    done = page.post(path, json=body(), headers=mine).text.partition('data-run="')[2][:32]
    until(lambda: "among the LoRAs" in page.get(path, headers=mine).text)
    sheet = page.get(f"{path}/{done}/sheet.jpeg", headers=mine)
    assert Image.open(io.BytesIO(sheet.content)).size == (32, 32)
    for wrong in ({"photos": []}, {"x": 1}, body() | {"steps": "many"}, body() | {"photos": [{"data": "http://a/b"}]}):
        answer = page.post(path, json=wrong, headers=mine)
        assert answer.status_code in (400, 422)
        assert answer.json()["error"]


@pytest.mark.slow
def test_photos_become_a_lora_that_draws(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_service: Callable[..., DrawingService]
) -> None:
    """By `bimo finetune` itself; the result draws on the same server, and another picture than without it."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    settings = ServeSettings((str(tiny_folder),), tmp_path / "serve", finetuning=True)
    pool = pool_of(settings)
    finetuner = Finetuner(settings, pool)
    record = finetuner.begin(asked(steps=2), "ann")
    until(lambda: finetuner.one(record.id, "ann").state is not State.running, 600)
    record = finetuner.one(record.id, "ann")
    assert record.state is State.done, record.failure
    found = progress(record)
    assert found.done == found.steps == 4
    assert record.sheet == record.run / "before-after.png"
    service = make_service(tmp_path / "serve")
    service.pool.tuned = pool.tuned
    service.start()

    def drawn(**more: Any) -> bytes:
        values = {"text": "一只猫", "seed": 1, "steps": 2, "size": (64, 64)}
        job = service.wait_here(service.accept(service.order(values, key="ann", client="test", **more), {}).id)
        assert job.state is JobState.done, job.failure
        with Image.open(job.pictures[0].file) as image:
            return image.tobytes()

    assert drawn() != drawn(loras=[(record.name, LoraWeight())])
    finetuner.stop()
