"""What is behind the page: its form, tables and votes, and that nothing of it opens to anybody else."""

import asyncio
import base64
import io
import json
import random
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

pytest.importorskip("gradio")

import gradio as gr
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from starlette.testclient import TestClient

import bimo
from bimo.core.errors import BimoError, RequestError
from bimo.core.lora_weight import LoraWeight
from bimo.core.messages import Message, speaking
from bimo.engine.engine import Engine
from bimo.prompts.styles import STYLES
from bimo.serve.app import create_app, unknown_paths
from bimo.serve.enlarging import enlarged
from bimo.serve.gate import Gate
from bimo.serve.jobs import CHOSEN, LANGUAGE, Failure, Job, Order, State, StoredPicture
from bimo.serve.keys import KeyStore
from bimo.serve.page import gallery, models
from bimo.serve.page.comparison import Votes, rows, sheet
from bimo.serve.page.drawing import Drawing
from bimo.serve.page.dropped import settings_of
from bimo.serve.page.form import Form, filled
from bimo.serve.page.fragments import EXAMPLES
from bimo.serve.page.gallery import PictureName
from bimo.serve.page.layout import mount
from bimo.serve.page.models import RATIOS, Offer
from bimo.serve.page.session import DRAWN_OVER, Page, Visitor
from bimo.serve.service import DrawingService
from tests.serve.test_scheduler import lora_file

#: gradio, with the pandas of today.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
FORM = Form(text="红苹果", width=128, height=128, steps=2, guidance=2.0, seed=1)
VISITOR = Visitor("local", "tab", "en")


def sent(**changed: Any) -> list[Any]:
    """The values of a form as a browser sends them."""
    values = {each.name: getattr(FORM, each.name) for each in fields(Form)}
    values = {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}
    return list((values | changed).values())


def png(colour: str = "red", size: tuple[int, int] = (128, 128)) -> str:
    """A picture as the canvas sends it."""
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def drawn(service: DrawingService, form: Form = FORM) -> Job:
    """The job of a form when it is done."""
    job = service.accept(Page(service).order(form, "local"), form.pictures())
    ended = service.wait_here(job.id)
    assert ended.state is State.done, ended.failure and ended.failure.said("en")
    return ended


WRONG: list[dict[str, Any]] = [
    {"text": " "},
    {"text": "字" * 1001},
    {"text": None},
    {"text": 5},
    {"text": "\ud800"},
    {"negative": "\udfff"},
    {"negative": {}},
    {"style": "nothing"},
    {"style": 7},
    {"width": 4096},
    {"width": None},
    {"width": 64.5},
    {"height": 100},
    {"height": [128]},
    {"steps": 101},
    {"steps": float("nan")},
    {"steps": True},
    {"guidance": float("nan")},
    {"guidance": "2"},
    {"count": 9},
    {"count": None},
    {"seed": float("inf")},
    {"seed": "1"},
    {"seed": 1.5},
    {"seed": 1e300},
    {"seed": -2},
    {"sampler": "nonesuch"},
    {"schedule": "kar"},
    {"spacing": "x"},
    {"eta": 2},
    {"clip_skip": 65},
    {"empty_negative": "yes"},
    {"model": "nonesuch"},
    {"loras": "ink"},
    {"loras": ["ink"]},
    {"loras": ["ink:strong"]},
    {"loras": ["ink:0.8@0.6-0.2"]},
    {"loras": ["ink:11"]},
    {"image": "http://127.0.0.1/x.png"},
    {"image": "data:image/png;base64,AAAA"},
    {"image": "%%%"},
    {"image": png(), "strength": 0},
    {"control": "depth", "control_image": png()},
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong)[:60])
def test_a_wrong_value_gets_a_sentence(service: DrawingService, wrong: dict[str, Any]) -> None:
    def asked() -> None:
        form = Form.read(sent(**wrong))
        service.accept(Page(service).order(form, "local"), form.pictures())

    with pytest.raises(RequestError) as caught:
        asked()
    assert caught.value.en
    assert caught.value.zh
    assert service.open_jobs() == []


