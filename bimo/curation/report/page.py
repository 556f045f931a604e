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
    "caption dropped": ("删去说明", "captions dropped"),
    "caption mended": ("改正说明", "captions mended"),
    "captions changed": ("换了说明的行", "rows with other captions"),
    "captions written": ("重写说明的行", "rows with written captions"),
    "labels": ("加了标签的行", "rows labelled"),
    "repeats": ("改了次数的行", "rows with other repeats"),
}
REASONS = {
    "empty": "空的",
    "not a picture": "不是图片",
    "not a format that is read": "不读这种格式（HEIC、JPEG XL 等），请转成 JPEG 或 PNG",
    "range unknown": "小数像素的范围不明，请换算到 0 到 1",
    "several pictures": "一段文字有几张图",
    "no picture": "没有图片",
    "too large": "像素太多",
    "too many bytes": "字节太多",
    "truncated": "图片不完整",
    "damaged": "图片已损坏",
    "cut off": "文件不完整",
    "missing": "找不到文件",
    "unreadable": "读不了",
    "not a file": "不是普通文件",
    "outside the folder": "在文件夹之外",
    "not fetched": "没有下载到",
    "no caption": "没有说明",
    "caption too long": "说明太长",
    "line too long": "这一行太长",
    "not text": "不是文字",
    "not json": "不是 JSON",
    "not an object": "不是 JSON 对象",
    "not base64": "不是 base64",
    "open quote": "引号没有合上",
    "wrong number of columns": "列数不对",
    "damaged table": "表格已损坏",
    "damaged archive": "归档已损坏",
    "compressed archive": "压缩的归档",
    "too slow": "太慢",
    "no answer": "没有回答",
    "too many redirects": "转向太多",
    "opted out": "站点不许用于训练",
    "address not allowed": "不许取的地址",
    "worker killed": "处理它的进程被系统结束",
    "changed since it was measured": "看过之后文件变了",
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
    parts.append(_h2("逐条规则", "rule by rule"))
    details = [_rule(rule, report, pictures) for rule in report["rules"]]
    parts += [*details, f"<p><small>说明和重复的例子取自前 {pictures.scanned:,} 行。"]
    parts.append(f"Examples of captions and copies are from the first {pictures.scanned:,} rows.</small></p>")
    parts += [_scores(report), _settings(report)]
    title = html.unescape(visible(report["recipe"], 80).replace("<bdi>", "").replace("</bdi>", ""))
    return document(title, "\n".join(filter(None, parts)), STYLE)


def _h2(zh: str, en: str) -> str:
    return f"<h2>{zh} <small>{en}</small></h2>"


def _both(zh: str, en: str) -> str:
    return f"{visible(zh)} <small>{visible(en)}</small>"


def _heading(report: Mapping[str, Any]) -> str:
    curation = report.get("curation") or {}
    title, note = str(curation.get("title") or ""), str(curation.get("note") or "")
    html = f"<h1>{visible(report['recipe'])} 清洗 <small>curation</small></h1>"
    html += f"<p>{visible(title)}</p>" if title else ""
    html += f"<p>来源 <small>source</small> <code>{visible(report['source'], 400)}</code></p>"
    return html + (f"<p>{visible(note, 2000)}</p>" if note else "")


def _account(report: Mapping[str, Any]) -> str:
    numbers = report["numbers"]
    rows, kept, dropped, failed = (numbers[name] for name in ("rows_in", "kept", "dropped", "failed"))
    whole = rows == kept + dropped + failed
    shares = "".join(
        f'<span class="{kind}" style="width:{count / max(rows, 1):.3%}"></span>'
        for kind, count in (("k", kept), ("d", dropped), ("f", failed))
    )
    sign, verdict = ("=", "账平 balances") if whole else ("≠", "账不平 does not balance")
    lines = [
        _h2("账", "the account"),
        f'<div class="account">{shares}</div>',
        f'<p class="sum{"" if whole else " bad"}">读入 {rows:,} {sign} 保留 {kept:,} + 丢弃 {dropped:,} + '
        f"失败 {failed:,} <small>rows in {sign} kept + dropped + failed; {verdict}</small></p>",
    ]
    facts = [("写出的样本", "samples written", numbers.get("samples")), ("分片", "shards", report.get("shards"))]
    facts += [("打开的图片", "pictures opened in this run", numbers.get("pictures_opened"))]
    if numbers.get("workers_killed"):
        facts += [("被系统结束的进程", "processes the system killed", numbers["workers_killed"])]
    facts += [("秒", "seconds", numbers.get("seconds")), ("行每秒", "rows a second", numbers.get("rows_a_second"))]
    cells = "".join(
        f'<tr><td>{zh} <small>{en}</small></td><td class="n">{figure(value)}</td></tr>'
        for zh, en, value in facts
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
        changes = "<br>".join(f"{_both(*CHANGED.get(n, (n, n)))} {c:,}" for n, c in rule["changes"].items())
        took = f'<span class="took" style="width:{rule["dropped"] / most * 120:.0f}px"></span>{rule["dropped"]:,}'
        share = f"{rule['dropped'] / max(rows, 1):.1%}"
        body.append(
            f'<tr><td class="n">{rule["step"] + 1}</td><td><b>{visible(rule["rule"])}</b><br>'
            f"{_both(rule['zh'], rule['en'])}</td><td><code>{_set(rule['settings'])}</code></td><td>{took}</td>"
            f'<td class="n">{share}</td><td class="n">{left:,}</td><td>{changes}</td></tr>'
        )
    names = (
        "",
        "规则 rule",
        "设置 settings",
        "丢弃 dropped",
        "占全部 of all",
        "之后剩下 left after it",
        "说明 captions",
    )
    heading = "".join(f"<th>{name}</th>" for name in names)
    note = "一行只算在第一条拿掉它的规则上；失败的行先不计。A row counts for the first rule that took it; failed rows "
    note += "are left out from the start."
    return f"{_h2('规则', 'rules')}<p><small>{note}</small></p><table><tr>{heading}</tr>{''.join(body)}</table>"


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
        body.append(f'<tr><td>{_both(_reason(reason), reason)}</td><td class="n">{count:,}</td><td>{details}</td></tr>')
    heading = "<tr><th>原因 reason</th><th>行 rows</th><th>例子 examples</th></tr>"
    return f"{_h2('失败', 'failures')}<table>{heading}{''.join(body)}</table>"


def _files(report: Mapping[str, Any]) -> str:
    """How every file of the source was read, or why not, and whose colours were converted."""
    files, parts = report.get("files") or {}, list[str]()
    if files:
        read = " + ".join(f"{READ[name][0]} {READ[name][1]} {count:,}" for name, count in files["read"].items())
        body = "".join(
            f'<tr><td>{_both(row["zh"], row["reason"])}</td><td class="n">{row["count"]:,}</td>'
            f"<td>{'<br>'.join(f'<code>{visible(name)}</code>' for name in row['examples'])}</td></tr>"
            for row in files["not_read"]
        )
        heading = "<tr><th>没有读的 not read</th><th>文件 files</th><th>例子 examples</th></tr>"
        parts += [_h2("文件", "files"), f"<p>{_both(files['read_as']['zh'], files['read_as']['en'])}</p>"]
        parts += [
            f"<p>{files['total']:,} = {read or 0} + 没有读 not read {sum(r['count'] for r in files['not_read']):,}</p>"
        ]
        parts += [f"<table>{heading}{body}</table>" if body else ""]
    if report.get("converted"):
        cells = "".join(
            f'<tr><td>{visible(n)}</td><td class="n">{c:,}</td></tr>' for n, c in report["converted"].items()
        )
        parts += [_h2("颜色转到 sRGB 的", "converted to sRGB"), f"<table>{cells}</table>"]
    return "".join(parts)


def _reason(reason: str) -> str:
    """A reason in Chinese; one that contains a rule, by the rule's step."""
    doing, _, what = reason.partition(" ")
    known = {"measure": "测量时出错", "judge": "判断时出错", "caption": "看说明时出错", "ask": "问模型时出错"}
    known |= {"decode:": "解码时出错"}
    return REASONS.get(reason) or (f"{known[doing]}：{what}" if doing in known else reason)


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
            parts.append("<p><small>蓝线：打乱的图文。The blue line: shuffled pairs.</small></p>")
    parts += [_sides(threshold, pictures) for threshold in rule["thresholds"]]
    parts.append(_copies(rule, pictures) or _taken(rule, pictures))
    parts += [_changes(rule, what, pictures) for what in ("caption mended", "captions written", "captions changed")]
    text = "".join(filter(None, parts))
    head = f"<h3>{rule['step'] + 1}. {visible(rule['rule'])} <small>{visible(rule['zh'])} {visible(rule['en'])}</small>"
    return f"{head}</h3>{text}" if text else ""


def lines_of(rule: Mapping[str, Any], name: str, scores: Mapping[str, Any]) -> list[float]:
    """The thresholds of a rule on a score, also where no row was beyond them."""
    settings = rule["settings"]
    values_shown = [settings[name]] if name in settings else []
    if name == rule["score"]:
        # A threshold that was chosen by the data takes precedence.
        first = [settings["line"]] if settings.get("line") is not None else [settings.get(n) for n in LINES]
        values_shown += [value for value in first if value is not None]
    return [float(value) for value in values_shown if isinstance(value, (int, float)) and not isinstance(value, bool)]


def _ends(score: Mapping[str, Any]) -> str:
    text = f"n={score['count']:,}"
    if score["missing"]:
        text += f"，没有的 missing {score['missing']:,}"
    if not score["count"]:
        return f"<small>{text}</small>"
    ends = (("最小 least", "least"), ("平均 mean", "mean"), ("最大 most", "most"))
    return f"<small>{text}，{'，'.join(f'{label} {figure(score[name])}' for label, name in ends)}</small>"


def _settled(rule: Mapping[str, Any]) -> str:
    """The result of a threshold that was chosen by the data."""
    settings = rule["settings"]
    line, area = settings.get("line"), settings.get("area")
    if not isinstance(line, (int, float)) or not isinstance(area, (int, float)):
        return ""
    rows, shuffled = settings.get("rows", 0), settings.get("shuffled", 0)
    return (
        f"<p>线定在 <b>{figure(float(line))}</b>：由 {rows:,} 对图文和 {shuffled:,} 对打乱的图文定出；真的一对高于"
        f"打乱的一对，机会是 {area:.3f}。<br><small>The line was settled at {figure(float(line))}, on {rows:,} pairs "
        f"and {shuffled:,} shuffled ones; a true pair scores higher than a shuffled one with a chance of {area:.3f} "
        "(the area under the ROC curve).</small></p>"
    )


def _sides(threshold: Mapping[str, Any], pictures: Examples) -> str:
    """Pictures just beyond a threshold and just within it."""
    line = figure(threshold["threshold"])
    sides = (("dropped", "side", "刚好丢弃", "just dropped"), ("passed", "side in", "刚好通过", "just passed"))
    parts: list[str] = []
    for side, kind, zh, en in sides:
        figures = [
            _figure(pictures.by_number[row["number"]], pictures, f"{figure(row['value'])}")
            for row in threshold[side][:NEXT_TO]
            if row["number"] in pictures.by_number
        ]
        shown = "".join(figures) or "<small>没有 none</small>"
        head = f"<p><b>{zh}</b> <small>{en}</small> {line}</p>"
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
        kept_row = None if original is None else pictures.row(original)
        if kept_row is not None:
            difference = visible(json.loads(row["value"]))
            shown = _figure(kept_row, pictures, "保留 kept") + _figure(row, pictures, f"丢弃 dropped: {difference}")
            pairs.append(f'<div class="pair">{shown}</div>')
    return f'<div class="pictures">{"".join(pairs)}</div>' if pairs else ""


def _taken(rule: Mapping[str, Any], pictures: Examples) -> str:
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
    names = ("丢弃的 dropped", "看到 found", "界限 held against", "")
    heading = "".join(f"<th>{name}</th>" for name in names)
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
    zh, en = CHANGED[what]
    heading = f"<tr><th>{zh} {en}：原文 source</th><th>最后 in the end</th><th></th></tr>"
    return f"<table>{heading}{''.join(body)}</table>" if body else ""


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
    return f'{_h2("其他分数", "other scores")}<div class="scores">{"".join(parts)}</div>' if parts else ""


def _settings(report: Mapping[str, Any]) -> str:
    curation = json.dumps(report.get("curation"), ensure_ascii=False, indent=1)
    lines = "\n".join(visible(line, 2000) for line in curation.split("\n"))
    return f"{_h2('清单', 'the list as it was run')}<details open><pre>{lines}</pre></details>"
