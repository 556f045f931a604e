"""The page of a suite's report: tables, plots, contact sheets, best and worst, models side by side; without scripts or
external resources. It contains both languages; two labels at its top choose one.
"""

from __future__ import annotations

import base64
import html
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from bimo.core.files import page as document
from bimo.core.messages import Message, language
from bimo.evaluation.intervals import verdict
from bimo.evaluation.report import finite, shown
from bimo.evaluation.suite_measures import MeasuredPicture, Number, by_length
from bimo.evaluation.suite_names import group_name, measure_name
from bimo.evaluation.suite_run import ModelResult, Plan
from bimo.evaluation.suite_text import LESS

#: Longest side of a picture on the page, and the number of pictures in a group's sheet.
THUMB, SHEET, EXTREMES = 128, 12, 8
STYLE = """#zh:checked~main .en,#en:checked~main .zh{display:none}input.l{position:absolute;opacity:0}
label.l{cursor:pointer;padding:.2em .7em;border:1px solid #888;border-radius:4px;margin-right:.4em}
#zh:checked~label[for=zh],#en:checked~label[for=en]{background:#244;color:#fff}
input.l:focus-visible+label{outline:2px solid #06c}
.sheet{display:flex;flex-wrap:wrap;gap:10px;margin:.5em 0 1.2em}.sheet figure{margin:0;width:132px}
.sheet img{width:128px;height:auto;border:2px solid transparent}.sheet .good img{border-color:#28964a}
.sheet .bad img{border-color:#c83232}figcaption{font-size:12px;line-height:1.35;overflow-wrap:anywhere}
.above{color:#176b2c}.below{color:#a02020}.wide{overflow-x:auto}svg text{font:12px system-ui,sans-serif;fill:#333}
summary{cursor:pointer}td.n{text-align:right;white-space:nowrap}"""
COLOURS = ("#2a6f97", "#c8553d", "#588157", "#8e6c8a", "#bc8a00", "#444444")
#: Prefixes and suffixes of measures of which less is better.
LESS_IS_BETTER = ("FID", "KID", "near copy"), (LESS, ", beyond its line")
#: Measures by which pictures are ranked, in order of preference.
PRIMARY = ("checks (endpoint)", "checks (clip-zh)", "text similarity", "clip-zh similarity", "clip-en similarity")


def page(results: Sequence[ModelResult], plan: Plan, when: str) -> str:
    """The whole document."""
    names = ", ".join(result.name for result in results)
    chinese = language() == "zh"
    choose = "".join(
        f'<input class="l" type="radio" name="l" id="{code}"{" checked" * (chinese == (code == "zh"))}>'
        f'<label class="l" for="{code}">{name}</label>'
        for code, name in (("zh", "中文"), ("en", "English"))
    )
    parts = [
        f"<h1>{_both(Message('Evaluation'))}: {_safe(names)}</h1>",
        _summary(results, plan, when),
        _heading(Message("All numbers"), 2),
        _table(results, ""),
        *_groups(results),
        *(_plots(result) for result in results),
        *(_extremes(result) for result in results),
        _heading(Message("Pictures by group"), 2),
        *_sheets(results),
        _cost(results),
        *(_record(result) for result in results),
    ]
    return document(f"{names} · {plan.suite.name}", f"{choose}<main>{''.join(parts)}</main>", STYLE)


def _safe(text: object) -> str:
    return html.escape(str(text))


def _both(message: Message) -> str:
    """A message in both languages, of which one is shown."""
    return f'<span class="zh">{_safe(message.zh)}</span><span class="en">{_safe(message.en)}</span>'


def _heading(message: Message, level: int) -> str:
    return f"<h{level}>{_both(message)}</h{level}>"


def _summary(results: Sequence[ModelResult], plan: Plan, when: str) -> str:
    suite = plan.suite
    messages = [
        Message(
            "suite {name} ({licence}), {count} prompts, seeds {seeds}",
            name=suite.name,
            licence=suite.licence,
            count=len(suite.prompts),
            seeds=list(plan.seeds),
        ),
        Message("in brackets: 95 % intervals by resampled prompts (Wilson for shares with one picture a prompt)"),
    ]
    if suite.unusable:
        messages.append(Message("rows of the file that are no prompts: {reasons}", reasons=suite.unusable_reasons()))
    if suite.unverified:
        messages.append(Message("no published file of this format was at hand"))
    lines = [_both(message) for message in messages]
    for result in results:
        counted = {name: count for name, count in result.counted.items() if count}
        if counted:
            reasons = ", ".join(f"{name} {count}" for name, count in counted.items())
            lines.append(f"{_safe(result.name)}: {_safe(reasons)}")
    notes = {note.en: note for result in results for note in result.notes}
    lines += [_both(note) for note in notes.values()]
    return f"<p>{_safe(when)}</p><ul>{''.join(f'<li>{line}</li>' for line in lines)}</ul>"


