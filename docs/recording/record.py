"""Records commands as a moving picture: real processes in a pseudo-terminal -> one SVG.

    pip install pyte
    python docs/recording/record.py TARGET.svg "ft validate sql.yml" "ft train sql.yml" ...

Waiting is shortened: what happens in a command is played `SPEED` times faster.
"""

from __future__ import annotations

import fcntl
import html
import os
import pty
import select
import shlex
import struct
import sys
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyte

COLUMNS, LINES = 108, 34
SPEED = 10
READING_S = 3.5
"""So long a command's last screen stands still."""
SAMPLE_S = 1.5
CHARACTER_WIDTH, LINE_HEIGHT, MARGIN = 7.3, 17, 14
PALETTE = {
    "default": "#d6deeb", "black": "#51606f", "red": "#ff6b6b", "green": "#8fd694",
    "brown": "#e8c468", "yellow": "#e8c468", "blue": "#7aa7ff", "magenta": "#c792ea",
    "cyan": "#6fd3e3", "white": "#ffffff",
}  # fmt: skip

Screen = tuple[tuple[tuple[str, str, bool], ...], ...]
"""Lines of (text, color, is bold)."""


@dataclass(frozen=True)
class Frame:
    """A screen, and for how long it stands."""

    screen: Screen
    seconds: float


def record(commands: list[str]) -> list[Frame]:
    """Types and runs each command in one terminal; its screens, one after the other."""
    terminal = pyte.Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(terminal)
    frames: list[Frame] = []
    for command in commands:
        stream.feed(f"$ {command}\r\n".encode())
        frames.append(Frame(picture_of(terminal), 1.2))
        for seconds in run(command, stream):
            frames.append(Frame(picture_of(terminal), max(seconds / SPEED, 0.12)))
        frames.append(Frame(picture_of(terminal), READING_S))
        stream.feed(b"\r\n")
    return frames


def run(command: str, stream: pyte.ByteStream) -> Iterator[float]:
    """Runs a command in a pseudo-terminal; yields the seconds between two looks at the screen."""
    child, terminal = pty.fork()
    if child == 0:
        arguments = shlex.split(command)
        os.execvpe(arguments[0], arguments, {**os.environ, "TERM": "xterm-256color"})
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    looked = time.monotonic()
    while True:
        if select.select([terminal], [], [], SAMPLE_S)[0]:
            try:
                data = os.read(terminal, 1 << 16)
            except OSError:  # the command has ended
                break
            stream.feed(data)
        if time.monotonic() - looked >= SAMPLE_S:
            yield time.monotonic() - looked
            looked = time.monotonic()
    os.waitpid(child, 0)


def picture_of(terminal: pyte.Screen) -> Screen:
    """The screen's lines as runs of one color and weight."""
    lines = []
    for row in range(terminal.lines):
        runs: list[tuple[str, str, bool]] = []
        for column in range(terminal.columns):
            cell = terminal.buffer[row][column]
            color = PALETTE.get(cell.fg, f"#{cell.fg}" if len(cell.fg) == 6 else PALETTE["default"])
            if runs and runs[-1][1:] == (color, cell.bold):
                runs[-1] = (runs[-1][0] + cell.data, color, cell.bold)
            else:
                runs.append((cell.data, color, cell.bold))
        lines.append(tuple(runs))
    return tuple(lines)


def to_svg(frames: list[Frame]) -> str:
    """One SVG that shows the frames in turn, for ever."""
    width = COLUMNS * CHARACTER_WIDTH + 2 * MARGIN
    height = LINES * LINE_HEIGHT + 2 * MARGIN
    total = sum(frame.seconds for frame in frames)
    groups, styles, start = [], [], 0.0
    for number, frame in enumerate(frames):
        begin, end = 100 * start / total, 100 * (start + frame.seconds) / total
        start += frame.seconds
        styles.append(
            f"@keyframes f{number}{{0%,{begin:.3f}%{{visibility:hidden}}"
            f"{begin + 0.001:.3f}%,{end:.3f}%{{visibility:visible}}"
            f"{min(end + 0.001, 100):.3f}%,100%{{visibility:hidden}}}}"
            f"#f{number}{{animation:f{number} {total:.1f}s infinite step-end;visibility:hidden}}"
        )
        groups.append(f'<g id="f{number}">{"".join(_lines(frame.screen))}</g>')
    # Where nothing moves (print, a viewer without animation) the last screen stands.
    styles.append(f"@media print{{#f{len(frames) - 1}{{visibility:visible}}}}")
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'font-family="ui-monospace,Menlo,Consolas,monospace" font-size="12">'
        f"<style>{''.join(styles)}text{{white-space:pre}}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="#0b1622"/>{"".join(groups)}</svg>\n'
    )


def _lines(screen: Screen) -> Iterator[str]:
    for row, runs in enumerate(screen):
        text = "".join(part for part, _, _ in runs)
        if not text.strip():
            continue
        *before, (last, color_of_last, is_last_bold) = runs
        runs = (*before, (last.rstrip(), color_of_last, is_last_bold))
        spans = "".join(
            f'<tspan fill="{color}" font-weight="{700 if is_bold else 400}">'
            f"{html.escape(part)}</tspan>"
            for part, color, is_bold in runs
        )
        y = MARGIN + (row + 0.8) * LINE_HEIGHT
        yield f'<text x="{MARGIN}" y="{y:.0f}" xml:space="preserve">{spans}</text>'


if __name__ == "__main__":
    target, *typed = sys.argv[1:]
    Path(target).write_text(to_svg(record(typed)), "utf-8")
