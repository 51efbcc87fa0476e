"""`ft --help`: the commands by what they are for, each as a line that could be typed."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup

START, CHECK, TRAIN, USE = "Start", "Look before you train", "Train", "Use what was trained"

_EXAMPLE_COLUMNS = 31


class GroupedCommands(TyperGroup):
    """Lists the commands by their `rich_help_panel`, with the example that ends their first line.

    That line reads `What it does: ft COMMAND ...`; the sections come in the order above.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections."""
        shown = [
            command
            for name in self.list_commands(ctx)
            if (command := self.get_command(ctx, name)) is not None and not command.hidden
        ]
        for title in (START, CHECK, TRAIN, USE):
            rows = [
                _example_and_meaning(command)
                for command in shown
                if getattr(command, "rich_help_panel", None) == title
            ]
            with formatter.section(title):
                formatter.write_dl(rows, col_max=_EXAMPLE_COLUMNS)


def _example_and_meaning(command: Any) -> tuple[str, str]:
    first_line = (command.help or "").partition("\n")[0]
    meaning, _, example = first_line.partition(": ft ")
    return f"ft {example}".ljust(_EXAMPLE_COLUMNS), meaning