@pytest.mark.slow
def test_values_of_any_kind_are_answered() -> None:
    odd: list[Any] = [None, "", "猫", "\ud800", 0, 1, -1, 2.5, 1e300, True, [], {}, "x" * 5000, 128, [1]]
    odd += [float("nan"), float("inf")]
    rng = random.Random(14)
    names = [each.name for each in fields(Form)]
    refused: list[BimoError] = []
    for _ in range(300):
        try:
            Form.read(sent(**{name: rng.choice(odd) for name in rng.sample(names, rng.randrange(1, 4))})).pictures()
        except BimoError as error:
            refused.append(error)
    assert 0 < len(refused) < 300
    assert all(error.zh and error.en for error in refused)
    with pytest.raises(RequestError, match="expected"):
        Form.read(sent()[:-1])


def test_sentences_speak_as_their_reader_does() -> None:
    with pytest.raises(RequestError) as caught:
        Form.read(sent(steps=0))
    with speaking("zh"):
        assert str(caught.value) == "步数是 0，应在 1 到 100 之间"
    with speaking("en"):
        assert str(caught.value) == "steps is 0; expected 1 to 100"


def test_what_is_left_as_it_is_says_nothing() -> None:
    said = Form.read(sent(seed=-1, sampler="", negative="", clip_skip=1, eta=0)).values()
    assert said.keys() == {"text", "size", "count", "steps", "guidance", "seed"}
    assert 0 <= said["seed"] < 2**32
    assert Form.read(sent(empty_negative=True)).values()["negative"] == ""
    assert "strength" in Form.read(sent(image=png())).values()
    assert replace(FORM, inscribe="福\n寿", writing="vertical").values()["inscribe"] == ["福", "寿"]
    assert replace(FORM, embeddings=("<mine>",)).values()["text"] == "红苹果 <mine>"


def test_a_form_comes_back_from_its_picture(service: DrawingService) -> None:
    form = replace(FORM, style="ink", sampler="euler", count=2)
    job = drawn(service, form)
    record = dict(job.pictures[1].record["request"])
    back = filled(record)
    assert (back["text"], back["style"], back["sampler"]) == ("红苹果", "ink", "euler")
    assert (back["width"], back["height"], back["steps"], back["seed"], back["count"]) == (128, 128, 2, 2, 1)
    again = drawn(service, Form.read(sent(**back)))
    assert again.pictures[0].file.read_bytes() == job.pictures[1].file.read_bytes()


def dropped(content: bytes) -> str:
    """A file as the page's script sends it."""
    return "data:image/png;base64," + base64.b64encode(content).decode() + " 1700000000"


def saved(**texts: str) -> bytes:
    info = PngInfo()
    for name, text in texts.items():
        info.add_itxt(name, text)
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


def test_settings_come_back_from_pictures_of_other_programs(
    make_service: Callable[..., DrawingService], photo_engine: Engine, tmp_path: Path
) -> None:
    service = make_service(engine=photo_engine, lora_files={"ink": tmp_path / "ink.safetensors"})
    a1111 = (
        "a cat <lora:ink:0.5><lora:oil:1>\nNegative prompt: blurry\nSteps: 3, Sampler: DPM++ 2M Karras, "
        "CFG scale: 4.5, Seed: 42, Size: 64x96, Model: v1-5, ENSD: 31337"
    )
    graph = {
        "3": {
            "class_type": "KSampler",
            "inputs": {
                "seed": 5,
                "steps": 4,
                "cfg": 6.5,
                "sampler_name": "euler_ancestral",
                "scheduler": "karras",
                "positive": ["6", 0],
                "negative": ["7", 0],
                "latent_image": ["5", 0],
            },
        },
        "5": {"class_type": "EmptyLatentImage", "inputs": {"width": 63, "height": 64}},
        "6": {"class_type": "CLIPTextEncode", "inputs": {"text": "一只猫"}},
        "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "blurry"}},
    }
    with speaking("en"):
        found = settings_of(dropped(saved(parameters=a1111)), service.pool, photo_engine, "local")
        assert (
            found.values.items()
            >= {
                "text": "a cat",
                "negative": "blurry",
                "steps": 3,
                "guidance": 4.5,
                "seed": 42,
                "width": 64,
                "height": 96,
                "sampler": "DPM++ 2M",
                "schedule": "karras",
                "loras": ["ink:0.5"],
            }.items()
        )
        assert "v1-5" in found.notes[0]
        assert any("ENSD" in note for note in found.notes)
        assert any("oil" in note for note in found.notes)
        comfy = settings_of(dropped(saved(prompt=json.dumps(graph))), service.pool, photo_engine, "local")
        assert comfy.values["text"] == "一只猫"
        assert comfy.values["sampler"] == "Euler a"
        assert "width" not in comfy.values
        assert any("63" in note for note in comfy.notes)
        for wrong, says in (
            (dropped(saved()), "no settings of bimo"),
            (dropped(b"GIF89a"), "not a picture"),
            ("too large 17", "up to 12 MB"),
        ):
            with pytest.raises(RequestError, match=says):
                settings_of(wrong, service.pool, photo_engine, "local")
    # What comes back is a form that the page takes.
    Form.read(sent(**(found.values | {"loras": []})))


