"""Grading from a terminal: see `helpers/classroom/grade.py`."""
import sys

from .classroom.grade import main

if __name__ == "__main__":
    sys.exit(main())
