"""``python -m ft`` is ``ft``: what a launcher starts."""

from ft.cli import program

if __name__ == "__main__":
    program()