def test_settings_come_back_with_their_loras(
    make_service: Callable[..., DrawingService], tiny_engine: Engine, tmp_path: Path
) -> None:
    service = make_service(lora_files={"ink": lora_file(tiny_engine, tmp_path, "ink")})
    service.start()
    job = drawn(service, replace(FORM, text="红苹果 <lora:ink:0.8@0.2-0.6>"))
    assert job.order.loras == (("ink", LoraWeight(0.8, 0.2, 0.6)),)
    found = settings_of(dropped(job.pictures[0].file.read_bytes()), service.pool, tiny_engine, "local")
    assert (found.values["text"], found.values["loras"]) == ("红苹果", ["ink:0.8@0.2-0.6"])


def test_a_picture_is_drawn_over_at_twice_its_size(
    make_service: Callable[..., DrawingService], photo_engine: Engine
) -> None:
    service = make_service(engine=photo_engine, batch=1)
    service.start()
    page = Page(service)
    job = drawn(service, replace(FORM, text="猫", width=64, height=64, count=2))
    larger = asyncio.run(page.enlarge(job, job.pictures[1], VISITOR))
    ended = service.wait_here(larger.id)
    assert ended.failure is None, ended.failure.said("en")
    image = enlarged(job.pictures[1].file.read_bytes(), (128, 128))
    (expected,) = photo_engine.draw(dict(ended.order.values) | {"image": image})
    with Image.open(ended.pictures[0].file) as drawn_over:
        assert drawn_over.size == (128, 128)
        assert drawn_over.tobytes() == expected.image.tobytes()
    assert ended.order.values["strength"] == DRAWN_OVER
    assert ended.order.values["seed"] == job.pictures[1].seed


def test_a_mask_is_drawn_within(service: DrawingService) -> None:
    mask = Image.new("L", (128, 128), 0)
    mask.paste(255, (0, 0, 64, 128))
    buffer = io.BytesIO()
    mask.save(buffer, "PNG")
    painted = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    job = drawn(service, replace(FORM, image=png("blue"), mask=painted, strength=0.9))
    with Image.open(job.pictures[0].file) as image:
        assert image.convert("RGB").getpixel((120, 64)) == (0, 0, 255)


def test_shapes_are_of_sizes_that_the_model_takes(tiny_engine: Engine) -> None:
    offer = Offer.of(tiny_engine)
    assert offer.shaped("1:1") == (offer.width, offer.height)
    for ratio in RATIOS:
        width, height = offer.shaped(ratio)
        assert width % offer.unit == height % offer.unit == 0
        across, down = map(int, ratio.split(":"))
        assert (width > height) == (across > down)


