"""The explorer's widgets: they hold no numbers of their own, ask `explorer.Explorer` and show what `pictures` draws.

Only widgets of ipywidgets itself, so that JupyterLab, Notebook, VS Code and Colab need nothing more. Whatever goes wrong
becomes one sentence in the panel; an interrupted kernel leaves it usable.
"""
import base64
import html
import re
import time
from contextlib import contextmanager
from pathlib import Path

import ipywidgets as widgets

from . import pictures
from .pipeline import write_json
from .stories import InputError

WIDE = widgets.Layout(width="99%")
ROW = widgets.Layout(flex_flow="row wrap", align_items="center")
TYPES = {"html": "text/html", "json": "application/json"}


def _labelled(kind, description, **options):
    """A widget whose description may be as long as it is."""
    return kind(description=description, style={"description_width": "initial"}, **options)


def _switch(options):
    """One choice of a few, as buttons no wider than their words. Its label stands beside it: a description would stand above."""
    return widgets.ToggleButtons(options=options, style={"button_width": "auto"})


class Panel:
    """Widgets around an explorer; display it at the end of a cell. `prompts` are offered to pick from.

    `views()` gives the views that are shown, as the JSON has queries.
    """

    def __init__(self, explorer, prompts=(), prompt=""):
        self.explorer, self.question = explorer, None
        self._silent, self._asked = False, None
        self._make_asking(prompts, prompt)
        self._make_looking()
        self._make_more()
        self.status, self.found = widgets.HTML(), widgets.HTML(layout=WIDE)
        self.box = widgets.VBox([*self._asking, self.status, *self._looking, self.found, *self._more])
        self._say("Type the beginning of a story and press <b>Ask</b>, or pick an example.", plain=False)

    def _ipython_display_(self):
        from IPython.display import display
        display(self.box)

    # -- widgets ------------------------------------------------------------------------------------

    def _make_asking(self, prompts, prompt):
        self.pick = _labelled(widgets.Dropdown, "Examples", options=[("type your own, or pick one", ""), *[(p, p) for p in prompts]],
                              layout=WIDE)
        self.prompt = _labelled(widgets.Textarea, "Prompt", value=prompt, rows=2, layout=WIDE)
        self.completion = _labelled(widgets.Text, "Completion", placeholder="leave empty, and the model writes; a word of its own begins with a space", layout=WIDE)
        self.length = _labelled(widgets.IntSlider, "at most, tokens", value=12, min=1, max=40)
        self.temperature = _labelled(widgets.FloatSlider, "temperature", value=0, min=0, max=1.5, step=0.1)
        self.seed = _labelled(widgets.BoundedIntText, "seed", value=0, min=0, max=10**6, layout=widgets.Layout(width="9em"))
        self.ask = widgets.Button(description="Ask", button_style="primary", tooltip="let the model write, and find the stories")
        self.pick.observe(self._picked, "value")
        self.ask.on_click(lambda _: self._guarded(self._answer))
        self._asking = [self.pick, self.prompt, self.completion,
                        widgets.HBox([self.length, self.temperature, self.seed, self.ask], layout=ROW)]

    def _make_looking(self):
        explorer, names = self.explorer, list(self.explorer.setting.layers)
        named = [(label, name) for name, label in explorer.methods.items()]
        self.tokens = widgets.HBox(layout=ROW)
        self.every = widgets.Button(description="all", tooltip="explain all tokens of the completion", layout=widgets.Layout(width="4em"))
        self.method = _switch(named)
        self.beside = _labelled(widgets.Dropdown, "beside it", options=[("nothing", ""), *named])
        self.top = _labelled(widgets.IntSlider, "stories of either sign", value=5, min=1, max=20, continuous_update=False)
        self.layer = _labelled(widgets.Dropdown, "tokens by layer", options=[("all together", ""), *zip(pictures.layer_names(names), names)])
        self.align = _switch([(text, key) for key, text in pictures.ALIGNMENTS.items()])
        self.scale = _switch([("linear", False), ("root", True)])
        self.threshold = _labelled(widgets.FloatSlider, "blank below", value=0, min=0, max=0.5, step=0.05, continuous_update=False,
                                   readout_format=".0%")
        for widget in (self.method, self.beside, self.top, self.layer, self.align, self.scale, self.threshold):
            widget.observe(lambda _: self._silent or self._guarded(self._show), "value")
        self.every.on_click(lambda _: self._guarded(self._choose_all))
        method, stands, shades = map(widgets.Label, ("Method", "A value stands", "Shades"))
        rows = ([self.tokens], [method, self.method, self.beside], [stands, self.align], [shades, self.scale, self.threshold],
                [self.layer, self.top])
        self._looking = [widgets.HBox(row, layout=ROW) for row in rows]

    def _make_more(self):
        self.wanted = _labelled(widgets.Text, "Why not this story?", placeholder="its number, some of its words, or a text of your own",
                                layout=WIDE)
        self.look = widgets.Button(description="Look it up")
        self.looked, self.saved = widgets.HTML(layout=WIDE), widgets.HTML()
        self.look.on_click(lambda _: self._guarded(self._look_up))
        self.save = {kind: widgets.Button(description=f"Save as {kind.upper()}") for kind in TYPES}
        for kind, button in self.save.items():
            button.on_click(lambda _, kind=kind: self._guarded(self._save, kind))
        self._more = [self.wanted, self.look, self.looked, widgets.HBox([*self.save.values(), self.saved], layout=ROW)]

    # -- what happens -------------------------------------------------------------------------------

    def _say(self, text, plain=True):
        text = html.escape(pictures.visible(text, " ")) if plain else text
        self.status.value = f'<div role="status" style="line-height:1.4">{text}</div>'

    def _guarded(self, action, *given):
        """Runs an action; what goes wrong is said in one sentence."""
        start = time.perf_counter()
        try:
            self._say("Working …")
            said = action(*given)
            seconds = time.perf_counter() - start
            self._say(said or self._answered(seconds))
        except KeyboardInterrupt:
            self._say("Interrupted. Nothing is lost: ask again.")
        except InputError as problem:
            self._say(f"{problem}.".replace("..", "."))
        except Exception as problem:  # a traceback would be lost in a log, and would help nobody who clicks
            reason = (str(problem).splitlines() or [""])[0][:200]
            self._say(f"That did not work ({type(problem).__name__}: {reason}). The panel is still usable: ask something else.")

    def _answered(self, seconds):
        """How long it took, from what, and what should be known about the question and the model."""
        explorer = self.explorer
        notes = filter(None, (f"Tracked: {pictures.tracked(explorer.tracked.summary())}", explorer.note, *(self.question.notes if self.question else ())))
        return ". ".join([f"Answered in {seconds:.1f} s, from {len(explorer.setting.corpus):,} stories", *notes]) + "."

    @contextmanager
    def _silence(self):
        """Widgets may be set without anything being asked for."""
        self._silent = True
        try:
            yield
        finally:
            self._silent = False

    def _picked(self, change):
        if change["new"]:
            self.prompt.value, self.completion.value = change["new"], ""
            self._guarded(self._answer)

    def _answer(self):
        wanted = (self.prompt.value, self.completion.value, self.length.value, self.temperature.value, self.seed.value)
        if wanted != self._asked:  # a second click on Ask costs nothing
            self._say("The model reads the question …")
            question = self.explorer.ask(*wanted)
            self.question, self._asked, self.looked.value, self.saved.value = question, wanted, "", ""
            self.tokens.children = [widgets.Label("Explain"), *map(self._button, question.tokens), self.every]
        return self._show()

    def _button(self, token):
        button = widgets.ToggleButton(True, description=pictures.visible(token, "⏎").strip() or "␣", tooltip="explain this token: a word, or a piece of one",
                                      layout=widgets.Layout(width="auto"))
        button.add_class("tw-word")
        button.observe(lambda _: self._silent or self._guarded(self._show), "value")
        return button

    def _choose_all(self):
        with self._silence():
            for button in self.tokens.children[1:-1]:
                button.value = True
        return self._show()

    @property
    def chosen(self) -> list[int]:
        """Which tokens of the completion are to be explained."""
        return [at for at, button in enumerate(self.tokens.children[1:-1]) if button.value]

    @property
    def _look(self):
        return {"align": self.align.value, "root": self.scale.value, "threshold": self.threshold.value}

    def _need_question(self):
        if self.question is None:
            raise InputError("nothing is asked yet: type the beginning of a story and press Ask")

    def views(self) -> list[dict]:
        """What is shown: one view, or two beside each other. Raises InputError."""
        self._need_question()
        methods = dict.fromkeys(filter(None, (self.method.value, self.beside.value)))
        self._say(f"Comparing with {len(self.explorer.setting.corpus):,} stories …")
        return [self.explorer.view(self.question, self.chosen, method, self.top.value, self.layer.value or None) for method in methods]

    def _show(self):
        self.found.value = pictures.fragment(self.views(), **self._look)

    def _look_up(self):
        self._need_question()
        found = self.explorer.look_up(self.question, self.wanted.value, self.chosen, self.method.value, self.layer.value or None)
        self.looked.value = pictures.fragment([found], **self._look)

    def _save(self, kind):
        """Writes the present view beside the notebook, and offers it as a download, for kernels on another machine."""
        result = self.explorer.result(*self.views())
        path = Path("influence-" + (re.sub(r"[^a-z0-9]+", "-", self.prompt.value.lower()).strip("-")[:40] or "question") + f".{kind}")
        if kind == "html":
            pictures.write_page(result, path, **self._look)
        else:
            write_json(result, path)
        data = base64.b64encode(path.read_bytes()).decode()
        self.saved.value = (f'Saved as <b>{path.name}</b> beside the notebook. <a download="{path.name}" '
                            f'href="data:{TYPES[kind]};base64,{data}">Download it</a>')
        return f"Saved as {path.name}."
