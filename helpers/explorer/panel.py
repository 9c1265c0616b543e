"""The explorer's widgets: they hold no numbers, ask `Explorer` and show what `pictures` draws. Only
widgets of ipywidgets itself, so that JupyterLab, Notebook, VS Code and Colab need no more. Whatever
goes wrong becomes one sentence in the panel; an interrupted kernel leaves it usable."""
import base64
import html
import re
import time
from pathlib import Path

import ipywidgets as widgets

from .. import pictures
from ..stories import InputError
from .questions import TARGETS

WIDE = widgets.Layout(width="99%")
ROW = widgets.Layout(flex_flow="row wrap", align_items="center")


def _labelled(kind, description, **options):
    """A widget whose description may be as long as it is."""
    return kind(description=description, style={"description_width": "initial"}, **options)


def _switch(label, choices):
    """A label and one of the choices `{value: text}`, as buttons no wider than their words."""
    options = [(text, value) for value, text in choices.items()]
    buttons = widgets.ToggleButtons(options=options, style={"button_width": "auto"})
    return buttons, widgets.HBox([widgets.Label(label), buttons], layout=ROW)


def _button(text, action, **options):
    button = widgets.Button(description=text, **options)
    button.on_click(lambda _: action())
    return button


class Panel:
    """Widgets around an explorer; display it at the end of a cell. `prompts` are offered. The first
    question is answered as the panel opens: `prompt`, or the first of `prompts`. `view()` gives
    what is shown, as the JSON has queries."""

    def __init__(self, explorer, prompts=(), prompt=""):
        self.explorer, self.question = explorer, None
        self._asked, self._written = None, ""
        self._make_question(prompt or next(iter(prompts), ""))
        self.status, self.found = widgets.HTML(), widgets.HTML(layout=WIDE)
        self.looked, self.saved = widgets.HTML(layout=WIDE), widgets.HTML()
        more = widgets.VBox([*self._reading(prompts), *self._looking(), *self._finding()],
                            layout=widgets.Layout(display="none"))
        self.more = widgets.ToggleButton(False, description="More", icon="sliders",
                                         tooltip="score, method, contexts, layers, saving and more",
                                         layout=widgets.Layout(width="auto"))
        self.more.observe(lambda change: setattr(
            more.layout, "display", "flex" if change["new"] else "none"), "value")
        words = widgets.HBox([self.tokens, self.more], layout=ROW)
        self.box = widgets.VBox([self._line, words, more, self.status, self.found])
        self._say("Type the beginning of a story and press Ask: the stories for and against the "
                  "model's answer come here.")

    def _ipython_display_(self):
        from IPython.display import display
        display(self.box)
        if self.prompt.value.strip() and self.question is None:
            self._guarded(self._answer)

    # -- widgets --------------------------------------------------------------------------------

    def _make_question(self, prompt):
        """One line: prompt, answer, Ask; and below it the answer's words."""
        self.prompt = _labelled(widgets.Text, "Prompt", value=prompt,
                                layout=widgets.Layout(flex="3 1 20em"))
        self.completion = _labelled(widgets.Text, "Answer", placeholder="the model writes",
                                    layout=widgets.Layout(flex="1 1 10em"))
        self.prompt.observe(self._prompted, "value")
        self.ask = _button("Ask", lambda: self._guarded(self._answer), button_style="primary",
                           layout=widgets.Layout(width="5em"))
        self._line = widgets.HBox([self.prompt, self.completion, self.ask], layout=ROW)
        self.tokens = widgets.HBox(layout=ROW)

    def _reading(self, prompts):
        """What else belongs to the question."""
        examples = [("", ""), *((text, text) for text in prompts)]
        self.pick = _labelled(widgets.Dropdown, "Examples", options=examples, layout=WIDE)
        self.against = _labelled(widgets.Text, "Compare with another answer", layout=WIDE,
                                 placeholder="none; a word of its own begins with a space")
        self.contexts = _labelled(widgets.IntSlider, "behind beginnings of stories", max=8)
        self.pick.observe(self._picked, "value")
        return self.pick, self.against, self.contexts

    def _looking(self):
        """How the answer is looked at: each change shows at once."""
        layers = list(self.explorer.setting.layers)
        by_layer = [("all together", ""), *zip(pictures.layer_names(layers), layers)]
        self.target, score = _switch("Score", TARGETS)
        self.method, method = _switch("Method", self.explorer.methods)
        self.align, align = _switch("A value stands", pictures.ALIGNMENTS)
        self.layer = _labelled(widgets.Dropdown, "tokens by layer", options=by_layer)
        self.top = _labelled(widgets.IntSlider, "stories of either sign", value=5, min=1, max=20,
                             continuous_update=False)
        for widget in (self.target, self.method, self.align, self.layer, self.top):
            widget.observe(lambda _: self._guarded(self._show), "value")
        return score, method, align, widgets.HBox([self.layer, self.top], layout=ROW)

    def _finding(self):
        """What is done with the question: methods compared, a story looked up, the view saved."""
        hint = "its number, some of its words, or a text of your own"
        self.wanted = _labelled(widgets.Text, "Why not this story?", placeholder=hint,
                                layout=widgets.Layout(flex="1 1 20em"))
        self.look = _button("Look it up", lambda: self._guarded(self._look_up))
        self.compare = _button("Compare all methods", lambda: self._guarded(self._compare),
                               layout=widgets.Layout(width="auto"))
        self.save = _button("Save this page", lambda: self._guarded(self._save))
        return (widgets.HBox([self.wanted, self.look], layout=ROW),
                widgets.HBox([self.compare, self.save, self.saved], layout=ROW), self.looked)

    # -- what happens ---------------------------------------------------------------------------

    def _say(self, text):
        text = html.escape(pictures.visible(text, " "))
        self.status.value = f'<div role="status" style="line-height:1.4">{text}</div>'

    def _guarded(self, action):
        """Runs an action; what goes wrong is said in one sentence."""
        start = time.perf_counter()
        try:
            self._say("Working …")
            said = action()
            self._say(said or self._answered(time.perf_counter() - start))
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
        said = [f"Answered in {seconds:.1f} s, from {len(self.explorer.setting.corpus):,} stories",
                f"Tracked: {pictures.tracked(self.explorer.tracked.summary())}",
                self.explorer.note, *self.question.notes]
        return ". ".join(filter(None, said)) + "."

    def _picked(self, change):
        if change["new"]:
            self.prompt.value, self.completion.value = change["new"], ""
            self._guarded(self._answer)

    def _prompted(self, _):
        if self.completion.value == self._written:
            self.completion.value = self._written = ""  # it was the model's, to another prompt

    def _answer(self):
        wanted = self._question()
        if wanted != self._asked:  # a second click on Ask costs nothing
            self._say("The model reads the question …")
            self.question = self.explorer.ask(*wanted)
            if not self.completion.value.strip():
                self.completion.value = self._written = self.question.query.completion
            self._asked = self._question()
            self.looked.value = self.saved.value = ""
            buttons = map(self._word, self.question.tokens)
            self.tokens.children = [widgets.Label("Explain"), *buttons]
        return self._show()

    def _question(self):
        return (self.prompt.value, self.completion.value, self.against.value, self.contexts.value)

    def _word(self, token):
        text = pictures.visible(token, "⏎").strip() or "␣"
        button = widgets.ToggleButton(True, description=text, layout=widgets.Layout(width="auto"),
                                      tooltip="explain this token: a word, or a piece of one")
        button.add_class("tw-word")
        button.observe(lambda _: self._guarded(self._show), "value")
        return button

    @property
    def chosen(self) -> list[int]:
        """Which tokens of the completion are to be explained."""
        return [place for place, button in enumerate(self.tokens.children[1:]) if button.value]

    def _need_question(self):
        if self.question is None:
            raise InputError("nothing is asked yet: type the beginning of a story and press Ask")
        new = self.target.value not in self.explorer.indexes
        self._say(f"Comparing with {len(self.explorer.setting.corpus):,} stories …"
                  + " An index for this score is made first, as when the explorer opened." * new)

    @property
    def _way(self):
        return {"chosen": self.chosen, "method": self.method.value, "target": self.target.value,
                "layer": self.layer.value or None}

    def view(self) -> dict:
        """What is shown, as the JSON has a query. Raises InputError."""
        self._need_question()
        return self.explorer.view(self.question, top=self.top.value, **self._way)

    def _show(self):
        self.found.value = pictures.fragment([self.view()], self.align.value)

    def _look_up(self):
        self._need_question()
        view = self.explorer.look_up(self.question, self.wanted.value, **self._way)
        self.looked.value = pictures.fragment([view], self.align.value)

    def _compare(self):
        self._need_question()
        self.looked.value = pictures.overview(self.explorer.overview(self.question, self.chosen))

    def _save(self):
        """Writes what is shown beside the notebook, and offers it: the kernel may be far away."""
        words = re.sub(r"[^a-z0-9]+", "-", self.prompt.value.lower()).strip("-")[:40]
        path = Path(f"influence-{words or 'question'}.html")
        pictures.write_page(self.explorer.result(self.view()), path, self.align.value)
        data = base64.b64encode(path.read_bytes()).decode()
        self.saved.value = (f"Saved as <b>{path.name}</b> beside the notebook. <a "
                            f'download="{path.name}" href="data:text/html;base64,{data}">'
                            "Download it</a>")
        return f"Saved as {path.name}."
