"""Upload models to the Hugging Face hub, write them as its folders, and download them."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.files import write_text, writing, writing_together

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

PREFIX = "hf:"
"""Prefix of a model's name on the hub: ``hf:USER/NAME``, or ``hf:USER/NAME@REVISION``."""

FILE = "model.safetensors"
"""The model's file in a repository, beside the card."""


def is_hub_name(source: object) -> bool:
    """Whether a source is the name of a model on the hub.

    Example:
        >>> is_hub_name("hf:me/small@v2"), is_hub_name("small.safetensors")
        (True, False)
    """
    return str(source).startswith(PREFIX)


def fetch(
    name: str,
    *,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> Path:
    """Download a model's file from the hub, or take it from the cache.

    The hub's client reads its token, cache, endpoint and offline mode from the environment: ``HF_TOKEN``,
    ``HF_HOME``, ``HF_ENDPOINT``, ``HF_HUB_OFFLINE``.

    Args:
        name: ``hf:USER/NAME``, or ``hf:USER/NAME@REVISION`` for a branch, tag or commit.
        token: to be let in with; the environment's by default.
        cache_dir: where files are kept; the environment's by default.
        force_download: download what is in the cache as well.
        local_files_only: take nothing but what is in the cache.

    Returns:
        The file, in the cache.

    Raises:
        DecomposeError: there is no such repository, revision or file, it may not be read, or the hub cannot
            be reached and the cache lacks the file.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        HTTPError,  # pyright: ignore[reportPrivateImportUsage]
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    repo, _, revision = name.removeprefix(PREFIX).partition("@")
    try:
        path = hf_hub_download(
            repo,
            FILE,
            revision=revision or None,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
    except HFValidationError:
        problem = "is not the name of a repository; write hf:USER/NAME"
    except GatedRepoError:
        problem = "is only for those who are let in; ask for access on the hub, and set HF_TOKEN"
    except RepositoryNotFoundError:
        problem = "there is no such repository, or it is private; for a private one set HF_TOKEN"
    except RevisionNotFoundError:
        problem = f"has no revision {revision!r}"
    except LocalEntryNotFoundError:
        problem = "the hub cannot be reached (or is switched off), and the cache has no copy"
    except EntryNotFoundError:
        problem = f"holds no {FILE}; decompose push writes one"
    except (HTTPError, OSError) as error:
        problem = f"cannot be downloaded: {first_line(error)}"
    else:
        return Path(path)
    raise DecomposeError(f"{name}: {problem}")


def write_folder(source: Path, card: ModelCard, folder: Path) -> list[Path]:
    """Write the files that would be published to a folder, created if missing.

    Returns:
        The files.

    Raises:
        DecomposeError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DecomposeError(f"{folder}: cannot be written: {reason(error)}") from None
    model, readme = folder / FILE, folder / "README.md"
    with writing_together():
        with writing(model) as temporary:
            shutil.copyfile(source, temporary)
        write_text(readme, str(card))
    return [model, readme]


def upload(source: Path, card: ModelCard, repo: str, *, private: bool) -> str:
    """Publish a model; its repository is created if missing.

    Args:
        source: the model's file.
        card: its card.
        repo: ``USER/NAME``.
        private: whether a new repository is private; one that is there stays as it is.

    Returns:
        Its address.

    Raises:
        DecomposeError: the hub cannot be reached, or does not take it.
    """
    from huggingface_hub import HfApi

    # Of whichever library the hub's client asks through; it has changed.
    from huggingface_hub.errors import HTTPError  # type: ignore[attr-defined]

    api = HfApi()
    try:
        # Asked first, since nothing needs to be written where nobody answers.
        address = api.create_repo(repo, private=private or None, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            write_folder(source, card, Path(folder))
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Publish a model")
    # The hub's own errors are one of these as well.
    except (HTTPError, OSError, ValueError) as error:
        raise DecomposeError(
            f"{repo}: cannot be published ({first_line(error)}); --folder DIR writes the same files "
            "to be uploaded later"
        ) from None
    return str(address)
