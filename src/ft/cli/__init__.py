"""The command line: one short function a command; nothing heavy is imported before it is needed."""

from ft.cli.app import main

__all__ = ["main"]
