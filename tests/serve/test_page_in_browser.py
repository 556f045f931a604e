"""The page in a real browser against a real server, asking no other host."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bimo.core.picture import read_metadata
from tests.support.checkout import ROOT
from tests.support.suite_report import report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--window-size=1280,1000",
)
SECONDS = 60
UNKNOWN = "这个模型没有学过：龙；画面里不会有它，或画成别的东西"
#: Serves, and tells of every host but this one that Python would speak to. A step takes as long as one of a real model
#: at the least, or else a hundred of them are over before a busy browser has clicked.
SERVER = """
import socket, sys, time
connect = socket.socket.connect
def watched(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        print("OUTSIDE", address, flush=True)
        raise OSError("offline")
    return connect(self, address)
socket.socket.connect = watched
from bimo.cli.main import main
from bimo.engine.engine import Engine
denoise = Engine.denoise
def slowly(self, inputs):
    time.sleep(0.02)
    return denoise(self, inputs)
Engine.denoise = slowly
main(["serve", "--port", "0", "-m", sys.argv[1], "--data", sys.argv[2], "--reports", sys.argv[3]])
"""

pytestmark = [pytest.mark.browser, pytest.mark.network]


@pytest.fixture(scope="module")
def address(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of the toy system. When it ends it has spoken to no other host, and says that it was interrupted."""
    environment = os.environ | {"LANG": "zh_CN.UTF-8", "LC_ALL": "zh_CN.UTF-8", "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    reports = report(tmp_path_factory.mktemp("reports") / "own", {"kolors": "red", "taiyi": "blue"})
    running = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(tiny_folder), str(tmp_path_factory.mktemp("served")), str(reports)],
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
    yield found[0]
    running.send_signal(signal.SIGINT)
    try:
        out, err = running.communicate(timeout=SECONDS)
    finally:
        running.kill()
    assert "OUTSIDE" not in out
    assert "已中断" in err
    assert "Traceback" not in err
    assert running.returncode == 130


def opened(language: str, folder: Path) -> Any:
    """A headless Chromium with a fresh profile."""
    if not (CHROMIUM and DRIVER):
        pytest.skip("no chromium or no chromedriver on this machine")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (*FLAGS, f"--accept-lang={language}", f"--user-data-dir={folder / 'profile'}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(folder / "saved")})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))


class Tab:
    """A page in a browser, and what one does there."""

    def __init__(self, driver: Any, address: str, folder: Path) -> None:
        self.driver, self.address, self.folder = driver, address, folder

    def until(self, found: Callable[[Any], Any], seconds: float = SECONDS) -> Any:
        """What ``found`` answers, once it is something; a part of the page may be replaced meanwhile."""
        from selenium.common.exceptions import WebDriverException
        from selenium.webdriver.support.ui import WebDriverWait

        return WebDriverWait(self.driver, seconds, 0.1, (WebDriverException,)).until(found)

    def find(self, selector: str) -> Any:
        """The first element of a selector, waited for."""
        return self.until(lambda driver: driver.find_element("css selector", selector))

    def script(self, text: str, *values: Any) -> Any:
        """What a script answers."""
        return self.driver.execute_script(text, *values)

    def open(self, width: int = 1280, height: int = 1000) -> None:
        """Loads the page and waits until it is in its language."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.driver.get(self.address)
        self.find("#cards > *, #cards .nothing, #cards .cards")
        self.until(lambda _: self.script("return document.querySelector('#licence p') !== null"))

    def write(self, text: str, *keys: str) -> None:
        """Writes a prompt in place of what is there."""
        from selenium.webdriver.common.keys import Keys

        field = self.find("#prompt textarea")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(Keys.BACKSPACE)
        field.send_keys(text, *keys)

    def drawn(self, before: int = 0) -> str:
        """The address of the picture on the stage, once there is one and the gallery has more than ``before``."""
        self.until(lambda d: len(d.find_elements("css selector", "#cards .card")) > before)
        picture = self.find("#stage .done img")
        assert self.until(lambda d: d.execute_script("return arguments[0].naturalWidth", picture)) == 128
        return str(picture.get_attribute("src"))

    def cards(self) -> int:
        """How many pictures the gallery shows."""
        return len(self.driver.find_elements("css selector", "#cards .card"))

    def jobs(self) -> list[dict[str, Any]]:
        """The jobs of the server, the newest first."""
        with urllib.request.urlopen(f"{self.address}v1/jobs") as answer:
            return json.load(answer)["data"]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """A Chinese browser."""
    folder = tmp_path_factory.mktemp("zh")
    made = opened("zh-CN", folder)
    yield made, folder
    made.quit()


@pytest.fixture
def tab(driver: tuple[Any, Path], address: str) -> Tab:
    """The page in a Chinese browser, opened anew."""
    made = Tab(driver[0], address, driver[1])
    made.open()
    return made


def test_it_draws_and_asks_no_other_host(tab: Tab, address: str) -> None:
    from selenium.webdriver.common.keys import Keys

    tab.find("#draw").click()
    assert "提示词是空的" in tab.until(lambda d: d.find_element("css selector", ".toast-wrap").text or None)
    tab.write("红苹果，龙", Keys.SHIFT + Keys.ENTER)
    assert tab.find("#prompt textarea").get_attribute("value") == "红苹果，龙\n"
    # While one writes, the meter is of what is written so far.
    tab.until(lambda d: [w.text for w in d.find_elements("css selector", "#meter .warning")] == [UNKNOWN])
    tab.find("#prompt textarea").send_keys(Keys.BACKSPACE, Keys.ENTER)
    tab.drawn()
    assert UNKNOWN in tab.find("#about").text
    tab.find("#about a.save").click()
    saved = tab.folder / "saved"
    file = tab.until(lambda _: next(iter(saved.glob("*.png")), None) if saved.is_dir() else None)
    assert file.name.startswith("红苹果，龙-")
    assert read_metadata(file)["request"]["text"] == "红苹果，龙"
    body = tab.find("body").text
    assert all(label in body for label in ("要画什么", "风格", "步数", "画", "停", "再画", "水墨"))
    assert not any(label in body for label in ("Prompt", "Steps", "bimo_", "__i18n__"))
    hosts = (
        "return [...new Set(performance.getEntriesByType('resource').map(e => new URL(e.name).host))].filter(h => h)"
    )
    assert tab.script(hosts) == [address.removeprefix("http://").rstrip("/")]
    assert [entry for entry in tab.driver.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_an_example_is_one_click(tab: Tab) -> None:
    before = tab.cards()
    tab.find(".chip").click()
    tab.drawn(before)
    assert tab.jobs()[0]["request"]["style"] == "3d"


def test_history_outlives_a_reload(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    before = tab.cards()
    tab.write("一只猫", Keys.ENTER)
    address = tab.drawn(before)
    tab.open()
    tab.until(lambda _: tab.cards() == before + 1)
    tab.find("#cards .card").click()
    assert tab.drawn() == address
    assert "一只猫" in tab.find("#about").text
    tab.find("#search textarea").send_keys("一只猫")
    tab.until(lambda _: tab.cards() == 1)
    tab.find("#search textarea").send_keys("没有这样的")
    assert "没有找到" in tab.find("#cards .nothing").text
    tab.open()
    tab.until(lambda _: tab.cards() == before + 1)
    tab.find("#cards .card").click()
    tab.drawn()
    tab.find("#forget").click()
    tab.until(lambda _: tab.cards() == before)


def test_again_is_the_same_and_vary_another(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    before = tab.cards()
    tab.write("红苹果", Keys.ENTER)
    tab.drawn(before)
    first = tab.jobs()[0]
    tab.find("#again").click()
    tab.drawn(before + 1)
    same = tab.jobs()[0]
    assert same["pictures"][0]["seed"] == first["pictures"][0]["seed"]
    tab.find("#vary").click()
    tab.drawn(before + 2)
    assert tab.jobs()[0]["request"]["strength"] == 0.6
    tab.find("#use").click()
    assert tab.until(lambda d: d.find_element("css selector", "#canvas.filled canvas").is_displayed())


def test_stop_ends_what_is_drawn(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    for name, value in (("count", "8"), ("steps", "100")):
        field = tab.find(f"#{name} input[type=number]")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value, Keys.TAB)
    tab.write("红苹果", Keys.ENTER)
    tab.until(lambda d: int(d.find_element("css selector", "#stage .bar").get_attribute("aria-valuenow")) > 0)
    tab.find("#stop").click()
    tab.until(lambda d: "已停" in d.find_element("css selector", "#about").text)
    assert tab.jobs()[0]["state"] == "cancelled"


def test_a_mask_says_what_is_redrawn(tab: Tab, tmp_path: Path) -> None:
    from PIL import Image
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    before = tab.cards()
    Image.new("RGB", (128, 128), "blue").save(tmp_path / "blue.png")
    tab.find("#image-room button").click()
    tab.find("#canvas [data-file=image]").send_keys(str(tmp_path / "blue.png"))
    canvas = tab.find("#canvas.filled canvas")
    tab.script("arguments[0].scrollIntoView({block: 'center'})", canvas)
    ActionChains(tab.driver).move_to_element_with_offset(canvas, -40, 0).click_and_hold().move_by_offset(
        20, 30
    ).release().perform()
    tab.until(lambda _: tab.script("return document.querySelector('#mask-data textarea').value.length") > 100)
    tab.write("红苹果", Keys.ENTER)
    tab.drawn(before)
    request = tab.jobs()[0]["request"]
    assert request["strength"] == 0.6
    tab.find("#canvas [data-tool=remove]").click()
    assert tab.script("return document.querySelector('#image-data textarea').value") == ""


DROP = """
const bytes = Uint8Array.from(atob(arguments[0]), c => c.charCodeAt(0));
const files = new DataTransfer();
files.items.add(new File([bytes], 'dropped.png', {type: 'image/png'}));
for (const kind of ['dragover', 'drop'])
  document.querySelector('#stage').dispatchEvent(
    new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: files}));
