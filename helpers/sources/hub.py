"""What is fetched from the Hugging Face Hub: as little as is needed."""
from pathlib import Path

import datasets
from huggingface_hub import HfApi, HfFileSystem, snapshot_download
from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import disable_progress_bars

from ..stories import InputError
from .files import first_line
from .forms import parquet_rows


def hub_info(name: str, kind: str):
    """What the Hub knows of the repository, None if it does not answer. One call, no retries."""
    try:
        return HfApi().repo_info(name, repo_type=kind, timeout=5)
    except HFValidationError:
        raise InputError(f"{name!r} is neither a path here nor a Hub id: write it as "
                         "owner/name") from None
    except GatedRepoError:
        raise InputError(f"the {kind} {name!r} is gated: ask for access on its page, then `hf auth "
                         "login`") from None
    except RepositoryNotFoundError:
        raise InputError(f"no {kind} {name!r}, neither here nor on the Hub: check the spelling (a "
                         "private one needs `hf auth login`)") from None
    except Exception:  # refused, timed out, offline: each library version has its own types
        return None


def hub_model(name: str) -> Path:
    """The folder of a model of the Hub, fetched, or from the local cache. Raises InputError."""
    disable_progress_bars()  # drawn as widgets in a notebook, where `quiet` cannot catch them
    info = hub_info(name, "model")
    if info is None:
        try:
            return Path(snapshot_download(name, local_files_only=True))
        except Exception:
            raise InputError(f"cannot reach the Hub, and {name!r} is not in the local cache: "
                             "connect to the network, or give a folder") from None
    files = [file.rfilename for file in info.siblings if "/" not in file.rfilename]
    safe = any(file.endswith(".safetensors") for file in files)
    wanted = ["*.json", "*.jinja", "*.txt", "*.model",
              "*.safetensors" if safe else "pytorch_model*.bin*"]
    try:
        return Path(snapshot_download(name, allow_patterns=wanted, ignore_patterns=["*/*"]))
    except Exception as error:
        raise InputError(f"the download of {name!r} failed ({first_line(error)}): try "
                         "again") from error


def hub_rows(name: str):
    """Rows of the split "train" as dictionaries, streamed: fetched as far as they are read."""
    datasets.disable_progress_bars()
    config = datasets.config  # by default 20 retries, which take minutes
    config.STREAMING_OPEN_MAX_RETRIES = config.STREAMING_READ_MAX_RETRIES = 3
    builder = datasets.load_dataset_builder(name)
    files = (builder.config.data_files or {}).get("train", [])
    plain = all(file.startswith("hf://") and file.endswith(".parquet") for file in files)
    if not files or not plain:
        yield from builder.as_streaming_dataset(split="train")
        return
    # `datasets` reads Parquet in threads far ahead of what is asked, and left in mid-file those can
    # abort Python at exit; one thread, one row group at a time, has neither fault
    for file in files:
        with HfFileSystem().open(file) as handle:
            yield from parquet_rows(handle)
