"""Student copies from a terminal: see `helpers/classroom/student.py`."""
import sys

from .classroom.student import main

if __name__ == "__main__":
    sys.exit(main())
