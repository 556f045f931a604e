"""The other tabs: a grid over two settings, two models side by side with a vote, a table of prompts."""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from bimo.core.errors import BimoError, RequestError
from bimo.core.messages import Message
from bimo.serve.jobs import Job
from bimo.serve.page import gallery
from bimo.serve.page.comparison import rows, sheet
from bimo.serve.page.components import Components
from bimo.serve.page.drawing import DRAWING, QUIET
from bimo.serve.page.form import Form
from bimo.serve.page.fragments import axis_choices
from bimo.serve.page.gallery import PictureName
from bimo.serve.page.labels import label
from bimo.serve.page.session import Page, Visitor
from bimo.serve.service import QueueFullError


@dataclass(frozen=True)
class Comparing:
    """The components of the table over two settings."""

    x: Any
    x_values: Any
    y: Any
    y_values: Any
    go: Any
    stop: Any
    table: Any


def comparing_tab() -> Comparing:
    """The tab of a table over two settings."""
    with gr.Row():
        x = gr.Dropdown(axis_choices("en"), value="steps", label=label("axis_x"), elem_id="axis-x")
        x_values = gr.Textbox("4, 8, 16", label=label("axis_values"), max_length=4000, elem_id="x-values")
    with gr.Row():
        y = gr.Dropdown(axis_choices("en"), value="style", label=label("axis_y"), elem_id="axis-y")
        y_values = gr.Textbox("3d, ink", label=label("axis_values"), max_length=4000, elem_id="y-values")
    gr.Markdown(label("compare_hint"), elem_classes="hint")
    with gr.Row():
        go = gr.Button(label("compare"), variant="primary", elem_id="compare", scale=3)
        stop = gr.Button(label("stop"), scale=1, min_width=60)
    return Comparing(x, x_values, y, y_values, go, stop, gr.HTML(elem_id="compared"))


def _connect_stop(page: Page, stop: Any) -> None:
    def end(browser: gr.Request) -> None:
        page.stop(browser.session_hash or "")

    stop.click(end, None, None, **DRAWING)


async def _draw_all(page: Page, who: Visitor, forms: Sequence[Form]) -> AsyncGenerator[dict[int, Job | str]]:
    """Draws some forms; yields the ended jobs by index, with a sentence for those that were refused. What the queue, or
    the rate of the visitor's key, has no room for is submitted later. Unfinished jobs are cancelled if the consumer
    stops.
    """
    jobs: dict[int, Job] = {}
    results: dict[int, Job | str] = {}
    waiting: dict[asyncio.Future[Job], int] = {}
    left = deque(enumerate(forms))
    try:
        with page.submitting(who) as goes_on:
            while waiting or (left and goes_on()):
                pause = 30.0
                while left and goes_on():
                    place, form = left[0]
                    try:
                        jobs[place] = await page.accept(form, who)
                        waiting[asyncio.ensure_future(page.service.wait(jobs[place].id))] = place
                    except QueueFullError as error:
                        pause = float(error.seconds)
                        break
                    except BimoError as error:
                        results[place] = error.message.said(who.language)
                    left.popleft()
                if not goes_on():  # one may have been accepted as the others were stopped
                    _cancel(page, jobs.values())
                yield dict(results)
                if waiting:
                    ended, _ = await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                    for task in ended:
                        results[waiting.pop(task)] = task.result()
                elif left:
                    await asyncio.sleep(min(pause, 1.0))  # it may be stopped meanwhile
        yield dict(results)
    finally:
        _cancel(page, jobs.values())
        for job in jobs.values():
            page.done(job.id, who)


def _cancel(page: Page, jobs: Iterable[Job]) -> None:
    for job in jobs:
        page.service.cancel(job.id)


def _cell(result: Job | str | None, language: str, blind: bool = False) -> str:
    job, sentence = (None, result) if isinstance(result, str) else (result, "")
    return gallery.cell(job, language, sentence, blind)


def on_comparing(page: Page, parts: Components, compared: Comparing) -> None:
    """Registers the handlers of that tab: one job for each cell, shown when it has ended."""

    async def compare(browser: gr.Request, *values: Any) -> AsyncGenerator[Any]:
        who = Visitor.of(browser)
        *axes, form_values = values[:4], values[4:]
        words = [value if isinstance(value, str) else "" for value in axes[0]]
        try:
            form = Form.read(form_values)
            comparison = sheet(form, (words[0], words[1]), (words[2], words[3]))
        except BimoError as error:
            raise who.toast(error) from None
        width = len(comparison.across)
        flat = [form for row in comparison.cells for form in row]
        async for results in _draw_all(page, who, flat):
            table = [
                (head, [_cell(results.get(r * width + c), who.language) for c in range(width)])
                for r, head in enumerate(comparison.down)
            ]
            yield gallery.table(who.language, comparison.across, table)

    inputs = [compared.x, compared.x_values, compared.y, compared.y_values, *parts.inputs]
    compared.go.click(compare, inputs, compared.table, **DRAWING)
    _connect_stop(page, compared.stop)


@dataclass(frozen=True)
class Dueling:
    """The components of two models side by side."""

    first: Any
    second: Any
    go: Any
    pictures: Any
    votes: dict[str, Any]
    row: Any
    notice: Any
    pair: Any


