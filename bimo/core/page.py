"""A page that stands alone: nothing is fetched and nothing runs, whatever a caption on it says."""

from __future__ import annotations

import html

#: What every page of ours looks like.
STYLE = """body{font:15px/1.5 system-ui,"Noto Sans CJK SC","PingFang SC","Microsoft YaHei",sans-serif;max-width:1100px;
margin:2em auto;padding:0 1em;color:#222}table{border-collapse:collapse;margin:.6em 0 1.6em}td,th{border:1px solid #ccc;
padding:.25em .7em;text-align:left;vertical-align:top}th{background:#f3f3f0}img{max-width:100%}
code,pre{font-size:13px;white-space:pre-wrap;overflow-wrap:anywhere}small{color:#666;font-weight:normal}"""
POLICY = "default-src 'none'; img-src data:{own}; style-src 'unsafe-inline'"


def page(title: str, body: str, style: str = "", *, beside: bool = False) -> str:
    """A whole document. ``title`` is text, ``body`` is HTML; ``style`` is what a page has of its own; with ``beside``
    pictures may lie beside the page in place of within it.
    """
    policy = POLICY.format(own=" 'self' file:" if beside else "")
    return (
        '<!doctype html><html lang="zh"><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style>{body}</html>\n"
    )