def _rows(results: Sequence[ModelResult], group: str) -> dict[tuple[str, str], dict[str, Number]]:
    rows: dict[tuple[str, str], dict[str, Number]] = {}
    for result in results:
        for number in result.numbers:
            if number.group == group:
                rows.setdefault((number.measure, number.language), {})[result.name] = number
    return rows


def _table(results: Sequence[ModelResult], group: str) -> str:
    """The numbers of a group, one column for each model; coloured if a model is better or worse than the first."""
    rows = _rows(results, group)
    if not rows:
        return ""
    heads = "".join(f"<th>{_safe(result.name)}</th>" for result in results)
    body = [f"<tr><th>{_both(Message('measure'))}</th><th></th><th>n</th>{heads}</tr>"]
    for (measure, code), cells in rows.items():
        first = next(iter(cells.values()))
        body.append(
            f"<tr><td>{_both(measure_name(measure))}</td><td>{code}</td><td class=n>{first.interval.n}</td>"
            + "".join(_cell(results, cells, result.name) for result in results)
            + "</tr>"
        )
    return f'<div class="wide"><table>{"".join(body)}</table></div>'


def _cell(results: Sequence[ModelResult], cells: Mapping[str, Number], name: str) -> str:
    number = cells.get(name)
    if number is None:
        return "<td>–</td>"
    kind, other = "", cells.get(results[0].name)
    if name != results[0].name and other is not None:
        better = number.interval, other.interval
        if number.measure.startswith(LESS_IS_BETTER[0]) or number.measure.endswith(LESS_IS_BETTER[1]):
            better = other.interval, number.interval
        kind = {"above": "above", "below": "below"}.get(verdict(*better), "")
    return f'<td class="n {kind}">{_safe(shown(asdict(number.interval), number.unit))}</td>'


def _groups(results: Sequence[ModelResult]) -> list[str]:
    groups = list(dict.fromkeys(n.group for result in results for n in result.numbers if n.group))
    if not groups:
        return []
    tables: list[str] = []
    for group in groups:
        tables.append(f"<details><summary>{_both(group_name(group))}</summary>{_table(results, group)}</details>")
    return [_heading(Message("Numbers by group"), 2), *tables]


def _plots(result: ModelResult) -> str:
    """Bars of the primary measure by group and by the length of prompts."""
    measure = primary(result.pictures)
    if measure is None:
        return ""
    bars = [n for n in result.numbers if n.measure == measure and n.group and n.language == "zh"]
    title = Message("{model}: {what}", model=result.name, what=measure_name(measure))
    parts = [_heading(title, 2)]
    if bars:
        parts.append(_bars([(group_name(n.group), n.interval) for n in bars]))
    lengths = by_length(result.pictures, measure)
    if len(lengths) > 1:
        rows = [(Message("{low}–{high} characters", low=low, high=high), interval) for low, high, interval in lengths]
        parts += [_heading(Message("The longer the prompt"), 3), _bars(rows)]
    return "".join(parts)


def _bars(rows: Sequence[tuple[Message, Any]]) -> str:
    """Horizontal bars with intervals, as SVG."""
    most = max([1e-9, *(interval.high for _, interval in rows if interval.high == interval.high)])
    most = 1.0 if most <= 1 else most
    height, left, width = 22, 190, 420
    marks: list[str] = []
    for place, (name, interval) in enumerate(rows):
        y = place * height
        value, low, high = (max(0.0, v) / most * width for v in (interval.value, interval.low, interval.high))
        middle = y + height / 2 - 1
        for code, text in (("zh", name.zh), ("en", name.en)):
            marks.append(f'<text class="{code}" x="{left - 8}" y="{y + 15}" text-anchor="end">{_safe(text)}</text>')
        marks.append(f'<rect x="{left}" y="{y + 4}" width="{value:.1f}" height="13" fill="{COLOURS[0]}"/>')
        marks.append(f'<path d="M{left + low:.1f} {middle}H{left + high:.1f}" stroke="#222" stroke-width="1.5"/>')
        label = f"{interval.value:.2f} (n {interval.n})"
        marks.append(f'<text x="{left + max(value, high) + 6:.1f}" y="{y + 15}">{label}</text>')
    return (
        f'<svg role="img" width="{left + width + 110}" height="{len(rows) * height + 4}" '
        f'xmlns="http://www.w3.org/2000/svg">{"".join(marks)}</svg>'
    )