def test_the_meter_counts_and_tells_what_is_unknown(tiny_engine: Engine) -> None:
    with speaking("en"):
        assert "of 32 tokens" in models.meter(tiny_engine, "红苹果")
        assert "warning" not in models.meter(tiny_engine, "红苹果")
        assert "龙" in models.meter(tiny_engine, "红苹果，龙")
        assert models.meter(tiny_engine, "  ") == ""
        assert "<script>" not in models.meter(tiny_engine, "<script>")
        assert 'data-word="苹果"' in models.words_of(tiny_engine, "果")
        assert 'data-word="猫"' not in models.words_of(tiny_engine, "果")


def test_the_meter_does_not_warn_of_words_that_a_draft_shows() -> None:
    engine: Any = bimo.load("xiaomo-2")
    with speaking("en"):
        assert "warning" not in models.meter(engine, "屋顶上的猫")
        assert "warning" in models.meter(engine, "量子纠缠的铁路局")
        assert "tokens" in models.meter(engine, "(屋顶上的猫:")
        assert "3d2" in engine.system.text_encoders[0].known  # as captions had it; no word to offer
        assert "data-word" not in models.words_of(engine, "3d2")


@pytest.mark.slow
def test_examples_are_drawn_without_a_warning() -> None:
    import bimo

    engine = bimo.load("xiaomo")
    for zh, en, style in EXAMPLES:
        for text in (zh, en):
            assert engine.prepare({"text": text, "style": style}).warnings == ()


def test_tables_over_two_settings() -> None:
    wanted = sheet(replace(FORM, seed=-1), ("steps", "2-4"), ("style", "ink，3d"))
    assert wanted.across == ("2", "3", "4")
    assert wanted.down == ("ink", "3d")
    assert [[(cell.steps, cell.style) for cell in row] for row in wanted.cells][1][2] == (4, "3d")
    assert len({cell.seed for row in wanted.cells for cell in row}) == 1
    for x, y in (
        (("steps", "0"), ("", "")),
        (("steps", ""), ("", "")),
        (("", ""), ("", "")),
        (("steps", "1-99"), ("", "")),
        (("steps", "2"), ("steps", "3")),
        (("nothing", "3"), ("", "")),
        (("guidance", "high"), ("", "")),
        (("steps", "2-9"), ("seed", "1-9")),
    ):
        with pytest.raises(RequestError):
            sheet(FORM, x, y)


def test_a_cell_of_a_table_says_what_a_single_drawing_says() -> None:
    warned = StoredPicture(0, Path("0.png"), 1, 128, 128, 1, 0.1, (), {})
    order = Order("0" * 32, "xiaomo", {"text": "红苹果"}, note={CHOSEN: "xiaomo", LANGUAGE: "en"})
    job = Job(order, State.done, pictures=(replace(warned, warnings=(*order.notes, "没有学过 <龙>")),))
    told = '<span class="why">没有学过 &lt;龙&gt;</span>'
    assert gallery.cell(job, "en").endswith(f"</button>{told}")
    assert gallery.cell(job, "en", blind=True).endswith("</button>")
    flagged = replace(job, pictures=(replace(warned, flagged=Failure("unsafe", Message("out of memory"))),))
    assert gallery.cell(flagged, "en") == '<span class="why">out of memory</span>'
    assert gallery.cell(replace(job, state=State.cancelled, pictures=()), "en") == '<span class="why">stopped</span>'
    assert gallery.cell(None, "en") == '<span class="why">…</span>'


def test_rows_of_a_table() -> None:
    made = rows(FORM, "红苹果\n一只猫\n\n")
    assert [form.text for form in made] == ["红苹果", "一只猫"]
    made = rows(FORM, '\ufeff提示词,风格,steps\n红苹果,ink,3\n"a cat, red",,\n')
    assert [(form.text, form.style, form.steps) for form in made] == [("红苹果", "ink", 3), ("a cat, red", "", 2)]
    assert rows(FORM, "seed\ttext\n7\t猫")[0].seed == 7
    for text, where in (("", "empty"), ("text,steps\n猫,many", "line 2"), ("猫\n" * 70, "70 rows"), ("text", "empty")):
        with pytest.raises(RequestError) as caught:
            rows(FORM, text)
        assert where in caught.value.en


