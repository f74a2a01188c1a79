"""The Hub, when it answers and when it does not.

Without a connection the Hub's client retries every file for 23 seconds, several files in a row. Here one
quick question is asked first; if nothing answers, the rest of the process works from the local cache.
"""

import errno
import os
import sys
from pathlib import Path

from harness_ext.errors import UserError


def look_up(kind: str, name: str, revision: str = "main") -> dict[str, int] | None:
    """Ask the Hub for the files of a ``model`` or ``dataset`` of this name, at a branch, tag or commit.

    Returns:
        Bytes by file name, or None if the Hub cannot be reached; then this process has gone offline.

    Raises:
        UserError: The Hub answers that there is no such repository or revision, or that it is gated.
    """
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi().repo_info(name, repo_type=kind, revision=revision, timeout=5, files_metadata=True)
        return {file.rfilename: file.size or 0 for file in getattr(info, "siblings", None) or []}
    except errors.GatedRepoError:
        raise _gated(kind, name) from None
    except errors.RevisionNotFoundError:
        raise UserError(f"The {kind} {name!r} has no revision {revision!r} on the Hub.") from None
    except errors.RepositoryNotFoundError:
        raise UserError(f"The Hub has no {kind} {name!r} (or it is private and HF_TOKEN is not set).") from None
    except Exception:  # no connection, no route, a proxy's or a server's error: the client has a type for each
        _go_offline(kind, name)
        return None


def fetch_file(name: str, revision: str, file: str = "config.json") -> Path:
    """Fetch a model's ``config.json``, or another file, or find it in the cache; its folder is named after the commit."""
    from huggingface_hub import errors, hf_hub_download

    try:
        return Path(hf_hub_download(name, file, revision=revision))
    except errors.GatedRepoError:
        raise _gated("model", name) from None
    except errors.RemoteEntryNotFoundError:
        raise UserError(f"Model {name!r} has no {file} on the Hub: transformers cannot load it.") from None
    except OSError as error:  # LocalEntryNotFoundError and OfflineModeIsEnabled among others
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"{file} of model {name!r} does not fit the disk: make room, or set HF_HOME to a larger one."
            ) from None
        raise UserError(
            f"Cannot reach the Hub for model {name!r}, and the cache does not hold it. Offline, give a folder (MODEL=path) "
            "and the data (DATA_DIR=path), or run plain `make eval`, which needs neither."
        ) from None


def is_cached(name: str, file: str, revision: str) -> bool:
    """Tell whether the cache holds a file of a model."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, file, revision=revision), str)


def _gated(kind: str, name: str) -> UserError:
    return UserError(
        f"The {kind} {name!r} is gated: accept its licence on its Hub page, then run `hf auth login` or set HF_TOKEN."
    )


def _go_offline(kind: str, name: str) -> None:
    from huggingface_hub import constants, file_download

    # A name of one word that is not in the cache is no Hub id but a slip, which the error that follows says better.
    cached = Path(constants.HF_HUB_CACHE, file_download.repo_folder_name(repo_id=name, repo_type=kind))
    if not constants.HF_HUB_OFFLINE and ("/" in name or cached.is_dir()):
        print("The Hub cannot be reached: working from the local cache.", file=sys.stderr)
    os.environ["HF_HUB_OFFLINE"] = "1"  # for libraries that are imported later
    constants.HF_HUB_OFFLINE = True
    if "datasets" in sys.modules:
        sys.modules["datasets"].config.HF_HUB_OFFLINE = True
