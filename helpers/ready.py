"""What every notebook's set-up cell does once it has found the series.

It installs what is missing, and says what is here.

Needs nothing but Python itself, so that it can run before anything is installed.
"""
from __future__ import annotations  # so that an old Python gets as far as being told so

import importlib
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from .preflight import Todo, device, installed, package, python, requirements

# whatever shows the notebook is there already; Colab breaks with another one beside it
FRONT_END = {"jupyterlab"}
MODULES = {"scikit-learn": "sklearn"}  # packages that are imported under another name


def unmet(lines: list[str]) -> dict[str, str]:
    """{package: its line} of the lines that a notebook needs and that do not hold here."""
    missing = {}
    for line in lines:
        name = re.match(r"[\w.-]+", line)[0]
        try:
            package(line)()
        except Todo:
            missing[name] = line
    return {name: line for name, line in missing.items() if name not in FRONT_END}


def install() -> None:
    """Installs what is missing or out of range, by one call of pip, and by none where nothing is.

    A torch that is there stays, whatever its version. Raises SystemExit, with one line that says
    what to do.
    """
    try:
        python()
    except Todo as what:
        sys.exit(str(what))
    lines, torch = unmet(requirements()), installed("torch")
    if torch and lines.pop("torch", None):
        print(f"note: this series was not tested with torch {torch}, which is left as it is")
    if not lines:
        return
    print("installing", ", ".join(lines.values()), flush=True)
    with TemporaryDirectory() as folder:
        keep = Path(folder) / "constraints.txt"
        keep.write_text(f"torch=={torch}\n" if torch else "", encoding="utf-8")
        pip = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-input",
                              "--disable-pip-version-check", "--constraint", str(keep),
                              *lines.values()], capture_output=True, text=True)
    if pip.returncode:
        said = (re.search(r"^(?:ERROR|error): *(.*)", pip.stderr, re.M)
                or re.search(r"(.*)\s*\Z", pip.stderr))
        sys.exit(f"pip could not install {', '.join(lines)} ({said[1]}): install them yourself in "
                 f"{sys.prefix}, then run this cell again")
    importlib.invalidate_caches()
    if stale := [name for name in lines if MODULES.get(name, name) in sys.modules]:
        sys.exit(f"{', '.join(stale)} was in use while it was renewed: restart the kernel, then "
                 "run all cells again")


def tell() -> None:
    """Prints the versions that matter, and the device."""
    for name in ("torch", "transformers", "datasets", "matplotlib"):
        print(name, installed(name))
    print(device())