def test_votes_are_what_training_reads(service: DrawingService, tmp_path: Path) -> None:
    from bimo.curation.feedback import build_feedback

    votes = Votes(tmp_path / "votes")
    pairs = [[drawn(service, replace(FORM, seed=seed + side)) for side in (0, 1)] for seed in (1, 11)]
    assert votes.keep(*pairs[0], "a", "local") == votes.keep(*pairs[1], "tie", "local")
    report = build_feedback(tmp_path / "votes" / "choices.jsonl", tmp_path / "pairs")
    assert (report.pairs, report.ties) == (1, 1)
    with pytest.raises(RequestError):
        votes.keep(*pairs[0], "c", "local")


def test_every_style_has_its_picture() -> None:
    """``python tools/style_thumbnails.py`` draws those that lack one."""
    folder = Path(gallery.__file__).with_name("styles")
    assert {file.stem for file in folder.glob("*.webp")} == set(STYLES)
    assert sum(file.stat().st_size for file in folder.glob("*.webp")) < 60_000


def test_prompts_are_shown_as_they_are(service: DrawingService) -> None:
    job = drawn(service, replace(FORM, text='<img src=x onerror=alert(1)> "红苹果'))
    shown = gallery.finished(job) + gallery.history([job], "en") + gallery.about(job, job.pictures[0], "en")
    assert "<img src=x" not in shown
    assert "&lt;img src=x" in shown
    assert PictureName.read(f"{job.id}/0") == PictureName(job.id, 0)
    for odd in ("../../etc/passwd", f"{job.id}/", f"{job.id}/0/1", None, 5, f"{job.id}\n/0"):
        assert PictureName.read(odd) is None


def served(service: DrawingService, keys: KeyStore | None = None) -> TestClient:
    """A client of the application with its page."""
    page = Page(service, keys)
    app = create_app(service, gate=lambda inner: Gate(inner, keys=keys, on_page_closed=page.closed))
    unknown_paths(app)
    mount(app, page)
    return TestClient(app, base_url="http://127.0.0.1", headers={"accept-language": "en"}, follow_redirects=False)


CLOSED = [
    "/gradio_api/file=/etc/passwd",
    "/gradio_api/file/etc/passwd",
    "/file=/etc/passwd",
    "/gradio_api/proxy=http://127.0.0.1/",
    "/gradio_api/upload_progress?upload_id=1",
    "/gradio_api/stream/a/b/c/playlist.m3u8",
    "/gradio_api/openapi.json",
    "/gradio_api/token",
    "/gradio_api/runs",
    "/gradio_api/deep_link",
    "/monitoring",
    "/page/pictures/../../etc/passwd",
    "/page/pictures/" + "0" * 32 + "/0.png",
    "/page/pictures/x/0.exe",
]
UPLOADS = ["upload", "run/draw", "call/draw", "api/draw", "component_server", "vibe-edit"]
SENT = [
    b"",
    b"[]",
    b"{",
    b"[" * 10_000,
    json.dumps({"fn_index": 0, "data": [], "session_hash": "tab"}).encode(),
    json.dumps({"fn_index": 0, "data": sent(), "session_hash": "../tab"}).encode(),
    json.dumps({"fn_index": True, "data": sent(), "session_hash": "tab"}).encode(),
    json.dumps({"fn_index": 999, "data": sent(), "session_hash": "tab"}).encode(),
    json.dumps({"fn_index": 0, "data": {"a": 1}, "session_hash": "tab"}).encode(),
    json.dumps({"fn_index": 0, "data": sent()}).encode(),
]


@pytest.mark.network
def test_what_no_page_asks_is_refused(make_service: Callable[..., DrawingService]) -> None:
    with served(make_service()) as web:
        for path in CLOSED:
            answer = web.get(path)
            assert (answer.status_code, path) == (404, path)
            assert answer.json()["error"]
        for path in UPLOADS:
            answer = web.post(f"/gradio_api/{path}", files={"files": b"x"})
            assert (answer.status_code, path) == (404, path)
            assert answer.json()["error"]
        for body in SENT:
            answer = web.post("/gradio_api/queue/join", content=body)
            assert (answer.status_code, body) == (422, body)
            assert "load it again" in answer.json()["error"]
        too_long = web.post("/gradio_api/queue/join", content=b" " * ((1 << 25) + 1))
        assert too_long.status_code == 413


