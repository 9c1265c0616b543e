"""Is this machine ready for the series? One line for each thing: `ok`, or `todo` and what to do.
Needs nothing but Python itself, so that it can say what is missing."""
from __future__ import annotations  # so that an old Python gets as far as being told so

import hashlib
import importlib.metadata
import os
import re
import shutil
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PYTHON = 3, 10  # the oldest
MEMORY, DISK, PATIENCE = 4, 2, 5  # GB at the peak; GB free; seconds for the network
INSTALL = "run: python -m pip install -r requirements.txt"


class Todo(Exception):
    """What is wrong and what to do, in one line."""


def numbers(version: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu": the release, without zeros at its end."""
    release = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in release[0].split(".")] if release else [0]
    while parts[-1:] == [0]:
        parts.pop()
    return tuple(parts)


def satisfies(version: str, ranges: str) -> bool:
    """Whether a version lies in ranges such as ">=2.4,<3"."""
    for sign, bound in re.findall(r"(>=|<=|==|!=|<|>)\s*([\w.]+)", ranges):
        here, there = numbers(version), numbers(bound)
        if not {">=": here >= there, "<=": here <= there, "==": here == there, "!=": here != there,
                "<": here < there, ">": here > there}[sign]:
            return False
    return True


def python():
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < PYTHON:
        raise Todo(f"Python {version} is too old: install {PYTHON[0]}.{PYTHON[1]} or newer")
    return f"Python {version}"


def requirements() -> list[str]:
    """The lines of requirements.txt that name a package."""
    return [line for line in read(ROOT / "requirements.txt").splitlines() if re.match(r"\w", line)]


def installed(name: str) -> str | None:
    """The package's version, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def package(line: str):
    """A check of one line of requirements.txt."""
    name, ranges = re.match(r"([\w.-]+)\s*(.*)", line).groups()

    def check():
        version = installed(name)
        if version is None:
            raise Todo(f"{name} is not installed: {INSTALL}")
        if not satisfies(version, ranges):
            raise Todo(f"{name} {version} is outside {ranges}: {INSTALL}")
        return f"{name} {version}"
    return check


def widgets():
    """A front end shows only what fits it: JupyterLab 4 shows ipywidgets 8, Colab 7."""
    lab, ours = installed("jupyterlab"), installed("ipywidgets")
    if lab and ours and not satisfies(ours, ">=8"):
        raise Todo(f"ipywidgets {ours} shows no widget in JupyterLab {lab}: run: python -m pip "
                   "install 'ipywidgets>=8,<9'")
    return "widgets fit their front end"


def device():
    try:
        import torch
    except Exception as problem:  # a broken installation raises much besides ImportError
        reason = f"{type(problem).__name__}: {problem}"
        raise Todo(f"torch cannot be imported ({reason}): {INSTALL}") from None
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
        return f"device: GPU, {name}; the terminal and notebooks 04 and 09 use it"
    if getattr(torch.backends, "mps", None) and torch.backends.mps.is_available():
        return "device: Apple's GPU"
    return f"device: CPU, {torch.get_num_threads()} threads; no GPU is needed"


def read(path, default="") -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return default


def free_memory() -> float | None:
    """GB, or None where it cannot be told; a container's limit counts."""
    found = []
    if available := re.search(r"MemAvailable:\s*(\d+) kB", read("/proc/meminfo")):
        found.append(int(available[1]) / 2**20)
    for most, used in (("memory.max", "memory.current"),
                       ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        limit, usage = (read(f"/sys/fs/cgroup/{name}").strip() for name in (most, used))
        if limit.isdigit() and usage.isdigit() and int(limit) < 2**60:
            found.append((int(limit) - int(usage)) / 2**30)
    if not found and hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    return min(found, default=None)


def memory():
    free = free_memory()
    if free is None:
        return f"memory: this system does not say; the notebooks need {MEMORY} GB"
    if free < MEMORY:
        raise Todo(f"memory: {free:.1f} GB free, the largest notebook needs up to {MEMORY}: close "
                   "other programs and kernels")
    return f"memory: {free:.1f} GB"


def disk():
    free = shutil.disk_usage(ROOT).free / 2**30
    if free < DISK:
        raise Todo(f"disk: {free:.1f} GB free, {DISK} are needed for caches and outputs: make room")
    return f"disk: {free:.0f} GB free"


def network():
    """Never a todo: the Hub is only for models and stories other than the bundled ones."""
    address, reached = os.environ.get("HF_ENDPOINT", "https://huggingface.co"), []
    question = urllib.request.Request(address, method="HEAD")

    def ask():
        try:
            urllib.request.urlopen(question, timeout=PATIENCE).close()
        except urllib.error.HTTPError:
            pass  # it answers
        except Exception:
            return
        reached.append(True)
    # looking up a name can take longer than any timeout
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    return "network: " + ("the Hub answers" if reached else
                          "no Hub; only other models and stories need it")


def data_file(name: str, checksum: str):
    """A check of one file of data/ against its data sheet."""
    def check():
        try:
            found = hashlib.sha256((ROOT / "data" / name).read_bytes()).hexdigest()
        except OSError:
            raise Todo(f"data/{name} is missing: restore data/ from the repository") from None
        if found != checksum:
            raise Todo(f"data/{name} is not the file of the data sheet: restore data/ from the "
                       "repository")
        return f"data/{name}"
    return check


def kernel():
    try:
        from jupyter_client.kernelspec import KernelSpecManager
        command = KernelSpecManager().get_kernel_spec("python3").argv[0]
    except Exception:
        raise Todo(f"Jupyter has no kernel python3: {INSTALL}") from None
    theirs = shutil.which(command)
    here = Path(sys.executable).parent.resolve()
    if os.path.isabs(command) and (not theirs or Path(theirs).parent.resolve() != here):
        raise Todo(f"Jupyter's kernel python3 is another Python ({command}): "
                   "run: python -m ipykernel install --sys-prefix --name python3")
    return "Jupyter's kernel python3 is this Python"


def checks() -> list:
    """All checks in order: each returns what it found, or raises Todo."""
    lines = requirements()
    text = read(ROOT / "data" / "README.md")
    sums = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|", text, re.M))
    if not lines or not sums:
        def incomplete():
            raise Todo("requirements.txt or data/README.md is missing: restore them from the "
                       "repository")
        return [python, incomplete]
    files = [data_file(*entry) for entry in sums.items()]
    return [python, *map(package, lines), widgets, device, memory, disk, network, *files, kernel]


def main() -> int:
    """Prints a line for each check; returns 0 where nothing is to do, else 1."""
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    code = 0
    for check in checks():
        try:
            print(f"ok   {check()}", flush=True)
        except Todo as what:
            code = 1
            print(f"todo {' '.join(str(what).split())}", flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
