"""The notebooks as students meet them: their copies, in a real JupyterLab in a real browser,
outside the repository.

Screenshots stay in tests/screenshots/.
"""
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
from helpers.classroom import student

from builders import ROOT
from exercises import unlike

NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
SHOTS = ROOT / "tests" / "screenshots"
RUN, WAIT = 1800, 180  # seconds, against hanging only: for a notebook, for anything else
PANEL = "from helpers.explorer import Panel"  # begins the cell of notebook 09 that shows the panel
IDLE = "() => jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status === 'idle'"
STATE = """() => {
  const widget = jupyterapp.shell.currentWidget, cells = widget.content.model.cells;
  const found = {counts: [], wrong: []};
  for (let i = 0; i < cells.length; i++) {
    const cell = cells.get(i);
    if (cell.type !== 'code') continue;
    found.counts.push(cell.executionState === 'running' ? null : cell.executionCount);
    for (let k = 0; k < cell.outputs.length; k++) {
      const output = cell.outputs.get(k).toJSON();
      if (output.output_type === 'error') found.wrong.push(output.ename + ': ' + output.evalue);
    }
  }
  return {...found, status: widget.sessionContext.session?.kernel?.status};
}"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """(address, token, folder) of a JupyterLab on the student copies, as the command writes
    them."""
    there = tmp_path_factory.mktemp("lab")
    assert student.main([str(there)]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    folders = {f"JUPYTER_{kind}_DIR": str(there / kind.lower()) for kind in ("CONFIG", "RUNTIME")}
    command = [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root",
               f"--ServerApp.port={port}",
               "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}",
               f"--ServerApp.root_dir={there}",
               "--LabApp.expose_app_in_browser=True", "--LabApp.news_url="]
    overrides = there / "config" / "labconfig"
    overrides.mkdir(parents=True)  # else a question about news lies over the page
    (overrides / "default_setting_overrides.json").write_text(
        '{"@jupyterlab/apputils-extension:notification": {"fetchNews": "false"}}')
    with (there / "log.txt").open("w") as log:
        server = subprocess.Popen(command, cwd=there, env={**os.environ, **folders}, stdout=log,
                                  stderr=log,
                                  start_new_session=True)
    try:
        address, end = f"http://127.0.0.1:{port}", time.monotonic() + WAIT
        while True:
            try:
                urllib.request.urlopen(f"{address}/api").read()
                break
            except OSError:
                assert server.poll() is None, (there / "log.txt").read_text()[-3000:]
                assert time.monotonic() < end, (there / "log.txt").read_text()[-3000:]
                time.sleep(0.3)
        yield address, token, there
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(WAIT)


class Notebook:
    """One notebook in a tab of its own, with everything the browser complained about in
    `problems`."""

    def __init__(self, browser, lab, name, workspace=None):
        address, token, self.folder = lab
        self.name, self.problems = name, []
        self.tab = browser.new_page(viewport={"width": 1280, "height": 1400}, accept_downloads=True)
        self.tab.on("console", lambda message: message.type == "error"
                    and self.problems.append(message.text))
        self.tab.on("pageerror", lambda error: self.problems.append(str(error)))
        self.tab.goto(f"{address}/lab/workspaces/{workspace or name}/tree/notebooks/{name}.ipynb"
                      f"?token={token}")
        self.tab.wait_for_selector(".jp-Notebook .jp-Cell", timeout=1000 * WAIT)
        self.tab.wait_for_function(IDLE, timeout=1000 * WAIT)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.shot("at-the-end")
        self.tab.evaluate("jupyterapp.serviceManager.sessions.shutdownAll()")
        self.tab.close()

    def shot(self, what):
        SHOTS.mkdir(exist_ok=True)
        self.tab.screenshot(path=SHOTS / f"{self.name}-{what}.png")

    def command(self, name):
        self.tab.evaluate(f"void jupyterapp.commands.execute('{name}')")

    def run_all(self):
        """Runs every cell; the execution counts, None for a cell that was not reached, and the
        errors."""
        # what is stored shall not be taken for what was run
        self.command("notebook:clear-all-cell-outputs")
        self.command("notebook:run-all-cells")
        end = time.monotonic() + RUN
        while time.monotonic() < end:
            time.sleep(1)
            state = self.tab.evaluate(STATE)
            if state["wrong"] or state["status"] == "idle" and None not in state["counts"]:
                break
        return state["counts"], state["wrong"]

    def cells(self):
        return self.tab.evaluate("jupyterapp.shell.currentWidget.content.model.toJSON().cells")

    def show(self, text):
        """Selects the first cell that holds the text, and scrolls to it."""
        self.tab.evaluate("""text => {
          const notebook = jupyterapp.shell.currentWidget.content, cells = notebook.model.cells;
          for (let i = 0; i < cells.length; i++)
            if (cells.get(i).sharedModel.source.includes(text)) {
              notebook.activeCellIndex = i;
              return notebook.scrollToItem(i, 'start');
            }
        }""", text)
        time.sleep(1.5)


def test_all_open(browser, lab):
    """Each shows its title, and the browser has nothing to complain about. They share one kernel,
    which is idle."""
    with Notebook(browser, lab, NAMES[0], workspace="all") as notebook:
        for name in NAMES[1:]:
            notebook.tab.evaluate("""path => {
              const kernel = jupyterapp.shell.currentWidget.sessionContext.session.kernel.model;
              jupyterapp.commands.execute('docmanager:open', {path, kernel}) }""",
                                  f"notebooks/{name}.ipynb")
            titles = notebook.tab.locator(".jp-NotebookPanel:not(.lm-mod-hidden) "
                                          ".jp-RenderedHTMLCommon h1")
            titles.filter(has_text=f"{name[:2]} · ").wait_for(timeout=1000 * WAIT)
            notebook.tab.wait_for_function(IDLE, timeout=1000 * WAIT)
        assert notebook.problems == []


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("09")])
def test_runs_all(browser, lab, name):
    """An untouched copy, top to bottom: the first, all with RUN_ALL_NOTEBOOKS=1, for nbval runs the
    same cells."""
    if not (name.startswith("01") or os.environ.get("RUN_ALL_NOTEBOOKS")):
        pytest.skip("a slow notebook: set RUN_ALL_NOTEBOOKS=1 to run it in the browser too")
    stored = json.loads((lab[2] / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"]
    with Notebook(browser, lab, name) as notebook:
        counts, wrong = notebook.run_all()
        assert wrong == [] and counts == list(range(1, len(counts) + 1))
        assert not unlike(notebook.cells(), stored, solved=False)
        assert notebook.problems == []


def press(panel, label):
    panel.get_by_role("button", name=label, exact=True).click()


def answered(panel):
    """Waits until the panel has said its last word; returns it."""
    status, end = panel.locator("[role=status]"), time.monotonic() + WAIT
    while time.monotonic() < end:
        time.sleep(0.2)
        text = status.inner_text()
        if "…" not in text:
            return text
    raise AssertionError(text)


def more(panel):
    panel.locator("button", has=panel.page.locator(".fa-sliders")).click()


def test_explorer(browser, lab):
    """The panel opens with an answer; a question typed, one word of the answer, both signs, another
    answer beside it, the other score, all methods, a story looked up, the page saved."""
    with Notebook(browser, lab, "09_explorer") as notebook:
        counts, wrong = notebook.run_all()
        assert wrong == [] and counts == list(range(1, len(counts) + 1))
        notebook.show(PANEL)
        panel = notebook.tab.locator(".jp-OutputArea .widget-vbox").first
        cards = panel.locator("article")
        assert answered(panel).startswith("Answered") and cards.count() == 10
        assert not panel.get_by_label("Why not this story?").is_visible()
        notebook.shot("first-sight")
        panel.get_by_label("Answer", exact=True).fill("")
        panel.get_by_label("Prompt").fill("It was raining, and the frog said thank you")
        press(panel, "Ask")
        said = answered(panel)
        assert re.fullmatch(r"Answered in \d+\.\d s, from \d,\d{3} stories\. "
                            r"Tracked: 16 layers, .*\(50\.0%\)\.", said), said
        print("first answer:", said)
        assert cards.count() == 10 and "teacher" in cards.first.inner_text()
        assert cards.first.locator("b").first.inner_text().startswith("+")
        assert cards.nth(9).locator("b").first.inner_text().startswith("-")
        assert "<|endoftext|>" not in panel.inner_text()
        size = "e => parseFloat(getComputedStyle(e).fontSize)"
        sizes = [cards.first.locator(part).first.evaluate(size)
                 for part in (".tw-quote mark", "small")]
        assert sizes[0] > 26 > 16 > sizes[1]
        columns = {round(card.bounding_box()["x"]) for card in cards.all()}
        assert len(columns) == 2  # for, and against
        notebook.shot("answer")

        whole = panel.locator("h2").first.inner_text()
        words = panel.locator("button.tw-word")
        tokens = [button.inner_text() for button in words.all()]
        words.nth(1).click()  # one word less
        print("another choice of words:", answered(panel))
        marked = panel.locator("h2 mark").all_inner_texts()
        assert len(marked) == words.count() - 1
        assert "".join(tokens).replace("␣", "") in whole.replace(" ", "")
        words.nth(1).click()
        answered(panel)
        assert panel.locator("h2 mark").count() == len(tokens)

        cards.first.locator(".tw-fold").click()
        strongest = cards.first.locator(".tw-text span").evaluate_all(
            "spans => spans.map(s => [s.title, getComputedStyle(s).backgroundColor])")
        opacity = re.compile(r"rgba\(.*, ([\d.]+)\)")
        deepest = max(strongest, key=lambda span: float((opacity.findall(span[1]) or [0])[0]))
        assert "influence +" in deepest[0] and deepest[0] == cards.first.locator(
            ".tw-quote mark").get_attribute("title")
        frog = cards.first.locator(".tw-text span", has_text="frog").first
        before = frog.evaluate("e => getComputedStyle(e).color")
        panel.locator("h2 label", has_text="frog").click()
        assert frog.evaluate("e => getComputedStyle(e).color") != before

        more(panel)
        press(panel, "dot product")
        answered(panel)
        assert "dot product" in panel.locator("section").first.inner_text()
        press(panel, "what the story holds about it")
        answered(panel)
        assert "content in nats" in panel.locator("section").first.inner_text()
        panel.get_by_label("Compare with another answer").fill(" nothing")
        press(panel, "Ask")
        answered(panel)
        assert "for “nothing”" in panel.inner_text()
        assert cards.first.locator(".tw-part").count() == 3
        press(panel, "Compare all methods")
        answered(panel)
        assert panel.locator(".tw-overview td").count() == 8
        notebook.tab.set_viewport_size({"width": 1280, "height": 2000})
        notebook.show(PANEL)
        notebook.shot("more")
        panel.get_by_label("Why not this story?").fill("A frog <b>danced</b> in the snow.")
        press(panel, "Look it up")
        answered(panel)
        assert "one copy of your text" in panel.inner_text()
        assert "<b>danced</b>" in panel.inner_text()

        press(panel, "Save this page")
        assert answered(panel).startswith("Saved as influence-it-was-raining")
        with notebook.tab.expect_download() as download:
            panel.get_by_text("Download it").click()
        saved = lab[2] / "notebooks" / download.value.suggested_filename
        assert saved.read_bytes() == open(download.value.path(), "rb").read()

        panel.get_by_label("Compare with another answer").fill("")
        panel.get_by_label("Prompt").fill("Once upon a time there was a little")
        press(panel, "Ask")
        notebook.tab.evaluate("jupyterapp.shell.currentWidget.sessionContext.session.kernel"
                              ".interrupt()")
        assert re.match("Interrupted|Answered", answered(panel))
        panel.get_by_label("Prompt").fill("🐸 <script>alert(1)</script> مرحبا")
        panel.get_by_label("Answer", exact=True).fill(" twice")
        press(panel, "Ask")
        assert answered(panel).startswith("Answered")
        assert "<script>" in panel.locator("h2").first.inner_text()
        panel.get_by_label("Prompt").fill("")
        press(panel, "Ask")
        assert answered(panel) == "the prompt is empty: give the beginning of a story."

        # a new kernel, and no more cells than the panel needs
        notebook.command("notebook:clear-all-cell-outputs")
        notebook.show(PANEL)
        notebook.command("notebook:restart-and-run-to-selected")
        notebook.tab.locator(".jp-Dialog .jp-mod-accept").click()
        panel.locator("article").first.wait_for(timeout=1000 * WAIT)
        assert answered(panel).startswith("Answered") and cards.count() == 10
        assert notebook.problems == []

    tab = browser.new_page(viewport={"width": 390, "height": 844})
    requests = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(saved.as_uri())
    assert requests == [saved.as_uri()] and tab.locator("article").count() == 10
    assert tab.evaluate("document.documentElement.scrollWidth") <= 390
    tab.screenshot(path=SHOTS / "saved-on-a-phone.png")
    tab.close()