@pytest.mark.network
def test_with_keys_everybody_sees_his_own(make_service: Callable[..., DrawingService], tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    mine, others = keys.add("me"), keys.add("other")
    service = make_service()
    with served(service, keys) as client:
        assert client.get("/").headers["location"] == "/login"
        assert client.get("/config").status_code == 401
        assert "bimo keys add" in client.get("/login").text
        assert client.post("/login", data={"key": "bimo-wrong"}).status_code == 401
        entered = client.post("/login", data={"key": mine})
        assert entered.headers["location"] == "/"
        assert "httponly" in entered.headers["set-cookie"].lower()
        assert client.get("/").status_code == 200
        job = service.accept(Page(service).order(FORM, "me"), {})
        service.wait_here(job.id)
        path = f"/page/pictures/{job.id}/0"
        assert client.get(f"{path}.png").headers["content-type"] == "image/png"
        assert client.get(f"{path}.webp").headers["content-type"] == "image/webp"
        assert "attachment" in client.get(f"{path}.png?save=1").headers["content-disposition"]
        with Image.open(io.BytesIO(client.get(f"{path}.png?times=2").content)) as larger:
            assert larger.size == (256, 256)
        assert client.get(f"{path}.png?times=3").status_code == 422
        client.cookies.clear()
        assert client.get(f"{path}.png").status_code == 404
        client.post("/login", data={"key": others})
        assert client.get(f"{path}.png").status_code == 404
        keys.revoke("other")
        assert client.get("/").headers["location"] == "/login"


def test_a_closed_page_ends_its_drawing(make_service: Callable[..., DrawingService]) -> None:
    service = make_service()
    page = Page(service)
    job = asyncio.run(page.accept(replace(FORM, steps=100, count=8), VISITOR))
    page.closed("another tab")
    service.start()
    page.closed("tab")
    assert service.wait_here(job.id).state is State.cancelled


def test_what_is_begun_last_has_the_stage_though_it_ends_first(make_service: Callable[..., DrawingService]) -> None:
    service = make_service()
    page = Page(service)
    drawing = Drawing(page, MagicMock(), {"row": None})

    async def outputs(job: Job) -> list[Any]:
        return [each async for each in drawing.follow(job, (128, 128), VISITOR)]

    async def both() -> list[list[Any]]:
        jobs = [await page.accept(replace(FORM, steps=steps, count=2), VISITOR) for steps in (40, 2)]
        service.start()  # the longer one has no start, so that the shorter one goes first
        return await asyncio.gather(*map(outputs, jobs))

    first, last = asyncio.run(both())
    assert "done" in last[-1][0]
    assert first[-1][0] == gr.skip()  # its pictures go to the gallery alone
    assert first[-1][2].count("data-pick") == 4
    assert not page.staged


def test_a_decoder_that_overflows_is_said_by_the_api_and_on_the_page(make_service: Any, photo_folder: Path) -> None:
    engine = bimo.load(photo_folder)
    autoencoder: Any = engine.system.space(engine.recipe.levels[-1].name)
    autoencoder.half().model.decoder.conv_in.weight.data.fill_(3e4)  # more than float16 holds once 36 of them are added
    service = make_service(engine=engine)
    with TestClient(create_app(service), base_url="http://127.0.0.1", headers={"accept-language": "zh"}) as client:
        name = client.post("/v1/jobs", json={"text": "猫", "steps": 2, "size": [64, 64]}).json()["id"]
        job = service.wait_here(name)
        warnings = client.get(f"/v1/jobs/{name}").json()["pictures"][0]["warnings"]
    (told,) = (warning for warning in warnings if "fp32" in warning)
    assert "解码" in told
    assert told in gallery.about(job, job.pictures[0], "zh")
    with Image.open(job.pictures[0].file) as image:
        assert image.convert("L").getextrema()[1] > 0  # it is not black
