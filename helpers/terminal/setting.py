"""What every step needs, and the stream of batches that all passes read."""
from dataclasses import dataclass, replace

import torch
from tqdm.auto import tqdm

from ..capture import backward_pass
from ..sources.layers import rounding
from ..stories import Corpus, batches, padded
from . import processes


@dataclass
class Setting:
    """The model, its tokenizer and tracked layers, the corpus, and how to run them."""
    model: torch.nn.Module
    tokenizer: object
    layers: dict
    corpus: Corpus
    batch_size: int = 16  # larger ones are slower on a CPU: attention maps outgrow malloc's memory
    quiet: bool = False
    target: str = "influence"  # or "content": what the loss terms of all batches are weighted for

    @property
    def device(self):
        return next(self.model.parameters()).device

    def max_positions(self, logits=2**26, maps=2**28) -> int:
        """Positions (B·T) a batch may have so that its logits, and its attention maps, stay within
        these counts of numbers (2²⁶ are 256 MB)."""
        vocabulary = self.model.config.get_text_config().vocab_size
        heads = _size(self.model, "num_hidden_layers") * _size(self.model, "num_attention_heads")
        longest = max(map(len, self.corpus.ids))  # a story has heads × T × T numbers in its maps
        return max(1, min(logits // vocabulary, maps // (heads * longest)))

    def stream(self, rows=None, label=""):
        """Length-bucketed batches of the corpus rows (default all), `index` holding corpus rows.
        Shows a bar on stderr. Under torchrun every process gets a share of the rows."""
        rows = range(len(self.corpus)) if rows is None else rows
        rows = processes.share(sorted(rows, key=lambda row: len(self.corpus.ids[row])))
        ids, masks = ([values[row] for row in rows] if values else None
                      for values in (self.corpus.ids, self.corpus.loss_masks))
        # counted in tokens: short stories come first, so a count of stories would promise too much
        with tqdm(total=sum(map(len, ids)), desc=label, unit=" tokens", unit_scale=True,
                  mininterval=0.5, disable=self.quiet or processes.rank() > 0) as bar:
            for batch in batches(ids, self.batch_size, self.max_positions(), masks):
                index = [rows[place] for place in batch.index]
                yield replace(batch.to(self.device), index=index, target=self.target)
                bar.update(batch.mask.sum().item())


def _size(model, name):
    """A size in the model's config; 1 where it has none, or another in each layer."""
    try:
        return getattr(model.config.get_text_config(), name, None) or 1
    except Exception:  # a config that differs by layer raises a type of its own
        return 1


def batch_note(setting: Setting) -> str | None:
    """A sentence where a story's gradient is another alone than in a batch with longer ones.

    Whatever is scored by it would be off by as much. None where they agree to the precision of the
    model. Tried are the first story and the longest but one, beside the longest: some models treat
    long texts in another way.
    """
    ids = setting.corpus.ids
    rows = sorted({0, *sorted(range(len(ids)), key=lambda row: len(ids[row]))[-2:]})
    together, shares = _gradients(setting, rows), {}
    for place, row in enumerate(rows):
        (alone,) = _gradients(setting, [row])
        shares[row] = ((together[place] - alone).norm() / alone.norm()).item()
    worst = max(shares, key=shares.get)
    if not shares[worst] > rounding(setting.model.dtype):  # NaN is told with the scores
        return None
    return (f"the gradient of story {setting.corpus.stories[worst].id!r} differs by "
            f"{shares[worst]:.1%} between alone and in a batch: padding or other stories show in "
            "this model's scores; --batch-size 1 scores every story alone")


def _gradients(setting, rows):
    """The gradients of these corpus rows, run in one batch, `(rows, parameters)`."""
    batch = replace(padded(setting.corpus.ids, rows, setting.corpus.loss_masks).to(setting.device),
                    target=setting.target)
    captured, _ = backward_pass(setting.model, setting.layers, batch)
    return torch.cat([captured[name].gradients().flatten(1) for name in setting.layers], 1)
