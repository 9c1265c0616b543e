"""Where this series is public: the one place. `python -m helpers.publish` changes it, and all that names it."""
import re

ADDRESS, BRANCH = None, "main"

COLAB = "https://colab.research.google.com"
GITHUB = re.compile(r"https://github\.com/([A-Za-z0-9][A-Za-z0-9-]*)/(?!\.{1,2}$)([\w.-]+)", re.ASCII)


def on_colab(name: str, address: str | None, branch: str) -> str | None:
    """The link that opens this notebook on Colab; None where the series is not on GitHub: Colab opens nothing else."""
    found = address and GITHUB.fullmatch(address)
    return f"{COLAB}/github/{found[1]}/{found[2]}/blob/{branch}/notebooks/{name}" if found else None


def badge_row(link: str | None, address: str | None) -> str:
    """The last line of a notebook's first cell: how it is opened on Colab."""
    if link:
        return f"**On Colab**: [![Open in Colab]({COLAB}/assets/colab-badge.svg)]({link})"
    if address:
        return f"**On Colab**: upload this notebook to [Colab]({COLAB}); its set-up cell fetches the rest."
    return (f"**On Colab**: this series has no public address yet. Upload this notebook to [Colab]({COLAB}), and to its *Files* "
            "a ZIP file of `helpers`, `data` and `requirements.txt`; run `!unzip -qn '*.zip'` in a new cell, then all cells.")


def with_row(text: str, row: str) -> str:
    """A notebook's first cell with this row as its last line, in the place of the one that it has."""
    return re.sub(r"\n+\*\*On Colab\*\*: [^\n]*\Z", "", text) + "\n\n" + row
