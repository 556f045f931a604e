"""The page: in a real browser against a real server, asking no other host; and the bounds behind the form."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import bimo
from bimo.core.errors import BimoError, RequestError
from bimo.core.picture import read_metadata
from tests.support.checkout import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--window-size=1280,1000",
    "--accept-lang=zh-CN",
)
SECONDS = 60
#: Serves, and tells of every host but this one that Python would speak to.
SERVER = """
import socket, sys
connect = socket.socket.connect
def watched(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("OUTSIDE", address, flush=True)
        raise OSError("offline")
    return connect(self, address)
socket.socket.connect = watched
from bimo.cli.main import main
main(["serve", "--port", "0", "-m", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def server(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The page of the toy system: its address and its process."""
    environment = os.environ | {"LANG": "zh_CN.UTF-8", "LC_ALL": "zh_CN.UTF-8", "PYTHONUNBUFFERED": "1"}
    environment |= {"PYTHONPATH": str(ROOT), "BIMO_SERVE": str(tmp_path_factory.mktemp("jobs"))}
    running = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tiny_folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        # A shell starts background jobs deaf to Ctrl-C, and what they start inherits that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stdout is not None
    first = running.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+/", first)
    if found is None:
        running.kill()
    assert found is not None, first + running.communicate(timeout=SECONDS)[1]
    yield found[0], running
    if running.poll() is None:
        running.kill()
    running.communicate(timeout=SECONDS)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A headless Chromium with a fresh profile, saving into ``tmp_path / "saved"``."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium or no chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path / "saved")})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.mark.browser
@pytest.mark.network
def test_page_draws_and_asks_no_other_host(
    server: tuple[str, subprocess.Popen[str]], browser: Any, tmp_path: Path
) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    address, running = server
    wait = WebDriverWait(browser, SECONDS)

    def find(selector: str) -> Any:
        return wait.until(lambda driver: driver.find_element(By.CSS_SELECTOR, selector))

    browser.get(address)
    find("#draw").click()
    assert "提示词是空的" in wait.until(lambda d: d.find_element(By.CSS_SELECTOR, ".toast-wrap").text or None)
    find("#prompt textarea").send_keys("红苹果，龙")
    find("#prompt textarea").send_keys(Keys.SHIFT, Keys.ENTER)
    assert find("#prompt textarea").get_attribute("value") == "红苹果，龙\n"
    find("#prompt textarea").send_keys(Keys.BACKSPACE, Keys.ENTER)
    picture = find("#pictures img")
    assert wait.until(lambda d: d.execute_script("return arguments[0].naturalWidth", picture)) == 128
    assert "没有学过：龙" in find("#notes").text
    link = find("#files a[href*='.png']")
    link.click()
    saved = tmp_path / "saved"
    file = wait.until(lambda _: next(iter(saved.glob("*.png")), None) if saved.is_dir() else None)
    assert file.name.startswith("红苹果，龙-")
    assert read_metadata(file)["request"]["text"] == "红苹果，龙"
    body = find("body").text
    assert all(label in body for label in ("要画什么", "风格", "步数", "例子", "画", "停"))
    assert not any(label in body for label in ("Prompt", "Steps", "__i18n__"))
    hosts = "return [...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).host))]"
    assert browser.execute_script(hosts) == [address.removeprefix("http://").rstrip("/")]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=SECONDS)
    assert "OUTSIDE" not in out
    assert "已中断" in err
    assert "Traceback" not in err
    assert running.returncode == 130


@pytest.fixture(scope="module")
def studio(tiny_folder: Path) -> Iterator[Any]:
    """The toy system behind the page."""
    web = pytest.importorskip("bimo.serve.page")

    made = web.Studio(bimo.load(tiny_folder))
    yield made
    made.folder.cleanup()


FORM: dict[str, Any] = {
    "text": "红苹果",
    "style": "",
    "width": 128,
    "height": 128,
    "steps": 2,
    "guidance": 2.0,
    "seed": 1,
    "count": 1,
    "negative": "",
}


@pytest.mark.parametrize(
    "wrong",
    [
        {"text": " "},
        {"text": "字" * 1001},
        {"style": "nothing"},
        {"width": 4096},
        {"height": 100},
        {"steps": 101},
        {"steps": float("nan")},
        {"guidance": float("nan")},
        {"count": 9},
        {"count": None},
        {"count": True},
        {"text": None},
        {"text": 5},
        {"text": "\ud800"},
        {"negative": None},
        {"negative": "\udfff"},
        {"style": 7},
        {"style": "\ud800"},
        {"seed": float("nan")},
        {"seed": float("inf")},
        {"seed": "1"},
        {"seed": 1.5},
        {"seed": 1e300},
        {"seed": -2},
        {"guidance": "2"},
        {"width": None},
        {"width": 64.5},
        {"height": [128]},
    ],
    ids=str,
)
def test_bounds_hold_behind_the_form(studio: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        studio.draw(**(FORM | wrong))


def test_a_form_is_drawn_as_the_command_line_would(studio: Any) -> None:
    heard: list[tuple[float, str]] = []
    files, said, seed = studio.draw(
        **(FORM | {"count": 2, "style": "ink"}), on_progress=lambda *told: heard.append(told)
    )
    assert [read_metadata(file)["request"]["seed"] for file in files] == [1, 2]
    assert all(read_metadata(file)["request"]["style"] == "ink" for file in files)
    assert seed == 1
    assert "1" in said
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert shares[-1] < 1


def test_fields_of_the_sampler_are_those_of_the_request(studio: Any) -> None:
    said = {"sampler": "Euler", "schedule": "karras", "guidance_rescale": 0.5, "clip_skip": 1, "spacing": "", "eta": 0}
    (file,), _, _ = studio.draw(**(FORM | said))
    record = read_metadata(file)["request"]
    assert (record["sampler"], record["schedule"], record["guidance_rescale"]) == ("euler", "karras", 0.5)
    assert not {"clip_skip", "spacing", "eta"} & record.keys()
    assert studio.request(**(FORM | {"negative": "", "empty_negative": True})).negative == ""
    for wrong in ({"sampler": "DDIM"}, {"schedule": "kar"}, {"clip_skip": 2}, {"eta": 2}, {"spacing": "x"}):
        with pytest.raises(RequestError):
            studio.draw(**(FORM | wrong))


def test_a_drawing_that_nobody_waits_for_ends(studio: Any) -> None:
    from bimo.serve.page import StoppedError

    steps: list[float] = []

    def told(share: float, _: str) -> None:
        steps.append(share)
        if len(steps) == 2:
            studio.left("page")
        studio.wanted("page")

    with pytest.raises(StoppedError):
        studio.draw(**(FORM | {"steps": 20}), on_progress=told)
    assert len(steps) == 2
    with pytest.raises(StoppedError):
        studio.wanted("page")
    studio.came("page")
    studio.wanted("page")
    studio.stop("page")
    with pytest.raises(StoppedError):
        studio.wanted("page")


@dataclass(frozen=True)
class Endless:
    """A page whose drawing goes on until it is stopped: its address, and when a drawing begins and is stopped."""

    address: str
    begun: threading.Event
    stopped: threading.Event


@pytest.fixture
def endless(tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Endless]:
    web = pytest.importorskip("bimo.serve.page")
    import uvicorn
    from fastapi import FastAPI

    from bimo.serve.gate import Gate

    begun, stopped, enough = threading.Event(), threading.Event(), threading.Event()

    def slow(*_: Any, progress: Any) -> list[Any]:
        try:
            for step in range(100_000):
                progress(0, 1, step, 100_000)
                begun.set()
                if enough.wait(0.01):
                    return []
        except web.StoppedError:
            stopped.set()
            raise
        return []

    engine = bimo.load(tiny_folder)
    monkeypatch.setattr(engine, "draw", slow)
    studio = web.Studio(engine)
    gate = Gate(web.mount(FastAPI(), studio), came=studio.came, left=studio.left)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(gate, log_level="warning"))
    serving = threading.Thread(target=server.run, args=([listening],))
    serving.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}/"
    try:
        yield Endless(address, begun, stopped)
    finally:
        enough.set()
        server.should_exit = True
        serving.join()
        listening.close()
        studio.folder.cleanup()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # gradio, with the pandas of today
def test_a_closed_page_ends_its_drawing(endless: Endless) -> None:
    """The connection of a page breaks while its drawing is under way, as a browser's does with its tab."""
    import httpx

    with httpx.Client(timeout=SECONDS) as client:
        config = client.get(f"{endless.address}config").json()
        number = next(one["id"] for one in config["dependencies"] if one["api_name"] == "draw")
        values = [*FORM.values(), None, None, None, 0, None, 1, False]
        with client.stream("GET", f"{endless.address}gradio_api/heartbeat/tab") as heartbeat:
            beats = heartbeat.iter_bytes(1)  # kept: without it the connection ends
            assert next(beats)
            asked = {"data": values, "fn_index": number, "session_hash": "tab"}
            assert client.post(f"{endless.address}gradio_api/queue/join", json=asked).status_code == 200
            assert endless.begun.wait(30)
            assert not endless.stopped.is_set()
        assert endless.stopped.wait(30)


@pytest.mark.browser
@pytest.mark.network
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("how", ["closed", "left", "loaded again"])
def test_a_tab_that_goes_frees_the_drawing(how: str, endless: Endless, browser: Any) -> None:
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys
    from selenium.webdriver.support.ui import WebDriverWait

    first = browser.current_window_handle
    browser.switch_to.new_window("tab")
    browser.get(endless.address)
    wait = WebDriverWait(browser, SECONDS)
    wait.until(lambda d: d.find_element(By.CSS_SELECTOR, "#prompt textarea")).send_keys("红苹果", Keys.ENTER)
    assert endless.begun.wait(SECONDS)
    assert not endless.stopped.is_set()
    if how == "closed":
        browser.close()
        browser.switch_to.window(first)
    elif how == "left":
        browser.get("about:blank")
    else:
        browser.refresh()
    assert endless.stopped.wait(30)


def test_errors_speak_as_their_reader_does(studio: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from bimo.core.messages import speaking

    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    with pytest.raises(RequestError) as caught:
        studio.draw(**(FORM | {"steps": 0}))
    assert str(caught.value) == "steps is 0; expected 1 to 100"
    with speaking("zh"):
        assert str(caught.value) == "步数是 0，应在 1 到 100 之间"
        assert "秒" in studio.draw(**FORM)[1]


def test_requests_of_any_kind_are_answered(studio: Any) -> None:
    odd = [
        None,
        "",
        "猫",
        "\ud800",
        0,
        1,
        -1,
        2.5,
        1e300,
        float("nan"),
        float("inf"),
        True,
        [],
        {},
        "x" * 5000,
        128,
        "🐱",
    ]
    rng = random.Random(14)
    refused: list[BimoError] = []
    for _ in range(300):
        form = FORM | {name: rng.choice(odd) for name in rng.sample(sorted(FORM), rng.randrange(1, 4))}
        try:
            studio.request(**form)
        except BimoError as error:
            refused.append(error)
    assert 0 < len(refused) < 300
    assert all(error.zh and error.en for error in refused)


@pytest.mark.slow
@pytest.mark.network
def test_an_end_from_outside_leaves_nothing(tiny_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    environment = os.environ | {"BIMO_LANGUAGE": "en", "PYTHONUNBUFFERED": "1", "TMPDIR": str(tmp_path)}
    environment["PYTHONPATH"] = str(ROOT)
    words = [sys.executable, "-m", "bimo", "serve", "--port", "0", "-m", str(tiny_folder)]
    running = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8")
    assert running.stdout is not None
    assert "http://" in running.stdout.readline()
    assert list(tmp_path.glob("bimo-*"))
    running.terminate()
    _, err = running.communicate(timeout=SECONDS)
    assert running.returncode == 128 + signal.SIGTERM
    assert err == ""
    assert list(tmp_path.glob("bimo-*")) == []


def test_prompts_are_shown_as_they_are() -> None:
    web = pytest.importorskip("bimo.serve.page")
    assert web._plain("<b>*x*</b>") == "&lt;b&gt;\\*x\\*&lt;/b&gt;"
