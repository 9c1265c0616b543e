"""Where models, stories and queries come from: the default, folders and files, the Hub. Whatever a
user can get wrong raises InputError, one line that says what is wrong and what to do."""
from .adapters import add_lora, lora_layers, save_adapter
from .attention import fuse
from .layers import Tracked, share, track
from .models import context_length, load_model
from .records import load_planted, load_record, rows_of
from .texts import complete, load_queries, load_stories, read_corpus, read_query

__all__ = ["Tracked", "add_lora", "complete", "context_length", "fuse", "load_model",
           "load_planted", "load_queries", "load_record", "load_stories", "lora_layers",
           "read_corpus", "read_query", "rows_of", "save_adapter", "share", "track"]
