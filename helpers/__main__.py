"""`python -m helpers`: see `terminal.options`."""
import sys

from .terminal.options import main

if __name__ == "__main__":
    sys.exit(main())
