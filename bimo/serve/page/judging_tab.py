"""The tab of blind votes on pictures that `bimo eval` has drawn."""

# Parts of gradio's interface are untyped.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import gradio as gr

from bimo.core.errors import BimoError
from bimo.core.messages import Message
from bimo.serve.page import gallery
from bimo.serve.page.drawing import QUIET
from bimo.serve.page.judging import Judging
from bimo.serve.page.labels import label
from bimo.serve.page.session import Page, Visitor


@dataclass(frozen=True)
class JudgingTab:
    """The components of the blind votes."""

    go: Any
    pictures: Any
    votes: dict[str, Any]
    row: Any
    notice: Any
    ratings: Any
    table: Any


def judging_tab() -> JudgingTab:
    """The tab of blind votes."""
    gr.Markdown(label("judge_hint"), elem_classes="hint")
    go = gr.Button(label("judge"), variant="primary", elem_id="judge")
    pictures = gr.HTML(elem_id="judged")
    with gr.Row(visible=False) as row:
        votes = {
            "a": gr.Button(label("left"), elem_id="judge-a"),
            "tie": gr.Button(label("tie"), elem_id="judge-tie"),
            "b": gr.Button(label("right"), elem_id="judge-b"),
        }
    notice = gr.HTML(elem_id="judge-notice")
    ratings = gr.Button(label("ratings"), size="sm", elem_id="ratings")
    return JudgingTab(go, pictures, votes, row, notice, ratings, gr.HTML(elem_id="ratings-table"))


def on_judging(page: Page, tab: JudgingTab) -> None:
    """Registers the handlers of that tab: a pair, a vote and the next pair, the ratings."""
    judging = page.judging
    if judging is None:
        return
    outputs = [tab.pictures, tab.row, tab.notice]

    async def show(browser: gr.Request) -> tuple[Any, ...]:
        return await _next(page, judging, Visitor.of(browser))

    tab.go.click(show, None, outputs, **QUIET)

    def voting(choice: str) -> Any:
        async def vote(browser: gr.Request) -> tuple[Any, ...]:
            who = Visitor.of(browser)
            try:
                await asyncio.to_thread(judging.vote, who.session, who.user, choice)
            except BimoError as error:
                raise who.toast(error) from None
            return await _next(page, judging, who)

        return vote

    for choice, button in tab.votes.items():
        button.click(voting(choice), None, outputs, **QUIET)

    async def rate(browser: gr.Request) -> str:
        who = Visitor.of(browser)
        try:
            return await asyncio.to_thread(judging.ratings, who.language)
        except BimoError as error:
            raise who.toast(error) from None

    tab.ratings.click(rate, None, tab.table, **QUIET)


async def _next(page: Page, judging: Judging, who: Visitor) -> tuple[Any, ...]:
    shown = await asyncio.to_thread(judging.show, who.session, who.user, who.language)
    left = judging.pairs.left_for(who.user)
    message = Message(
        "You have voted on {done} of {count} pairs. Ratings: bimo eval --votes {path}; pairs to train with: bimo data "
        "feedback {path} PAIRS",
        done=len(judging.pairs.pairs) - left,
        count=len(judging.pairs.pairs),
        path=page.named(judging.table),
    )
    return shown, gr.Row(visible=bool(shown)), gallery.notice(who.says(message))
