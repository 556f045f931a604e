"""The HTML page of a run, made from its report and its table: one file without external resources.

It shows the counts, the rows of each rule, every score with its thresholds, and pictures on both sides of a threshold.
"""

# Parsed JSON has no types; what is kept of it is named where it is kept.
# pyright: reportUnknownArgumentType=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bimo.core.errors import DataError
from bimo.core.files import page as document
from bimo.core.messages import Both, Message
from bimo.curation.failure_reasons import reason_message
from bimo.curation.phases.store import read_json, save
from bimo.curation.readers.inventory import READ
from bimo.curation.report.example_images import EACH, Examples, copied, examples, visible
from bimo.curation.report.histograms import drawable, figure, histogram

REPORT, PAGE = "report.json", "report.html"
#: Pictures on each side of a threshold.
NEXT_TO = 5
#: Names of settings that are thresholds on the score of their rule; a setting with the name of a score is a threshold
#: on that score.
LINES = ("line", "above", "below", "least", "most", "low", "high", "pixels")
CHANGED = {
    "caption dropped": Message("captions dropped"),
    "caption mended": Message("captions mended"),
    "captions changed": Message("rows with other captions"),
    "captions written": Message("rows with written captions"),
    "labels": Message("rows labelled"),
    "repeats": Message("rows with other repeats"),
}
STYLE = """h2{margin-top:2em;border-bottom:1px solid #ddd}h3{margin:1.6em 0 .3em}
td>code{display:inline-block;min-width:9em}
.n{text-align:right;font-variant-numeric:tabular-nums}.account{display:flex;height:26px;
border-radius:4px;overflow:hidden;max-width:720px}.k{background:#3d8b57}.d{background:#d9a441}.f{background:#b4413c}
.sum{font-size:20px;font-variant-numeric:tabular-nums}.bad{color:#b4413c}.took{display:inline-block;height:.8em;
background:#d9a441;margin-right:.4em}svg{width:100%;max-width:568px;display:block}svg text{font:11px system-ui,
sans-serif;fill:#555}.all{fill:#c9c9c4}.kept{fill:#3d8b57}.axis{stroke:#999}path.line{stroke:#b4413c;
stroke-dasharray:4 2}text.line{fill:#b4413c}.against{fill:none;stroke:#3565a8}.sides{display:grid;
grid-template-columns:1fr 1fr;gap:1em}.side{padding:.4em .6em;background:#faf6ec}.side.in{background:#eef6f0}
.pictures{display:flex;flex-wrap:wrap;gap:.6em}figure{margin:0;width:150px;font-size:12px;line-height:1.35;
overflow-wrap:anywhere}figure img{display:block;max-width:144px;max-height:144px}figcaption b{display:block}
.none{display:block;width:132px;padding:.8em .4em;background:#eee;color:#666}.pair{display:flex;gap:.4em;
padding:.4em;background:#faf6ec}.scores{display:grid;grid-template-columns:repeat(auto-fill,minmax(340px,1fr));
gap:1em}bdi{overflow-wrap:anywhere}"""


def write_page(out: Path, source: Path) -> None:
    """Writes ``out/report.html`` from a run in ``out``. Raises DataError as ``page``, or for a full disk."""
    save(out / PAGE, page(out, source).encode("utf-8", "backslashreplace"))


def page(out: Path, source: Path) -> str:
    """The page of the run in ``out``. Pictures are read from ``source``; missing ones are marked.

    Raises DataError where there is no report or its table cannot be read.
    """
    report = read_json(out / REPORT)
    if not isinstance(report, dict) or report.get("kind") != "curate":
        raise DataError("{out} holds no report of a curation; run bimo curate first", out=out)
    pictures = examples(out, source)
    pictures.scan()
    pictures.find(row["number"] for rule in report["rules"] for row in _near(rule))
    parts = [_heading(report), _account(report), _rules(report), _failures(report, pictures), _files(report)]
    parts.append(_h2(Message("rule by rule")))
    details = [_rule(rule, report, pictures) for rule in report["rules"]]
    parts += [
        *details,
        _note(
            Message("Examples of captions and copies are from the first {count} rows.", count=f"{pictures.scanned:,}")
        ),
    ]
    parts += [_scores(report), _settings(report)]
    title = html.unescape(visible(report["recipe"], 80).replace("<bdi>", "").replace("</bdi>", ""))
    return document(title, "\n".join(filter(None, parts)), STYLE)


