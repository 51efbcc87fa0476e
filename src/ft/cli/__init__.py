"""The command line: one short function a command; nothing heavy is imported before it is needed."""

import sys
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """The program: runs a command and exits with its code (see ft.runtime.errors)."""
    try:
        from ft.cli.app import main as run_command
    except KeyboardInterrupt:  # Ctrl-C while the commands are being read
        print("interrupted", file=sys.stderr)  # noqa: T201
        sys.exit(130)
    run_command(arguments)


__all__ = ["main"]
