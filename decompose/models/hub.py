"""A saved network on the Hugging Face hub, or in a folder like its repository there."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from decompose.utils.errors import DecomposeError, first_line, reason
from decompose.utils.files import write_text, writing

if TYPE_CHECKING:
    from huggingface_hub import ModelCard


if TYPE_CHECKING:
    from huggingface_hub import ModelCard

FILE = "model.safetensors"
"""What the network's file is called beside the card."""


def write_folder(source: Path, card: ModelCard, folder: Path) -> list[Path]:
    """Write what would be published into a folder, made if it is not there.

    Returns:
        The files.

    Raises:
        DecomposeError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DecomposeError(f"{folder}: cannot be written: {reason(error)}") from None
    network, readme = folder / FILE, folder / "README.md"
    with writing(network) as temporary:
        shutil.copyfile(source, temporary)
    write_text(readme, str(card))
    return [network, readme]


def upload(source: Path, card: ModelCard, repo: str, *, private: bool) -> str:
    """Publish a network; the repository is made if it is not there.

    Args:
        source: the network's file.
        card: its card.
        repo: ``USER/NAME``.
        private: for those alone who are let in; of a repository that is there, it stays as it is.

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
            api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Publish a network")
    # The hub's own errors are one of these as well.
    except (HTTPError, OSError, ValueError) as error:
        raise DecomposeError(
            f"{repo}: cannot be published ({first_line(error)}); --folder DIR writes the same files "
            "to be uploaded later"
        ) from None
    return str(address)
