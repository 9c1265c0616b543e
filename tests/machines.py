"""Runs the notebooks and the everyday tests on other machines, as far as this one can stand in for
them, and prints a table.

    python tests/machines.py [--settings "ATen default" oldest …] [--parts 01 04 tests …]
                             [--strict] [--table]

A setting is a processor (environment variables hide what this one can do), a number of threads, or
an environment of its own with other versions of Python and of the packages. Each has its own cache,
so that it fits its own factors. A result is kept in .cache/machines/results.json until one of the
files that it comes from changes: what was cut off goes on where it was. Hours on two cores for all
of it.
"""
import argparse
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / ".cache" / "machines"
CORES = os.cpu_count()
PARTS = [*(path.name[:2] for path in sorted((ROOT / "notebooks").glob("[0-9]*.ipynb"))), "tests"]

# Variables of each setting. With one thread for each process, as many run side by side as there
# are cores.
ONE = {"OMP_NUM_THREADS": "1"}
SETTINGS = {
    "as is": {"OMP_NUM_THREADS": str(CORES)},
    "1 thread": ONE,
    "2 threads": {"OMP_NUM_THREADS": "2"},
    # else more threads than cores wait for one another
    "4 threads": {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "passive"},
    "MKL SSE4.2": ONE | {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"},
    "MKL AVX2": ONE | {"MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    "MKL AVX-512": ONE | {"MKL_ENABLE_INSTRUCTIONS": "AVX512"},
    "oneDNN AVX2": ONE | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oneDNN AMX": ONE | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_AMX"},
    # else bfloat16 attention asks oneDNN
    "ATen default": ONE | {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    # for units that PyTorch does not see, and stops
    "ATen AVX2": ONE | {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
    "oldest": ONE,
    "newest": ONE,
    "Python 3.12": ONE,
}
# the settings with an environment of their own
PYTHONS = {"oldest": "3.10", "newest": "3.13", "Python 3.12": "3.12"}
ABOUT = ("import platform, torch, transformers; print(f'Python {platform.python_version()}, "
         "torch {torch.__version__}, transformers {transformers.__version__}, "
         "{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads')")


# -- environments ----------------------------------------------------------------------------------

def requirements(name: str) -> list[str]:
    """The lines of tests/requirements.txt and of requirements.txt; for `oldest` each at its lower
    bound."""
    lines = [line for path in (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")
             for line in path.read_text(encoding="utf-8").splitlines() if re.match(r"\w", line)]
    if name == "oldest":
        # 7 is Colab's, where no JupyterLab is
        lines = [line.replace("ipywidgets>=7.7", "ipywidgets>=8.0") for line in lines]
        lines = [re.sub(r">=([\d.]+).*", lambda found: "==" + exact(found[1]), line)
                 for line in lines]
    return lines


def exact(bound: str) -> str:
    """2.4 → 2.4.*, 8 → 8.0.*, 0.4.5 → 0.4.5"""
    parts = bound.split(".")
    return bound if len(parts) > 2 else ".".join((parts + ["0"])[:2]) + ".*"


def python_of(setting: str) -> str | None:
    """The Python of the setting, with everything installed; None where its version is not on this
    machine."""
    if setting not in PYTHONS:
        return sys.executable
    version = PYTHONS[setting]
    folder = KEPT / f"python {setting}"
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    done = folder / "requirements.txt"
    lines = requirements(setting)
    if done.is_file() and done.read_text(encoding="utf-8").splitlines() == lines:
        return str(python)
    candidates = [*sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python")),
                  shutil.which(f"python{version}")]
    base = next((found for found in candidates if found and runs(found)), None)
    if not base:
        return None
    subprocess.run([base, "-m", "venv", "--clear", folder], check=True)
    for more in (lines, ["--no-deps", "kronfluence>=1.0.1,<2"]):
        subprocess.run([python, "-m", "pip", "install", "--quiet", *more], check=True)
    done.write_text("\n".join(lines), encoding="utf-8")
    return str(python)


def runs(python) -> bool:
    """Whether it starts: a version manager puts commands on the path that say only that nothing is
    behind them."""
    return subprocess.run([python, "-c", ""], capture_output=True).returncode == 0


# -- one cell of the table -------------------------------------------------------------------------

def sources(setting: str, part: str, strict: bool) -> str:
    """A fingerprint of the files that a part runs, and of how: what passed without a look at its
    text is not known to print it.

    Settings that come to the same on this machine have the same, and are run once.
    """
    patterns = ["helpers/**/*", "data/**/*", "*requirements.txt", "pyproject.toml",
                "tests/**/*.py" if part == "tests" else f"notebooks/{part}_*.ipynb"]
    digest = hashlib.sha256(json.dumps([strict, sorted(SETTINGS[setting].items()),
                                        PYTHONS.get(setting)]).encode())
    for path in sorted(path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()
                       and "__pycache__" not in path.parts):
        if not any(folder.startswith(".") for folder in path.relative_to(ROOT).parts):
            digest.update(f"{path.relative_to(ROOT)} ".encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(setting: str, part: str, python: str, strict: bool) -> dict:
    """What pytest says of a part: {"seconds", "first": the first failing cell or test, or ""}."""
    folder = KEPT / setting
    folder.mkdir(parents=True, exist_ok=True)
    report, log = folder / f"{part}.xml", folder / f"{part}.log"
    report.unlink(missing_ok=True)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    if part == "tests":
        command += ["-m", "not slow", "tests"]
    else:
        (notebook,) = (ROOT / "notebooks").glob(f"{part}_*.ipynb")
        command += ["-o", "addopts=", "--nbval" if strict else "--nbval-lax", "--nbval-current-env",
                    "--nbval-cell-timeout=3600", "-x",
                    # the plugin of the tests compares numbers up to rounding
                    "-p", "conftest", notebook]
    start = time.monotonic()
    with log.open("w", encoding="utf-8") as out:
        done = subprocess.run(command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
                              stdin=subprocess.DEVNULL,
                              env=os.environ | SETTINGS[setting]
                              | {"XDG_CACHE_HOME": str(folder / "cache"),
                                 "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests")))})
    code = f"exit code {done.returncode}"
    first = failing(report) if report.is_file() else f"no report, {code}: {log}"
    return {"seconds": round(time.monotonic() - start),
            "first": first or ("" if done.returncode == 0 else code)}


def failing(report: Path) -> str:
    """The first test or cell of a report that failed, and how: it stops, or it prints something
    else."""
    for case in ElementTree.parse(report).iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            name = case.get("name").rpartition("::")[2]
            if not name.startswith("Cell "):
                return name
            name = f"[{int(name.removeprefix('Cell ')) + 1}]"  # nbval counts from 0
            said = re.sub(r"(?:\x1b|#x1B)\[[\d;]*m", "", problem.text or "")
            raised = re.findall(r"^\w*(?:Error|Exception|Exit|Interrupt|Failed)\b.*", said,
                                re.M) or [""]
            stops = "caused an exception" in said
            return f"{name} stops: {raised[-1][:60]}" if stops else f"{name} prints otherwise"
    return ""


# -- the table -------------------------------------------------------------------------------------

def load(folder: Path = KEPT) -> dict:
    path = folder / "results.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def save(results: dict, folder: Path = KEPT) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / "results.partial"
    partial.write_text(json.dumps(results, indent=1), encoding="utf-8")
    partial.replace(folder / "results.json")


def table(results: dict, settings: list[str], parts: list[str], strict: bool) -> str:
    """Markdown: ok and seconds, the first failing cell, or a dash for what was not run on the files
    as they are."""
    lines = [" | ".join(["", "setting", *parts, ""]).strip(), "|---" * (1 + len(parts)) + "|"]
    for setting in settings:
        now, row = {part: sources(setting, part, strict) for part in parts}, []
        for part in parts:
            found = results.get(setting, {}).get(part)
            said = (found["first"] or f"ok {found['seconds']} s") if found else "–"
            other = found and found["sources"] != now[part]
            row.append(said + (" (on other files, or compared otherwise)" if other else ""))
        lines.append(f"| {setting} | " + " | ".join(row) + " |")
    about = [f"{setting}: {results[setting]['about']}" for setting in settings
             if "about" in results.get(setting, {})]
    return "\n".join([*lines, "", *about])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS),
                        metavar="NAME", help=", ".join(SETTINGS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART",
                        help=", ".join(PARTS))
    parser.add_argument("--strict", action="store_true",
                        help="compare printed text too, not only look for errors")
    parser.add_argument("--table", action="store_true", help="print what is known, run nothing")
    args = parser.parse_args()
    results = load()
    for setting in [] if args.table else args.settings:
        python = python_of(setting)
        if python is None:
            print(f"{setting}: no Python {PYTHONS[setting]} on this machine", flush=True)
            continue
        known = results.setdefault(setting, {})
        about = subprocess.run([python, "-c", ABOUT], env=os.environ | SETTINGS[setting],
                               capture_output=True, text=True)
        known["about"] = about.stdout.strip()

        def cell(part, setting=setting, python=python, known=known):
            before = sources(setting, part, args.strict)
            there = [of[part] for of in results.values()
                     if of.get(part, {}).get("sources") == before and not of[part]["first"]]
            known[part] = there[0] if there else run(setting, part, python,
                                                     args.strict) | {"sources": before}
            save(results)
            said, seconds = known[part]["first"] or "ok", known[part]["seconds"]
            print(f"{setting} · {part}: {said} ({seconds} s)", flush=True)

        with ThreadPoolExecutor(max(1, CORES // int(SETTINGS[setting]["OMP_NUM_THREADS"]))) as pool:
            list(pool.map(cell, args.parts))
    print(table(results, args.settings, args.parts, args.strict))
    return int(any(results.get(setting, {}).get(part, {"first": "-"})["first"]
                   for setting in args.settings for part in args.parts))


if __name__ == "__main__":
    sys.exit(main())