def dueling_tab(page: Page) -> Dueling:
    """The tab of two models side by side."""
    names = list(page.pool.models)
    gr.Markdown(label("vote_hint"), elem_classes="hint")
    with gr.Row():
        first = gr.Dropdown(names, value=names[0], label=label("model_a"), elem_id="model-a")
        second = gr.Dropdown(names, value=names[-1], label=label("model_b"), elem_id="model-b")
    go = gr.Button(label("duel"), variant="primary", elem_id="duel")
    pictures = gr.HTML(elem_id="dueled")
    with gr.Row(visible=False) as row:
        votes = {
            "a": gr.Button(label("left"), elem_id="vote-a"),
            "tie": gr.Button(label("tie"), elem_id="vote-tie"),
            "b": gr.Button(label("right"), elem_id="vote-b"),
        }
    return Dueling(first, second, go, pictures, votes, row, gr.HTML(elem_id="voted"), gr.Textbox(visible=False))


def on_dueling(page: Page, parts: Components, dueled: Dueling) -> None:
    """Registers the handlers of that tab: two drawings, whose models are revealed after the vote."""

    async def duel(browser: gr.Request, *values: Any) -> AsyncGenerator[tuple[Any, ...]]:
        who = Visitor.of(browser)
        try:
            form = Form.read(values[2:])
            seed = secrets.randbelow(2**31) if form.seed < 0 else form.seed
            names = [Form.words("model", value) for value in values[:2]]
            # A model against itself needs two seeds.
            seeds = (seed, seed + (names[0] == names[1]))
            forms = [replace(form, model=name, count=1, seed=s) for name, s in zip(names, seeds, strict=True)]
            # The form has the settings of one model; the other is drawn with its own defaults.
            forms = [await _with_own_defaults(page, each, form.model or page.pool.default) for each in forms]
        except BimoError as error:
            raise who.toast(error) from None
        # Random sides, so that votes are not biased by position.
        if secrets.randbelow(2):
            forms.reverse()
        async for results in _draw_all(page, who, forms):
            cells = [results.get(place) for place in (0, 1)]
            figures = "".join(f"<figure>{_large(cell, who.language)}</figure>" for cell in cells)
            job_ids = [cell.id for cell in cells if isinstance(cell, Job) and gallery.visible_pictures(cell)]
            ready = len(job_ids) == 2
            yield f'<div class="duel">{figures}</div>', gr.Row(visible=ready), "", " ".join(job_ids) if ready else ""

    outputs = [dueled.pictures, dueled.row, dueled.notice, dueled.pair]
    dueled.go.click(duel, [dueled.first, dueled.second, *parts.inputs], outputs, **DRAWING)

    def voting(choice: str) -> Any:
        async def vote(browser: gr.Request, pair: Any) -> tuple[Any, ...]:
            who = Visitor.of(browser)
            try:
                names = [PictureName.read(f"{name}/0") for name in str(pair).split(" ")]
                if len(names) != 2:
                    raise RequestError("there is no picture to vote on; draw both first")
                (left, _), (right, _) = [await page.picked(str(name), who) for name in names]
                path = await asyncio.to_thread(page.votes.keep, left, right, choice, who.user)
            except BimoError as error:
                raise who.toast(error) from None
            message = Message(
                "Left: {left}, right: {right}. Kept; train with: bimo data feedback {path} PAIRS",
                left=left.order.model,
                right=right.order.model,
                path=page.named(path),
            )
            return gr.Row(visible=False), gallery.notice(who.says(message)), ""

        return vote

    for choice, button in dueled.votes.items():
        button.click(voting(choice), dueled.pair, [dueled.row, dueled.notice, dueled.pair], **QUIET)


async def _with_own_defaults(page: Page, form: Form, form_model: str) -> Form:
    if form.model in ("", form_model):
        return form
    offer = await page.offer(form.model)
    return replace(
        form,
        width=offer.width,
        height=offer.height,
        steps=offer.steps,
        guidance=offer.guidance,
        guidance_rescale=offer.rescale,
        sampler="",
        schedule="",
        spacing="",
        eta=0.0,
        clip_skip=1,
        loras=(),
        control="",
    )


def _large(result: Job | str | None, language: str) -> str:
    return _cell(result, language, blind=True).replace(".webp", ".png")


@dataclass(frozen=True)
class Tabling:
    """The components of pictures from a table."""

    text: Any
    file: Any
    go: Any
    stop: Any
    table: Any


def tabling_tab() -> Tabling:
    """The tab of a table of prompts."""
    text = gr.Textbox(label=label("table"), lines=6, max_lines=16, max_length=100_000, elem_id="table")
    file = gr.HTML()
    with gr.Row():
        go = gr.Button(label("table_draw"), variant="primary", elem_id="table-draw", scale=3)
        stop = gr.Button(label("stop"), scale=1, min_width=60)
    return Tabling(text, file, go, stop, gr.HTML(elem_id="tabled"))


def on_table(page: Page, parts: Components, tabled: Tabling) -> None:
    """Registers the handlers of that tab: one job for each row, shown when it has ended."""

    async def draw_all(browser: gr.Request, *values: Any) -> AsyncGenerator[Any]:
        who = Visitor.of(browser)
        try:
            text = values[0] if isinstance(values[0], str) else ""
            if len(text) > 100_000:
                raise RequestError("the table is longer than {most} characters", most=100_000)
            # Rows have their own prompts; the form supplies everything else.
            forms = rows(Form.read(values[1:]), text)
        except BimoError as error:
            raise who.toast(error) from None
        async for results in _draw_all(page, who, forms):
            table = [
                (form.text if len(form.text) < 80 else form.text[:79] + "…", [_cell(results.get(n), who.language)])
                for n, form in enumerate(forms)
            ]
            yield gallery.table(who.language, [""], table)

    tabled.go.click(draw_all, [tabled.text, *parts.inputs], tabled.table, **DRAWING)
    _connect_stop(page, tabled.stop)
