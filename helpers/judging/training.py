"""The two ways to train on a part of the stories: the book's recipe, or the reader's own command.

Each is `train(kept, seed)` with `kept (N,)` bool, and gives a model, which `save(folder)` writes;
`name` says what it does."""
import copy
import json
import shutil
import subprocess
from itertools import islice
from pathlib import Path

from ..retrain import Recipe, loss_weights, put, train
from ..sources.adapters import LoRA
from ..sources.experts import Experts
from ..sources.files import local_path
from ..sources.forms import file_rows, name_of
from ..sources.models import load_model
from ..stories import Corpus, InputError

LAST = 3  # lines of a command's output that are shown when it fails


class ByRecipe:
    """`retrain.train`; a story that is left out has the weight 0, all else stays."""

    def __init__(self, setting, recipe: Recipe):
        if any(isinstance(module, Experts | LoRA) for module in setting.model.modules()):
            raise InputError("the recipe writes plain models only, no adapters and no stacked "
                             "experts: train yours with a command (--train)")
        self.setting, self.trained = setting, copy.deepcopy(setting.model)
        self.recipe, self.name = recipe, repr(recipe)
        self.weights = loss_weights(setting.corpus)

    def __call__(self, kept, seed):
        end = train(self.setting.model, self.setting.corpus.ids, self.recipe, seed,
                    self.weights * kept[:, None])
        return put(self.trained, end.theta)

    def save(self, folder):
        self.trained.save_pretrained(folder)
        self.setting.tokenizer.save_pretrained(folder)


class ByCommand:
    """The words of a command, run for each training in `folder`."""

    def __init__(self, words: list[str], request, setting, folder: Path):
        self.words, self.name, self.folder = words, json.dumps(words), folder.absolute()
        base = local_path(request.model, "model")
        self.base = base.absolute() if base.is_dir() else request.model
        self.lines, self.setting = story_lines(request, setting.corpus), setting
        self.device = request.device

    def __call__(self, kept, seed):
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir()
        stories, model = self.folder / "stories.jsonl", self.folder / "model"
        stories.write_bytes(b"".join(line for line, keep in zip(self.lines, kept) if keep))
        self.run({"{stories}": stories, "{model}": model, "{seed}": seed, "{base}": self.base})
        if not any(model.glob("*config.json")):
            raise InputError(f"the command of --train ended well, but wrote no model to {model}: "
                             "let it call save_pretrained with what stands for {model}")
        if not any(model.glob("tokenizer*")):
            self.setting.tokenizer.save_pretrained(model)
        return load_model(model, self.device)[0]

    def save(self, folder):
        shutil.copytree(self.folder / "model", folder, dirs_exist_ok=True)

    def run(self, holes):
        words, log = list(self.words), self.folder.parent / "train.log"
        for hole, value in holes.items():
            words = [word.replace(hole, str(value)) for word in words]
        with open(log, "w+b") as said:
            try:
                code = subprocess.run(words, stdout=said, stderr=said).returncode
            except OSError as problem:
                raise InputError(f"the command of --train cannot be started ({problem}): check its "
                                 "first word") from None
        if code:
            lines = log.read_text("utf-8", "replace").split("\n")
            last = " | ".join([line.strip() for line in lines if line.strip()][-LAST:])
            raise InputError(f"the command of --train failed (exit code {code}): {last} (all of it "
                             f"is in {log}); mend it and give the same command again: finished "
                             "trainings are kept")


def story_lines(request, corpus: Corpus) -> list[bytes]:
    """For each story of the corpus the line of JSONL that it came as; where it came otherwise,
    {"id", "text"}. Raises InputError."""
    rows = file_rows(local_path(request.stories, "stories.jsonl"))
    if rows is not None:
        lines = {name_of(number, row): row for number, _, row in islice(rows, request.limit)}
        return [json.dumps(lines[story.id], default=str).encode() + b"\n"
                for story in corpus.stories]
    if corpus.loss_masks:
        raise InputError("--train hands stories on as they came, and those with answers only from "
                         "a file: save them as FILE.jsonl")
    return [json.dumps({"id": story.id, "text": story.text}).encode() + b"\n"
            for story in corpus.stories]