def _h2(title: Message) -> str:
    return f"<h2>{title.zh} <small>{title.en}</small></h2>"


def _both(text: Message) -> str:
    """A text in Chinese, and small in English, escaped."""
    return f"{visible(text.zh)} <small>{visible(text.en)}</small>"


def _label(text: Message) -> str:
    """A short text in both languages, escaped."""
    return f"{visible(text.zh)} {visible(text.en)}"


def _note(text: Message) -> str:
    return f"<p><small>{html.escape(text.zh)} {html.escape(text.en)}</small></p>"


def _head(*names: Message | None) -> str:
    """The first row of a table, in both languages."""
    return "".join("<th></th>" if name is None else f"<th>{name.zh} {name.en}</th>" for name in names)


def _heading(report: Mapping[str, Any]) -> str:
    curation = report.get("curation") or {}
    title, note = str(curation.get("title") or ""), str(curation.get("note") or "")
    lines = [
        f"<h1>{visible(report['recipe'])} {_both(Message('curation'))}</h1>",
        f"<p>{visible(title)}</p>" if title else "",
        f"<p>{_both(Message('source'))} <code>{visible(report['source'], 400)}</code></p>",
        f"<p>{visible(note, 2000)}</p>" if note else "",
    ]
    return "".join(lines)


def _account(report: Mapping[str, Any]) -> str:
    numbers = report["numbers"]
    rows, kept, dropped, failed = (numbers[name] for name in ("rows_in", "kept", "dropped", "failed"))
    whole = rows == kept + dropped + failed
    shares = "".join(
        f'<span class="{kind}" style="width:{count / max(rows, 1):.3%}"></span>'
        for kind, count in (("k", kept), ("d", dropped), ("f", failed))
    )
    counts = {"rows": f"{rows:,}", "kept": f"{kept:,}", "dropped": f"{dropped:,}", "failed": f"{failed:,}"}
    if whole:
        sentence = Message("rows in {rows} = kept {kept} + dropped {dropped} + failed {failed}", **counts)
    else:
        sentence = Message(
            "rows in {rows} ≠ kept {kept} + dropped {dropped} + failed {failed}: rows were lost or counted twice",
            **counts,
        )
    lines = [
        _h2(Message("the account")),
        f'<div class="account">{shares}</div>',
        f'<p class="sum{"" if whole else " bad"}">{_both(sentence)}</p>',
    ]
    facts: list[tuple[Message, Any]] = [
        (Message("samples written"), numbers.get("samples")),
        (Message("shards"), report.get("shards")),
    ]
    facts += [(Message("pictures opened in this run"), numbers.get("pictures_opened"))]
    if numbers.get("workers_killed"):
        facts += [(Message("processes the system killed"), numbers["workers_killed"])]
    facts += [(Message("seconds"), numbers.get("seconds")), (Message("rows a second"), numbers.get("rows_a_second"))]
    cells = "".join(
        f'<tr><td>{_both(name)}</td><td class="n">{figure(value)}</td></tr>'
        for name, value in facts
        if value is not None
    )
    return "".join([*lines, f"<table>{cells}</table>"])