def primary(pictures: Sequence[MeasuredPicture]) -> str | None:
    """The measure that ranks pictures: the first of PRIMARY with a value."""
    return next((name for name in PRIMARY if any(picture.values.get(name) is not None for picture in pictures)), None)


def _extremes(result: ModelResult) -> str:
    measure = primary(result.pictures)
    if measure is None:
        return ""
    ranked = [
        (float(value), row)
        for row, picture in enumerate(result.pictures)
        if (value := picture.values.get(measure)) is not None
    ]
    ranked.sort()
    rows = [result.pictures[row] for _, row in ranked]
    few = min(EXTREMES, len(rows) // 2)
    if not few:
        return ""
    return "".join(
        (
            _heading(Message("{model}: worst", model=result.name), 3),
            _sheet(rows[:few], measure),
            _heading(Message("{model}: best", model=result.name), 3),
            _sheet(rows[::-1][:few], measure),
        )
    )


def _sheets(results: Sequence[ModelResult]) -> list[str]:
    """A contact sheet for every group, failures included; the same prompts of every model below each other."""
    parts: list[str] = []
    groups = list(dict.fromkeys(picture.prompt.group for result in results for picture in result.pictures))
    for group in groups:
        parts.append(_heading(group_name(group), 3))
        for result in results:
            of_group = [
                picture
                for picture in result.pictures
                if picture.prompt.group == group and picture.prompt.language == "zh"
            ]
            of_group = of_group or [picture for picture in result.pictures if picture.prompt.group == group]
            count = min(SHEET, len(of_group))
            picked = [of_group[place * len(of_group) // count] for place in range(count)]
            if len(results) > 1:
                parts.append(f"<p><small>{_safe(result.name)}</small></p>")
            parts.append(_sheet(picked, primary(result.pictures)))
    return parts


def _sheet(rows: Sequence[MeasuredPicture], measure: str | None) -> str:
    return f'<div class="sheet">{"".join(_figure(picture, measure) for picture in rows)}</div>'


def _figure(measured: MeasuredPicture, measure: str | None) -> str:
    image = measured.image()
    image.thumbnail((THUMB, THUMB))
    buffer = io.BytesIO()
    image.save(buffer, "WEBP", quality=82)
    data = base64.b64encode(buffer.getvalue()).decode()
    prompt_text = _safe(measured.prompt.text)
    value = measured.values.get(measure) if measure else None
    caption = f"<br><small>{value:.2f}</small>" if isinstance(value, (int, float)) else ""
    if measured.prompt.written:
        caption += f"<br><small>{_both(Message('read'))}: {_safe(' / '.join(measured.read) or '–')}</small>"
    wrong = [
        check.phrase(measured.prompt.language)
        for answers in measured.answers.values()
        for check, answer in answers
        if answer.right is False
    ]
    caption += f'<br><small class="below">✗ {_safe("; ".join(dict.fromkeys(wrong)))}</small>' if wrong else ""
    judged = bool(measured.answers) and any(
        answer.right is not None for rows in measured.answers.values() for _, answer in rows
    )
    kind = ("bad" if wrong else "good") if judged else ""
    image_tag = f'<img alt="{prompt_text}" src="data:image/webp;base64,{data}">'
    return f'<figure class="{kind}">{image_tag}<figcaption>{prompt_text}{caption}</figcaption></figure>'


def _cost(results: Sequence[ModelResult]) -> str:
    names = list(dict.fromkeys(name for result in results for name in result.cost))
    heads = "".join(f"<th>{_safe(name)}</th>" for name in names)
    rows = "".join(
        f"<tr><td>{_safe(result.name)}</td>"
        + "".join(
            f"<td class=n>{result.cost[name]:.3f}</td>" if name in result.cost else "<td>–</td>" for name in names
        )
        + "</tr>"
        for result in results
    )
    machine = results[0].record["machine"]
    machine_text = f"{machine['processor']}, {machine['threads']} threads" + "".join(
        f", {card}" for card in machine["cards"]
    )
    return (
        _heading(Message("Cost: seconds a picture"), 2)
        + f'<p>{_safe(machine_text)}</p><div class="wide"><table><tr><th></th>{heads}</tr>{rows}</table></div>'
    )


def _record(result: ModelResult) -> str:
    text = json.dumps(finite(dict(result.record)), ensure_ascii=False, indent=1)
    return f"<details><summary>{_both(Message('Protocol record'))}: {_safe(result.name)}</summary>" + (
        f"<pre>{_safe(text)}</pre></details>"
    )
