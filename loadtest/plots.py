"""Plots as SVG, written by hand: a few lines of text that need no library and show their changes in a diff. Pure."""

import math
from collections.abc import Mapping, Sequence
from typing import Final
from xml.sax.saxutils import escape

Points = Sequence[tuple[float, float]]

# All in pixels.
_WIDTH: Final = 720
_HEIGHT: Final = 380
_LEFT: Final = 70
_RIGHT: Final = 20
_TOP: Final = 40
_BOTTOM: Final = 50
_LEAST: Final = 1e-6
_COLOURS: Final = ("#1f6feb", "#d1242f", "#2da44e", "#8250df", "#bf8700", "#57606a", "#0a3069", "#953800")


class _Axis:
    """A scale from figures to pixels, of powers of ten or even steps; figures below a millionth lie at its start where it
    has powers."""

    def __init__(self, figures: Sequence[float], start_px: float, end_px: float, *, powers: bool) -> None:
        self._powers = powers
        positive = [figure for figure in figures if figure > _LEAST] or [1.0]
        self._low = 10 ** math.floor(math.log10(min(positive))) if powers else 0.0
        self._high = 10 ** math.ceil(math.log10(max(positive))) if powers else max(positive) * 1.05
        if self._high <= self._low:
            self._high = self._low * 10
        self._start_px, self._end_px = start_px, end_px

    def px(self, figure: float) -> float:
        """Where a figure lies."""
        if self._powers:
            share = math.log10(max(figure, self._low) / self._low) / math.log10(self._high / self._low)
        else:
            share = figure / self._high
        return round(self._start_px + share * (self._end_px - self._start_px), 1)

    def marks(self) -> list[float]:
        """The figures that are written at it."""
        if self._powers:
            first, last = round(math.log10(self._low)), round(math.log10(self._high))
            return [10.0**power for power in range(first, last + 1)]
        step = 10 ** math.floor(math.log10(self._high))
        step = step / 5 if self._high / step < 2 else step / 2 if self._high / step < 5 else step
        return [step * count for count in range(int(self._high / step) + 1)]


def lines(title: str, across: str, up: str, curves: Mapping[str, Points], *, powers_up: bool = True) -> str:
    """Curves over an axis of powers of ten, as one SVG image with its legend."""
    points = [point for curve in curves.values() for point in curve]
    x = _Axis([at for at, _ in points], _LEFT, _WIDTH - _RIGHT, powers=True)
    y = _Axis([at for _, at in points], _HEIGHT - _BOTTOM, _TOP, powers=powers_up)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        _text(_WIDTH / 2, 20, title, "middle"),
        _text((_LEFT + _WIDTH) / 2, _HEIGHT - 10, across, "middle"),
        f'<text transform="translate(16 {_HEIGHT / 2}) rotate(-90)" text-anchor="middle">{escape(up)}</text>',
    ]
    for mark in x.marks():
        parts.append(_rule(x.px(mark), _TOP, x.px(mark), _HEIGHT - _BOTTOM))
        parts.append(_text(x.px(mark), _HEIGHT - _BOTTOM + 18, f"{mark:g}", "middle"))
    for mark in y.marks():
        parts.append(_rule(_LEFT, y.px(mark), _WIDTH - _RIGHT, y.px(mark)))
        parts.append(_text(_LEFT - 6, y.px(mark) + 4, f"{mark:g}", "end"))
    for number, (name, curve) in enumerate(curves.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        path = " ".join(f"{x.px(at)},{y.px(height)}" for at, height in curve)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x.px(at)}" cy="{y.px(height)}" r="3" fill="{colour}"/>' for at, height in curve]
        parts.append(f'<rect x="{_LEFT + 10}" y="{_TOP + 8 + 16 * number}" width="10" height="10" fill="{colour}"/>')
        parts.append(_text(_LEFT + 26, _TOP + 17 + 16 * number, name, "start"))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _rule(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}" stroke="#d8dee4"/>'
