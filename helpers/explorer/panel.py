"""The explorer's widgets: they hold no numbers, ask `Explorer` and show what `pictures` draws.

Only widgets of ipywidgets itself, so that JupyterLab, Notebook, VS Code and Colab need no more.
Whatever goes wrong becomes one sentence in the panel; an interrupted kernel leaves it usable.
"""
import base64
import html
import re
import time
from contextlib import contextmanager
from pathlib import Path

import ipywidgets as widgets

from .. import pictures
from ..stories import InputError
from ..terminal.job import write_json

WIDE = widgets.Layout(width="99%")
ROW = widgets.Layout(flex_flow="row wrap", align_items="center")
TYPES = {"html": "text/html", "json": "application/json"}


def _labelled(kind, description, **options):
    """A widget whose description may be as long as it is."""
    return kind(description=description, style={"description_width": "initial"}, **options)


def _switch(options):
    """One choice of a few, as buttons no wider than their words.

    Its label stands beside it: a description would stand above.
    """
    return widgets.ToggleButtons(options=options, style={"button_width": "auto"})


class Panel:
    """Widgets around an explorer; display it at the end of a cell. `prompts` are offered.

    `views()` gives the views that are shown, as the JSON has queries.
    """

    def __init__(self, explorer, prompts=(), prompt=""):
        self.explorer, self.question = explorer, None
        self._silent, self._asked = False, None
        self._make_asking(prompts, prompt)
        self._make_looking()
        self._make_more()
        self.status, self.found = widgets.HTML(), widgets.HTML(layout=WIDE)
        self.box = widgets.VBox([*self._asking, self.status, *self._looking, self.found,
                                 *self._more])
        self._say("Type the beginning of a story and press <b>Ask</b>, or pick an example.",
                  plain=False)

    def _ipython_display_(self):
        from IPython.display import display
        display(self.box)

    # -- widgets --------------------------------------------------------------------------------

    def _make_asking(self, prompts, prompt):
        examples = [("type your own, or pick one", ""), *((text, text) for text in prompts)]
        self.pick = _labelled(widgets.Dropdown, "Examples", options=examples, layout=WIDE)
        self.prompt = _labelled(widgets.Textarea, "Prompt", value=prompt, rows=2, layout=WIDE)
        hint = "leave empty, and the model writes; a word of its own begins with a space"
        self.completion = _labelled(widgets.Text, "Completion", layout=WIDE, placeholder=hint)
        self.length = _labelled(widgets.IntSlider, "at most, tokens", value=12, min=1, max=40)
        self.temperature = _labelled(widgets.FloatSlider, "temperature", value=0, min=0, max=1.5,
                                     step=0.1)
        self.seed = _labelled(widgets.BoundedIntText, "seed", value=0, min=0, max=10**6,
                              layout=widgets.Layout(width="9em"))
        self.ask = widgets.Button(description="Ask", button_style="primary",
                                  tooltip="let the model write, and find the stories")
        self.pick.observe(self._picked, "value")
        self.ask.on_click(lambda _: self._guarded(self._answer))
        writing = widgets.HBox([self.length, self.temperature, self.seed, self.ask], layout=ROW)
        self._asking = [self.pick, self.prompt, self.completion, writing]

    def _make_looking(self):
        layers = list(self.explorer.setting.layers)
        named = [(label, name) for name, label in self.explorer.methods.items()]
        stands = [(text, key) for key, text in pictures.ALIGNMENTS.items()]
        by_layer = [("all together", ""), *zip(pictures.layer_names(layers), layers)]
        self.tokens = widgets.HBox(layout=ROW)
        self.every = widgets.Button(description="all", layout=widgets.Layout(width="4em"),
                                    tooltip="explain all tokens of the completion")
        self.method, self.align = _switch(named), _switch(stands)
        self.beside = _labelled(widgets.Dropdown, "beside it", options=[("nothing", ""), *named])
        self.top = _labelled(widgets.IntSlider, "stories of either sign", value=5, min=1, max=20,
                             continuous_update=False)
        self.layer = _labelled(widgets.Dropdown, "tokens by layer", options=by_layer)
        self.scale = _switch([("linear", False), ("root", True)])
        self.threshold = _labelled(widgets.FloatSlider, "blank below", value=0, min=0, max=0.5,
                                   step=0.05, continuous_update=False, readout_format=".0%")
        for widget in (self.method, self.beside, self.top, self.layer, self.align, self.scale,
                       self.threshold):
            widget.observe(self._changed, "value")
        self.every.on_click(lambda _: self._guarded(self._choose_all))
        rows = ([self.tokens], [widgets.Label("Method"), self.method, self.beside],
                [widgets.Label("A value stands"), self.align],
                [widgets.Label("Shades"), self.scale, self.threshold], [self.layer, self.top])
        self._looking = [widgets.HBox(row, layout=ROW) for row in rows]

    def _make_more(self):
        hint = "its number, some of its words, or a text of your own"
        self.wanted = _labelled(widgets.Text, "Why not this story?", layout=WIDE, placeholder=hint)
        self.look = widgets.Button(description="Look it up")
        self.looked, self.saved = widgets.HTML(layout=WIDE), widgets.HTML()
        self.look.on_click(lambda _: self._guarded(self._look_up))
        self.save = {}
        for kind in TYPES:
            self.save[kind] = widgets.Button(description=f"Save as {kind.upper()}")
            self.save[kind].on_click(lambda _, kind=kind: self._guarded(self._save, kind))
        saving = widgets.HBox([*self.save.values(), self.saved], layout=ROW)
        self._more = [self.wanted, self.look, self.looked, saving]

    # -- what happens ---------------------------------------------------------------------------

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
        except Exception as problem:  # a traceback would be lost in a log, and help nobody here
            reason = (str(problem).splitlines() or [""])[0][:200]
            self._say(f"That did not work ({type(problem).__name__}: {reason}). The panel is still "
                      "usable: ask something else.")

    def _answered(self, seconds):
        """How long it took, from what, and what should be known of question and model."""
        explorer = self.explorer
        said = [f"Answered in {seconds:.1f} s, from {len(explorer.setting.corpus):,} stories",
                f"Tracked: {pictures.tracked(explorer.tracked.summary())}", explorer.note,
                *(self.question.notes if self.question else ())]
        return ". ".join(filter(None, said)) + "."

    def _changed(self, _):
        if not self._silent:
            self._guarded(self._show)

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
        wanted = (self.prompt.value, self.completion.value, self.length.value,
                  self.temperature.value, self.seed.value)
        if wanted != self._asked:  # a second click on Ask costs nothing
            self._say("The model reads the question …")
            question = self.explorer.ask(*wanted)
            self.question, self._asked = question, wanted
            self.looked.value = self.saved.value = ""
            buttons = map(self._button, question.tokens)
            self.tokens.children = [widgets.Label("Explain"), *buttons, self.every]
        return self._show()

    def _button(self, token):
        text = pictures.visible(token, "⏎").strip() or "␣"
        button = widgets.ToggleButton(True, description=text, layout=widgets.Layout(width="auto"),
                                      tooltip="explain this token: a word, or a piece of one")
        button.add_class("tw-word")
        button.observe(self._changed, "value")
        return button

    def _choose_all(self):
        with self._silence():
            for button in self.tokens.children[1:-1]:
                button.value = True
        return self._show()

    @property
    def chosen(self) -> list[int]:
        """Which tokens of the completion are to be explained."""
        buttons = self.tokens.children[1:-1]
        return [place for place, button in enumerate(buttons) if button.value]

    @property
    def _look(self):
        return {"align": self.align.value, "root": self.scale.value,
                "threshold": self.threshold.value}

    def _need_question(self):
        if self.question is None:
            raise InputError("nothing is asked yet: type the beginning of a story and press Ask")

    def views(self) -> list[dict]:
        """What is shown: one view, or two beside each other. Raises InputError."""
        self._need_question()
        methods = dict.fromkeys(filter(None, (self.method.value, self.beside.value)))
        self._say(f"Comparing with {len(self.explorer.setting.corpus):,} stories …")
        top, layer = self.top.value, self.layer.value or None
        return [self.explorer.view(self.question, self.chosen, method, top, layer)
                for method in methods]

    def _show(self):
        self.found.value = pictures.fragment(self.views(), **self._look)

    def _look_up(self):
        self._need_question()
        view = self.explorer.look_up(self.question, self.wanted.value, self.chosen,
                                     self.method.value, self.layer.value or None)
        self.looked.value = pictures.fragment([view], **self._look)

    def _save(self, kind):
        """Writes the present view beside the notebook, and offers it as a download.

        The kernel may be on another machine.
        """
        result = self.explorer.result(*self.views())
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.value.lower()).strip("-")[:40]
        path = Path(f"influence-{words or 'question'}.{kind}")
        if kind == "html":
            pictures.write_page(result, path, **self._look)
        else:
            write_json(result, path)
        data = base64.b64encode(path.read_bytes()).decode()
        self.saved.value = (f"Saved as <b>{path.name}</b> beside the notebook. <a "
                            f'download="{path.name}" href="data:{TYPES[kind]};base64,{data}">'
                            "Download it</a>")
        return f"Saved as {path.name}."
