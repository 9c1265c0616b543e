"""Judging from a terminal: see `helpers/judging/command.py`."""
import sys

from .judging.command import main

if __name__ == "__main__":
    sys.exit(main())
