"""Sets the address where the series is public, in classroom/address.py and all that names it:
every notebook's set-up cell and last line of its first cell (the Colab badge), and the README."""
import json
import re
import sys
from functools import partial
from pathlib import Path

from ..terminal.command import Parser, command
from .address import ADDRESS, BRANCH
from .notebooks import ROOT, load_series, source

COLAB = "https://colab.research.google.com"
GITHUB = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*/(?!\.{1,2}$)[\w.-]+)", re.ASCII)
# No credentials, no blanks, nothing that means something to Python, Markdown, git or a shell.
OTHER = re.compile(r"(?:https?|git|ssh|file)://(?:git@)?[\w.~%+/-][\w.~%+:/-]*"
                   r"|git@[\w.-]+:[\w.~/-]+", re.ASCII)
LINE = re.compile(r"^ADDRESS, BRANCH = .*$", re.M)
BLOCK = re.compile(r"(?<=<!-- address -->\n).*?(?=<!-- /address -->)", re.S)
ROW = re.compile(r"\n+\*\*On Colab\*\*: [^\n]*\Z")
UNSET = """\
The series has no public address yet: whoever gets it gets this folder. `python -m helpers.publish
ADDRESS` sets the address here and in all notebooks, which then fetch what they need, and open on
Colab.
"""


def sound(address: str, branch: str) -> tuple[str, str]:
    """Both; an address of GitHub without `.git` or a slash at its end. Raises InputError."""
    from ..stories import InputError
    if re.match(r"(?:https?://|git@)?(?:www\.)?github\.com\b", address):
        address = re.sub(r"(?:\.git)?/?$", "", address)
        if not GITHUB.fullmatch(address):
            raise InputError(f"{address} is no repository on GitHub: write "
                             "https://github.com/OWNER/REPOSITORY")
    elif not OTHER.fullmatch(address):
        raise InputError(f"{address or 'an empty text'} is no public address for git: write "
                         "https://… or file:///…, without blanks and passwords")
    if not re.fullmatch(r"\w[\w.-]*", branch, re.ASCII):
        raise InputError(f"{branch} is no branch that Colab can open: its name may have letters, "
                         "digits, and . _ - inside")
    return address, branch


def on_colab(name: str, address: str | None, branch: str) -> str | None:
    """The link that opens a notebook on Colab, if it is on GitHub: Colab opens nothing else."""
    place = address and GITHUB.fullmatch(address)
    return place and f"{COLAB}/github/{place[1]}/blob/{branch}/notebooks/{name}"


def badge_row(name: str, address: str | None, branch: str, copies: bool) -> str:
    """The last line of a notebook's first cell: how it is opened on Colab."""
    keep = "*File → Save a copy in Drive* keeps what you write there."
    if link := on_colab(name, address, branch):
        return f"**On Colab**: [![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link}) {keep}"
    if address:
        return (f"**On Colab**: upload this notebook to [Colab]({COLAB}); its set-up cell fetches "
                f"the rest. {keep}")
    more = ", `notebooks`" if copies else ""  # with the answers that later cells import
    return (f"**On Colab**: this series has no public address yet. Upload this notebook to "
            f"[Colab]({COLAB}), and to its *Files* a ZIP file of `helpers`, `data`{more} and "
            f"`requirements.txt`; run `!unzip -qn '*.zip'` in a new cell, then all cells. {keep}")


def rewritten(root: Path, address: str | None, branch: str) -> dict[Path, str]:
    """{file: its new text} of all files in `root` that do not say so yet. Raises InputError."""
    line = f"ADDRESS, BRANCH = {json.dumps(address) if address else None}, {json.dumps(branch)}"
    block, copies = readme_block(root, address, branch), any(root.glob("notebooks/answers_*.py"))
    new = {}
    for path, pattern, text in ((root / "helpers" / "classroom" / "address.py", LINE, line),
                                (root / "README.md", BLOCK, block)):
        old = path.read_text(encoding="utf-8")
        if (changed := pattern.sub(lambda _, text=text: text, old)) != old:
            new[path] = changed
    for name, content in load_series(root).items():
        if set_address(name, content, line, badge_row(name, address, branch, copies)):
            text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
            new[root / "notebooks" / name] = text
    return new


def set_address(name: str, content: dict, line: str, row: str) -> bool:
    """Whether putting both into the notebook's first two cells changes it. Raises InputError."""
    from ..stories import InputError
    code = (cell for cell in content["cells"] if cell["cell_type"] == "code")
    opening, setup = content["cells"][0], next(code)
    if opening["cell_type"] != "markdown" or len(LINE.findall(source(setup))) != 1:
        raise InputError(f"{name} does not open with a text and the set-up cell: restore both from "
                         "another notebook")
    before = source(opening), source(setup)
    after = ROW.sub("", before[0]) + "\n\n" + row, LINE.sub(lambda _: line, before[1])
    for cell, text in zip((opening, setup), after, strict=True):
        cell["source"] = text.splitlines(keepends=True)
    return before != after


def readme_block(root: Path, address: str | None, branch: str) -> str:
    """What the README says of the address."""
    if not address:
        return UNSET
    links = [f"[{name[:2]}]({link})" for name in load_series(root)
             if (link := on_colab(name, address, branch))]
    clone = f"git clone --depth 1 --branch {branch} {address} tokenwise-influence"
    colab = ("Or open a notebook on Colab, where its set-up cell fetches the rest: "
             f"{' · '.join(links)}.\n" if links else "")
    return f"```bash\n{clone}\n```\n\n{colab}"


def build_parser():
    parser = Parser(prog="python -m helpers.publish", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("address", nargs="?", metavar="ADDRESS",
                       help="https://github.com/OWNER/REPOSITORY, or what else git clones (then "
                       "without badges)")
    which.add_argument("--unset", action="store_true", help="there is no public address")
    which.add_argument("--check", action="store_true",
                       help="change nothing; exit code 1 where a file names another address")
    parser.add_argument("--branch", default="main", metavar="NAME",
                        help="that is fetched and opened (default: %(default)s)")
    return parser


def run(argv) -> None:
    """Raises Usage and InputError; SystemExit(1) where the check fails."""
    args = build_parser().parse_args(argv)
    from ..sources.files import output, save_text
    address, branch = (ADDRESS, BRANCH) if args.check else (None, "main")
    if args.address is not None:
        address, branch = sound(args.address, args.branch)
    files = rewritten(ROOT, address, branch)
    for path, text in files.items():
        name = path.relative_to(ROOT).as_posix()
        if args.check:
            print(f"{name} does not say what helpers/classroom/address.py says: publish again, or "
                  "unset")
        else:
            with output(name):
                save_text(text, path)
            print(f"changed {name}")
    if args.check and files:
        sys.exit(1)
    print(f"all files agree: {address or 'no public address'}")


main = partial(command, run, "helpers.publish")