"""


def test_a_dropped_picture_gives_its_settings_back(tab: Tab, tmp_path: Path) -> None:
    import base64

    from PIL import Image

    job = next(job for job in tab.jobs() if job["state"] == "done" and job["client"] == "page")
    with urllib.request.urlopen(f"{tab.address}page/pictures/{job['id']}/0.png") as answer:
        content = answer.read()
    tab.script(DROP, base64.b64encode(content).decode())
    tab.until(lambda d: d.find_element("css selector", "#prompt textarea").get_attribute("value"))
    assert tab.find("#prompt textarea").get_attribute("value") == job["request"]["text"]
    tab.find("#more button").click()
    seed = tab.find("#seed input")
    tab.until(lambda _: seed.get_attribute("value") == str(job["pictures"][0]["seed"]))
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    tab.script(DROP, base64.b64encode((tmp_path / "plain.png").read_bytes()).decode())
    tab.until(lambda d: "没有 bimo" in d.find_element("css selector", ".toast-wrap").text)


def test_upscale_and_a_picture_of_another_program(tab: Tab) -> None:
    import base64
    import io

    from PIL import Image
    from PIL.PngImagePlugin import PngInfo
    from selenium.webdriver.common.keys import Keys

    before = tab.cards()
    tab.write("红苹果", Keys.ENTER)
    tab.drawn(before)
    tab.find("#upscale").click()
    size = "return document.querySelector('#stage .done img')?.naturalWidth"
    tab.until(lambda d: d.execute_script(size) == 256)
    assert "256 × 256" in tab.find("#about").text
    with urllib.request.urlopen(str(tab.find("#about a.save").get_attribute("href"))) as answer:
        content = answer.read()
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (256, 256)
    info, buffer = PngInfo(), io.BytesIO()
    info.add_itxt("parameters", "一只猫\nSteps: 7, Sampler: Euler a, CFG scale: 2, Size: 128x128, Model: v1-5")
    Image.new("RGB", (8, 8)).save(buffer, "PNG", pnginfo=info)
    tab.script(DROP, base64.b64encode(buffer.getvalue()).decode())
    prompt = tab.find("#prompt textarea")
    tab.until(lambda _: prompt.get_attribute("value") == "一只猫")
    tab.until(lambda d: d.find_element("css selector", "#steps input[type=number]").get_attribute("value") == "7")
    tab.until(lambda d: "AUTOMATIC1111" in d.find_element("css selector", ".toast-wrap").text)


def test_by_keyboard_alone(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    def focused() -> Any:
        return tab.driver.switch_to.active_element

    def reached(selector: str, most: int = 40) -> Any:
        for _ in range(most):
            if tab.script("return document.activeElement.matches(arguments[0])", selector):
                return focused()
            focused().send_keys(Keys.TAB)
        raise AssertionError(f"{selector} is not reached by Tab")

    before = tab.cards()
    reached("#prompt textarea").send_keys("红苹果")
    reached("#draw")
    reached("#stop")
    reached(".chip")
    reached("#style input[value='3d']").send_keys(Keys.SPACE)
    tab.find("#style label.selected input[value='3d']")
    tab.script("document.querySelector('#prompt textarea').focus()")
    reached("#draw").send_keys(Keys.ENTER)
    tab.drawn(before)
    assert tab.jobs()[0]["request"]["style"] == "3d"
    reached("#again", 80)
    reached("#cards .card", 80).send_keys(Keys.ENTER)
    tab.until(lambda d: len(d.find_elements("css selector", "#stage .done img")) == 1)


def test_what_is_shown_over_the_page_is_headed_in_its_language(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    tab.write(" ", Keys.ENTER)
    tab.until(lambda d: d.find_element("css selector", ".toast-title.error").text.strip() == "画不了")


def test_a_table_over_two_settings_and_a_vote(tab: Tab) -> None:
    tab.write("红苹果")
    tabs = tab.driver.find_elements("css selector", "button[role=tab]")
    tabs[1].click()
    tab.find("#compare").click()
    tab.until(lambda d: len(d.find_elements("css selector", "#compared td img")) == 6)
    tabs[2].click()
    tab.find("#duel").click()
    tab.until(lambda d: len(d.find_elements("css selector", "#dueled img")) == 2)
    tab.find("#vote-a").click()
    assert "choices.jsonl" in tab.until(lambda d: d.find_element("css selector", "#voted").text or None)


def test_blind_votes_on_pictures_that_were_drawn_before(tab: Tab) -> None:
    tab.driver.find_elements("css selector", "button[role=tab]")[5].click()
    tab.find("#judge").click()
    for done in (0, 1):
        tab.until(lambda d: len(d.find_elements("css selector", "#judged img")) == 2)
        assert tab.find("#judged .words").text in ("红苹果", "绿苹果")
        notice = f"2 对中的 {done} 对"
        tab.until(lambda d, n=notice: n in d.find_element("css selector", "#judge-notice").text)
        tab.find("#judge-a").click()
    tab.until(lambda d: "2 对中的 2 对" in d.find_element("css selector", "#judge-notice").text)
    assert not tab.driver.find_elements("css selector", "#judged img")
    tab.find("#ratings").click()
    tab.until(lambda d: len(d.find_elements("css selector", "#rated tbody tr")) == 2)


def test_a_batch_from_a_table_and_words(tab: Tab) -> None:
    tabs = tab.driver.find_elements("css selector", "button[role=tab]")
    tabs[3].click()
    tab.find("#table textarea").send_keys("红苹果\n一只猫")
    tab.find("#table-draw").click()
    tab.until(lambda d: len(d.find_elements("css selector", "#tabled td img")) == 2)
    tabs[4].click()
    tab.find("#word-search textarea").send_keys("苹")
    tab.until(lambda d: 0 < len(d.find_elements("css selector", "#words .word")) < 4)
    tab.find("#words .word[data-word=苹果]").click()
    tabs[0].click()
    tab.until(lambda d: d.find_element("css selector", "#prompt textarea").get_attribute("value") == "苹果")


def test_photos_are_fine_tuned_and_drawn_with(tab: Tab, tmp_path: Path) -> None:
    from PIL import Image
    from selenium.webdriver.common.keys import Keys

    def finetuning() -> None:
        tabs = "return [...document.querySelectorAll('button[role=tab]')].find((each) => each.innerText === '微调')"
        tab.until(lambda d: d.execute_script(tabs)).click()
        tab.find("#finetune-form")

    files = [tmp_path / f"IMG_{number}.png" for number in range(2)]
    for number, file in enumerate(files):
        Image.new("RGB", (64, 48), (90 * number, 90, 60)).save(file)
    (tmp_path / "notes.txt").write_text("no photo")
    finetuning()
    tab.find("#finetune-form input[name=name]").send_keys("果子")
    tab.find("#finetune-form .go").click()
    assert "请先选照片" in tab.until(lambda d: d.find_element("css selector", "#finetune-form [role=alert]").text)
    tab.find("#finetuning [data-photos]").send_keys("\n".join(map(str, [*files, tmp_path / "notes.txt"])))
    tab.until(lambda d: len(d.find_elements("css selector", "#finetuning .photos img")) == 2)
    assert "notes.txt" in tab.until(lambda d: d.find_element("css selector", "#finetune-form [role=alert]").text)
    tab.find("#finetuning .photos input").send_keys("红苹果")
    tab.find("#finetune-form input[name=word]").send_keys("苹果")
    tab.find("#finetune-form input[name=steps]").send_keys(Keys.CONTROL, "a")
    tab.find("#finetune-form input[name=steps]").send_keys("2")
    tab.find("#finetune-form .go").click()
    tab.find(".run[data-state=running]")
    tab.open()  # it goes on, and is found again
    finetuning()
    tab.until(lambda d: d.find_elements("css selector", ".run[data-state=done]"), 600)
    tab.until(lambda d: d.execute_script("return document.querySelector('.run img')?.naturalWidth > 0"))
    before = tab.cards()
    tab.find(".run [data-action=draw]").click()
    prompt = tab.find("#prompt textarea")
    tab.until(lambda _: prompt.get_attribute("value") == "苹果")
    tab.find("#draw").click()
    tab.drawn(before)
    assert tab.jobs()[0]["loras"][0]["name"].startswith("果子-")


def test_a_tab_that_goes_frees_the_drawing(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    for name, value in (("count", "8"), ("steps", "100")):
        field = tab.find(f"#{name} input[type=number]")
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value, Keys.TAB)
    tab.write("红苹果", Keys.ENTER)
    tab.until(lambda d: d.find_elements("css selector", "#stage .bar"))
    job = tab.jobs()[0]["id"]
    tab.driver.get("about:blank")
    tab.until(lambda _: next(each for each in tab.jobs() if each["id"] == job)["state"] == "cancelled")


def test_on_a_phone_in_english(tab: Tab) -> None:
    from selenium.webdriver.common.keys import Keys

    agent = {"userAgent": tab.script("return navigator.userAgent")}
    tab.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", agent | {"acceptLanguage": "en-US"})
    try:
        tab.open(360, 740)
        before = tab.cards()
        body = tab.find("body").text
        assert all(label in body for label in ("Prompt", "Draw", "Stop", "Style", "Ink wash"))
        assert not any(label in body for label in ("要画什么", "步数", "bimo_", "__i18n__"))
        tab.write("a red dragon", Keys.ENTER)
        tab.drawn(before)
        # The server speaks Chinese, this browser English.
        assert "never learned" in tab.find("#about .warning").text
        tab.write("a red cat", Keys.ENTER)
        tab.drawn(before + 1)
        box = tab.script("return document.querySelector('#stage .frame').getBoundingClientRect().toJSON()")
        assert 0 <= box["top"] < box["bottom"] <= 740
        assert tab.script("return document.documentElement.scrollWidth") <= 360
    finally:
        tab.driver.execute_cdp_cmd("Emulation.setUserAgentOverride", agent | {"acceptLanguage": "zh-CN"})
