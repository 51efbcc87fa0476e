"""``python -m ft`` is ``ft``: what a launcher starts."""

from ft.cli import main

if __name__ == "__main__":
    main()