def _rules(report: Mapping[str, Any]) -> str:
    """The rows that each rule dropped, in the order of the steps, and how many were left after it."""
    rows = report["numbers"]["rows_in"]
    left = rows - report["numbers"]["failed"]
    most = max((rule["dropped"] for rule in report["rules"]), default=0) or 1
    body: list[str] = []
    for rule in sorted(report["rules"], key=lambda rule: rule["step"]):
        left -= rule["dropped"]
        changes = "<br>".join(f"{_both(CHANGED.get(n, Both(n, n)))} {c:,}" for n, c in rule["changes"].items())
        bar = f'<span class="took" style="width:{rule["dropped"] / most * 120:.0f}px"></span>{rule["dropped"]:,}'
        share = f"{rule['dropped'] / max(rows, 1):.1%}"
        body.append(
            f'<tr><td class="n">{rule["step"] + 1}</td><td><b>{visible(rule["rule"])}</b><br>'
            f"{_both(Both(rule['zh'], rule['en']))}</td><td><code>{_set(rule['settings'])}</code></td><td>{bar}</td>"
            f'<td class="n">{share}</td><td class="n">{left:,}</td><td>{changes}</td></tr>'
        )
    heading = _head(
        None,
        Message("rule"),
        Message("settings"),
        Message("dropped"),
        Message("of all"),
        Message("left after it"),
        Message("captions"),
    )
    note = _note(Message("A row counts for the first rule that took it; failed rows are left out from the start."))
    return f"{_h2(Message('rules'))}{note}<table><tr>{heading}</tr>{''.join(body)}</table>"


def _set(settings: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{visible(name)}={visible(json.dumps(value, ensure_ascii=False), 80)}" for name, value in settings.items()
    )


def _failures(report: Mapping[str, Any], pictures: Examples) -> str:
    if not report["failures"]:
        return ""
    body: list[str] = []
    for reason, count in sorted(report["failures"].items(), key=lambda item: (-item[1], item[0])):
        rows = [pictures.by_number[number] for number in pictures.failed.get(reason, ())]
        details = "<br>".join(f"<code>{visible(row['source'])}</code> {visible(row['detail'])}" for row in rows)
        body.append(f'<tr><td>{_both(reason_message(reason))}</td><td class="n">{count:,}</td><td>{details}</td></tr>')
    heading = _head(Message("reason"), Message("rows"), Message("examples"))
    return f"{_h2(Message('failures'))}<table><tr>{heading}</tr>{''.join(body)}</table>"


def _files(report: Mapping[str, Any]) -> str:
    """How every file of the source was read, or why not, and whose colours were converted."""
    files, parts = report.get("files") or {}, list[str]()
    if files:
        read = " + ".join(f"{_label(READ[name])} {count:,}" for name, count in files["read"].items())
        body = "".join(
            f'<tr><td>{_both(Both(row["zh"], row["reason"]))}</td><td class="n">{row["count"]:,}</td>'
            f"<td>{'<br>'.join(f'<code>{visible(name)}</code>' for name in row['examples'])}</td></tr>"
            for row in files["not_read"]
        )
        heading = _head(Message("not read"), Message("files"), Message("examples"))
        parts += [_h2(Message("files")), f"<p>{_both(Both(files['read_as']['zh'], files['read_as']['en']))}</p>"]
        not_read = f"{_label(Message('not read'))} {sum(row['count'] for row in files['not_read']):,}"
        parts += [f"<p>{files['total']:,} = {read or 0} + {not_read}</p>"]
        parts += [f"<table><tr>{heading}</tr>{body}</table>" if body else ""]
    if report.get("converted"):
        cells = "".join(
            f'<tr><td>{visible(n)}</td><td class="n">{c:,}</td></tr>' for n, c in report["converted"].items()
        )
        parts += [_h2(Message("converted to sRGB")), f"<table>{cells}</table>"]
    return "".join(parts)


