"""Sets the address where the series is public, in helpers/classroom/address.py, and rewrites all that names it: every notebook's
set-up cell and last line of its first cell (the Colab badge), and the README."""
import json
import re
import sys
from pathlib import Path

from ..__main__ import Parser
from .address import ADDRESS, BRANCH, GITHUB, badge_row, on_colab, with_row
from .student import ROOT, source
from .student import main as tool

LINE = re.compile(r"^ADDRESS, BRANCH = .*$", re.M)
BLOCK = re.compile(r"(?<=<!-- address -->\n).*?(?=<!-- /address -->)", re.S)
# No credentials, no blanks, nothing that means something to Python, Markdown, git or a shell.
OTHER = re.compile(r"(?:https?|git|ssh|file)://(?:git@)?[\w.~%+/-][\w.~%+:/-]*|git@[\w.-]+:[\w.~/-]+", re.ASCII)
UNSET = """The series has no public address yet: whoever gets it gets this folder. `python -m helpers.publish ADDRESS` sets the
address here and in all notebooks, which then fetch what they need, and open on Colab.
"""


def sound(address: str, branch: str) -> tuple[str, str]:
    """The address, without `.git` or a slash at the end where it is GitHub's, and the branch. Raises InputError."""
    from ..stories import InputError
    if re.match(r"(?:https?://|git@)?(?:www\.)?github\.com\b", address):
        address = re.sub(r"(?:\.git)?/?$", "", address)
        if not GITHUB.fullmatch(address):
            raise InputError(f"{address} is no repository on GitHub: write https://github.com/OWNER/REPOSITORY")
    elif not OTHER.fullmatch(address):
        raise InputError(f"{address or 'an empty text'} is no public address for git: write https://… or file:///…, without blanks "
                         "and passwords")
    if not re.fullmatch(r"\w[\w.-]*", branch, re.ASCII):
        raise InputError(f"{branch} is no branch that Colab can open: its name may have letters, digits, and . _ - inside")
    return address, branch


def rewritten(root: Path, address: str | None, branch: str) -> dict[Path, str]:
    """{file: its new text} of all files of the series in `root` that do not say so yet. Raises InputError."""
    from ..stories import InputError
    line = f"ADDRESS, BRANCH = {json.dumps(address) if address else None}, {json.dumps(branch)}"
    place, readme, found = root / "helpers" / "classroom" / "address.py", root / "README.md", {}
    for path, pattern, text in ((place, LINE, line), (readme, BLOCK, readme_block(root, address, branch))):
        old = path.read_text(encoding="utf-8")
        found[path] = old, pattern.sub(lambda _: text, old)
    for path in sorted((root / "notebooks").glob("[0-9]*.ipynb")):
        old = path.read_text(encoding="utf-8")
        content = json.loads(old)
        opening, cell = content["cells"][0], next(cell for cell in content["cells"] if cell["cell_type"] == "code")
        if not (len(LINE.findall(source(cell))) == 1 and opening["cell_type"] == "markdown"):
            raise InputError(f"{path.name} does not open with a text and the set-up cell: restore both from another notebook")
        row = badge_row(on_colab(path.name, address, branch), address)
        changed = set_source(opening, with_row(source(opening), row)) | set_source(cell, LINE.sub(lambda _: line, source(cell)))
        found[path] = old, json.dumps(content, indent=1, ensure_ascii=False) + "\n" if changed else old
    return {path: new for path, (old, new) in found.items() if new != old}


def set_source(cell: dict, text: str) -> bool:
    """Whether this changes the cell."""
    old, cell["source"] = source(cell), text.splitlines(keepends=True)
    return old != text


def readme_block(root: Path, address: str | None, branch: str) -> str:
    """What the README says of the address."""
    if not address:
        return UNSET
    links = [f"[{path.name[:2]}]({link})" for path in sorted((root / "notebooks").glob("[0-9]*.ipynb"))
             if (link := on_colab(path.name, address, branch))]
    colab = "Or open a notebook on Colab, where its set-up cell fetches the rest: " + " · ".join(links) + ".\n" if links else ""
    return f"```bash\ngit clone --depth 1 --branch {branch} {address} tokenwise-influence\n```\n\n{colab}"


def build_parser():
    parser = Parser(prog="python -m helpers.publish", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("address", nargs="?", metavar="ADDRESS",
                       help="https://github.com/OWNER/REPOSITORY, or what else git clones (then without badges)")
    which.add_argument("--unset", action="store_true", help="there is no public address")
    which.add_argument("--check", action="store_true", help="change nothing; exit code 1 where a file names another address")
    parser.add_argument("--branch", default="main", metavar="NAME", help="that is fetched and opened (default: %(default)s)")
    return parser


def run(argv) -> None:
    """Raises Usage and InputError; SystemExit(1) where the check fails."""
    args = build_parser().parse_args(argv)
    from ..files import output, save_text
    address, branch = sound(args.address, args.branch) if args.address is not None else (None, "main")
    files = rewritten(ROOT, *((ADDRESS, BRANCH) if args.check else (address, branch)))
    for path, text in files.items():
        name = path.relative_to(ROOT).as_posix()
        if args.check:
            print(f"{name} does not say what helpers/classroom/address.py says: publish again, or unset")
        else:
            with output(name):
                save_text(text, path)
            print(f"changed {name}")
    if args.check and files:
        sys.exit(1)
    print(f"all files agree: {(ADDRESS if args.check else address) or 'no public address'}")


def main(argv=None) -> int:
    """Runs the command line; returns the exit code."""
    return tool(argv, run, "publish")
