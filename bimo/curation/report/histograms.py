"""Histograms of scores as SVG, with the thresholds of the rules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WIDTH, HEIGHT, TOP, BOTTOM = 560, 120, 18, 20
#: A 64-bit identifier, such as a hash, is stored as a number but has no histogram.
MOST_MEASURED = float(1 << 53)


def drawable(score: Mapping[str, Any]) -> bool:
    """Whether a score of the report has a histogram: numbers, and more than one distinct value."""
    if not score.get("count"):
        return False
    return score["least"] < score["most"] and max(abs(score["least"]), abs(score["most"])) < MOST_MEASURED


def histogram(score: Mapping[str, Any], lines: Sequence[float] = (), against: Mapping[str, Any] | None = None) -> str:
    """All rows in grey, kept ones in green, thresholds in red; ``against`` is drawn as an outline with its own scale.

    ``score`` is one of the report's that ``drawable`` accepts.
    """
    shown = [score] + ([against] if against is not None and drawable(against) else [])
    least, most = min(one["least"] for one in shown), max(one["most"] for one in shown)
    # A threshold just outside the range is drawn at its place; one far away is marked at the edge.
    span = most - least
    for line in lines:
        if least - span / 4 <= line <= most + span / 4:
            least, most = min(least, line), max(most, line)

    def x(value: float) -> float:
        return min(max((value - least) / (most - least), 0.0), 1.0) * WIDTH

    highest = max(score["counts"])
    parts = [f'<svg viewBox="-4 0 {WIDTH + 8} {TOP + HEIGHT + BOTTOM}" role="img">']
    for name, kind in (("counts", "all"), ("kept", "kept")):
        bars = zip(score["edges"], score["edges"][1:], score[name], strict=False)
        parts += [_bar(x(low), x(high), count / highest, kind) for low, high, count in bars if count]
    parts += [_outline(one, x) for one in shown[1:]]
    base = TOP + HEIGHT
    parts.append(f'<path class="axis" d="M0 {base}H{WIDTH}"/>')
    for at, anchor, value in ((0, "start", least), (WIDTH, "end", most)):
        parts.append(f'<text x="{at}" y="{base + 15}" text-anchor="{anchor}">{figure(value)}</text>')
    parts.append(f'<text x="{WIDTH}" y="{TOP + 10}" text-anchor="end">↑ {figure(highest)}</text>')
    for line in dict.fromkeys(lines):
        at = x(line)
        mark = "◀ " if line < least else "▶ " if line > most else ""
        anchor = "start" if at < WIDTH / 2 else "end"
        inside = at + 4 if anchor == "start" else at - 4
        parts.append(f'<path class="line" d="M{at:.1f} {TOP - 6}V{base}"/>')
        parts.append(f'<text class="line" x="{inside:.1f}" y="11" text-anchor="{anchor}">{mark}{figure(line)}</text>')
    return "".join([*parts, "</svg>"])


def _bar(left: float, right: float, share: float, kind: str) -> str:
    """A bar is at least one pixel high, so that a single row among millions is visible."""
    height = max(share * HEIGHT, 1.0)
    place = f'x="{left:.1f}" y="{TOP + HEIGHT - height:.1f}" width="{max(right - left - 0.5, 0.7):.1f}"'
    return f'<rect class="{kind}" {place} height="{height:.1f}"/>'


def _outline(score: Mapping[str, Any], x: Any) -> str:
    highest, base = max(score["counts"]), TOP + HEIGHT
    steps = [f"M{x(score['edges'][0]):.1f} {base}"]
    for high, count in zip(score["edges"][1:], score["counts"], strict=False):
        steps.append(f"V{base - count / highest * HEIGHT:.1f}H{x(high):.1f}")
    return f'<path class="against" d="{"".join(steps)}V{base}"/>'


def figure(value: Any) -> str:
    """A number for people: integers with thousands separators, others with four significant digits."""
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4g}" if abs(value) < 1e5 else f"{value:,.0f}"
    return f"{int(value):,}" if isinstance(value, (int, float)) else str(value)