def _near(rule: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [row for threshold in rule["thresholds"] for side in ("dropped", "passed") for row in threshold[side]]


def _rule(rule: Mapping[str, Any], report: Mapping[str, Any], pictures: Examples) -> str:
    """The section of one rule; empty where it has nothing to show."""
    parts: list[str] = [_settled(rule)]
    scores = report["scores"]
    score = scores.get(rule["score"])
    if score is not None and drawable(score):
        against = scores.get(f"{rule['score']}_shuffled")
        lines = [*lines_of(rule, rule["score"], scores), *(t["threshold"] for t in rule["thresholds"])]
        parts.append(f"<p><b>{visible(rule['score'])}</b> {_ends(score)}</p>{histogram(score, lines, against)}")
        if against is not None:
            parts.append(_note(Message("The blue line: shuffled pairs.")))
    parts += [_sides(threshold, pictures) for threshold in rule["thresholds"]]
    parts.append(_copies(rule, pictures) or _dropped_rows(rule, pictures))
    parts += [_changes(rule, what, pictures) for what in ("caption mended", "captions written", "captions changed")]
    text = "".join(filter(None, parts))
    head = f"<h3>{rule['step'] + 1}. {visible(rule['rule'])} <small>{visible(rule['zh'])} {visible(rule['en'])}</small>"
    return f"{head}</h3>{text}" if text else ""


def lines_of(rule: Mapping[str, Any], name: str, scores: Mapping[str, Any]) -> list[float]:
    """The thresholds of a rule on a score, also where no row was beyond them."""
    settings = rule["settings"]
    thresholds = [settings[name]] if name in settings else []
    if name == rule["score"]:
        # A threshold that was chosen by the data takes precedence.
        first = [settings["line"]] if settings.get("line") is not None else [settings.get(n) for n in LINES]
        thresholds += [value for value in first if value is not None]
    return [float(value) for value in thresholds if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _ends(score: Mapping[str, Any]) -> str:
    facts = [f"n={score['count']:,}"]
    if score["missing"]:
        facts.append(f"{_label(Message('rows without it'))} {score['missing']:,}")
    if score["count"]:
        ends = ((Message("least"), "least"), (Message("mean"), "mean"), (Message("most"), "most"))
        facts += [f"{_label(label)} {figure(score[name])}" for label, name in ends]
    return f"<small>{', '.join(facts)}</small>"


def _settled(rule: Mapping[str, Any]) -> str:
    """The result of a threshold that was chosen by the data."""
    settings = rule["settings"]
    line, area = settings.get("line"), settings.get("area")
    if not isinstance(line, (int, float)) or not isinstance(area, (int, float)):
        return ""
    rows, shuffled = settings.get("rows", 0), settings.get("shuffled", 0)
    sentence = Message(
        "The threshold was set to {threshold}, on {rows} pairs and {shuffled} shuffled ones; a true pair scores higher "
        "than a shuffled one with probability {area} (the area under the ROC curve).",
        threshold=figure(float(line)),
        rows=f"{rows:,}",
        shuffled=f"{shuffled:,}",
        area=f"{area:.3f}",
    )
    return f"<p>{html.escape(sentence.zh)}<br><small>{html.escape(sentence.en)}</small></p>"


def _sides(threshold: Mapping[str, Any], pictures: Examples) -> str:
    """Pictures just beyond a threshold and just within it."""
    line = figure(threshold["threshold"])
    sides = (("dropped", "side", Message("just dropped")), ("passed", "side in", Message("just passed")))
    parts: list[str] = []
    for side, kind, title in sides:
        figures = [
            _figure(pictures.by_number[row["number"]], pictures, f"{figure(row['value'])}")
            for row in threshold[side][:NEXT_TO]
            if row["number"] in pictures.by_number
        ]
        shown = "".join(figures) or f"<small>{_label(Message('none'))}</small>"
        head = f"<p><b>{title.zh}</b> <small>{title.en}</small> {line}</p>"
        parts.append(f'<div class="{kind}">{head}<div class="pictures">{shown}</div></div>')
    return f'<div class="sides">{"".join(parts)}</div>'


def _figure(row: Mapping[str, Any], pictures: Examples, value: str) -> str:
    captions = row["captions"] or row["captions_before"]
    caption = visible(captions[0], 48) if captions else ""
    where = f"<small>{visible(row['source'], 60)}</small>"
    return f"<figure>{pictures.picture(row)}<figcaption><b>{value}</b>{caption} {where}</figcaption></figure>"


def _copies(rule: Mapping[str, Any], pictures: Examples) -> str:
    """Duplicates beside the pictures that they are duplicates of."""
    pairs: list[str] = []
    for number in pictures.dropped.get(rule["step"], ())[:EACH]:
        row = pictures.by_number[number]
        original = copied(row)
        original_row = None if original is None else pictures.row(original)
        if original_row is not None:
            difference = visible(json.loads(row["value"]))
            original_figure = _figure(original_row, pictures, _label(Message("row kept")))
            copy_figure = _figure(row, pictures, f"{_label(Message('dropped'))} {difference}")
            pairs.append(f'<div class="pair">{original_figure}{copy_figure}</div>')
    return f'<div class="pictures">{"".join(pairs)}</div>' if pairs else ""


def _dropped_rows(rule: Mapping[str, Any], pictures: Examples) -> str:
    """Rows that were dropped by a rule without a threshold on a score: their captions, and the value."""
    numbers = [] if rule["thresholds"] else pictures.dropped.get(rule["step"], ())
    changed = pictures.changed.get((rule["step"], "caption dropped"), ())
    body: list[str] = []
    for number in dict.fromkeys([*numbers, *changed][:EACH]):
        row = pictures.by_number[number]
        events = [w for w in json.loads(row["trail"]) if w.get("step") == rule["step"] and "value" in w]
        what = events[-1] if events else {"value": "", "threshold": ""}
        at = what.get("caption")
        # The index counts the captions that were left at the rule, which are most often those of the source.
        before = row["captions_before"]
        caption = before[at] if isinstance(at, int) and at < len(before) else " / ".join(before)
        body.append(
            f"<tr><td>{visible(caption)}</td><td>{visible(_value(what['value']))}</td>"
            f"<td>{visible(_value(what['threshold']))}</td><td><code>{visible(row['source'])}</code></td></tr>"
        )
    heading = _head(Message("dropped"), Message("found"), Message("held against"), None)
    return f"<table><tr>{heading}</tr>{''.join(body)}</table>" if body else ""


def _value(value: Any) -> str:
    return figure(value) if isinstance(value, (int, float)) else str(value)


def _changes(rule: Mapping[str, Any], what: str, pictures: Examples) -> str:
    """Captions before and after."""
    body: list[str] = []
    for number in pictures.changed.get((rule["step"], what), ())[:EACH]:
        row = pictures.by_number[number]
        before, after = ("<br>".join(map(visible, row[name])) for name in ("captions_before", "captions"))
        body.append(f"<tr><td>{before}</td><td>{after}</td><td><code>{visible(row['source'])}</code></td></tr>")
    heading = _head(CHANGED[what], Message("in the end"), None)
    return f"<table><tr>{heading}</tr>{''.join(body)}</table>" if body else ""


def _scores(report: Mapping[str, Any]) -> str:
    """Every score without a histogram in the section of a rule."""
    scores, rules = report["scores"], report["rules"]
    shown = {rule["score"] for rule in rules if rule["score"] and drawable(scores.get(rule["score"], {}))}
    parts: list[str] = []
    for name, score in scores.items():
        if name in shown:
            continue
        title = f"<b>{visible(name)}</b> {_ends(score)}"
        lines = [line for rule in rules for line in lines_of(rule, name, scores)]
        parts.append(f"<div>{title}{histogram(score, lines) if drawable(score) else ''}</div>")
    return f'{_h2(Message("other scores"))}<div class="scores">{"".join(parts)}</div>' if parts else ""


def _settings(report: Mapping[str, Any]) -> str:
    curation = json.dumps(report.get("curation"), ensure_ascii=False, indent=1)
    lines = "\n".join(visible(line, 2000) for line in curation.split("\n"))
    return f"{_h2(Message('the list as it was run'))}<details open><pre>{lines}</pre></details>"
