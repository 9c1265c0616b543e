"""The public address from a terminal: see `helpers/classroom/publish.py`."""
import sys

from .classroom.publish import main

if __name__ == "__main__":
    sys.exit(main())
