"""Wrap a decomposed model for the Hugging Face hub's libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard, ModelHubMixin
from torch import nn

from decompose.evaluation.model_card import LIBRARY, TAGS, model_card
from decompose.models import serialization
from decompose.models.architectures import preprocessing_of
from decompose.models.hub import FILE, PREFIX, fetch


class HubModel(nn.Module, ModelHubMixin, library_name=LIBRARY, tags=list(TAGS)):
    """A model with the hub's ``save_pretrained``, ``from_pretrained`` and ``push_to_hub``.

    The files are those of ``decompose push``: ``model.safetensors`` with weights and plan, and the card.
    ``from_pretrained`` takes a folder or a repository, and ``revision``, ``token``, ``cache_dir``,
    ``force_download`` and ``local_files_only`` as everywhere on the hub; ``model=`` is the architecture
    where it has no name.

    Args:
        model: decomposed or not; it is called as ever.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any, **named: Any) -> Any:
        """Run the model."""
        return self.model(*inputs, **named)

    def generate_model_card(self, *_: Any, **options: Any) -> ModelCard:
        """Write the card of ``decompose push`` where an input size is known, else the hub's own.

        Args:
            options: ``repo`` is the repository's name; ``example`` is one batch, for models whose
                architecture has no name; others are those of ``model_card``.
        """
        preprocessing = preprocessing_of(self.model)
        example = options.pop("example", None)
        if example is None and preprocessing is not None:
            example = torch.zeros(1, *preprocessing.input_shape())
        if example is None:
            return super().generate_model_card()
        like = next(self.model.parameters())
        return model_card(self.model, example.to(like), options.pop("repo", "me/model"), **options)

    def push_to_hub(self, repo_id: str, **options: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Publish the model, with its card; takes the options of ``ModelHubMixin.push_to_hub``."""
        given = {"repo": repo_id, **(options.pop("model_card_kwargs", None) or {})}
        return super().push_to_hub(repo_id, model_card_kwargs=given, **options)

    def _save_pretrained(self, save_directory: Path) -> None:
        serialization.save(self.model, save_directory / FILE)

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        model: nn.Module | str | None = None,
        **_: Any,
    ) -> HubModel:
        path = Path(model_id) / FILE
        if not path.parent.is_dir():
            path = fetch(
                f"{PREFIX}{model_id}{'' if revision is None else f'@{revision}'}",
                token=token,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
            )
        return cls(serialization.load(path, model))
