"""Models of timm (Wightman 2019, github.com/huggingface/pytorch-image-models), by their names there.

A name may carry the tag of its weights behind a dot, ``convnext_tiny.fb_in1k``; without one timm's
default is meant. timm is an extra: it is imported where it is asked for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import Any

from torch import Tensor, nn

from decompose.utils.errors import DecomposeError, first_line, refusal
from decompose.utils.optional_dependencies import required


def require_model(name: str) -> None:
    """Check that timm has a model of a name, and weights of its tag.

    Raises:
        DecomposeError: it has not, or is not installed.
    """
    timm = _timm()
    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        close = timm.list_models(f"*{model}*")[:5] or timm.list_models(f"{model[:4]}*")[:5]
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise DecomposeError(f"timm:{name}: timm has no model {model!r}{hint}")
    if tag and not timm.is_model_pretrained(name):
        tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{model}.*")]
        raise DecomposeError(
            f"timm:{name}: there are no weights {tag!r}; there are: {', '.join(tags) or 'none'}"
        )


def build(name: str, options: Mapping[str, Any]) -> nn.Module:
    """A model in evaluation mode, with random weights.

    Args:
        name: of the model; a tag makes no difference to most.
        options: keyword arguments of ``timm.create_model``.

    Raises:
        DecomposeError: the model does not take the options.
    """
    return _created(name, options, pretrained=False)


def pretrained_state(name: str, options: Mapping[str, Any]) -> dict[str, Tensor]:
    """The pretrained weights of a model, from the hub or its cache; no pickle that could run code.

    Raises:
        DecomposeError: there are none, or the hub cannot be reached.
    """
    if not _timm().is_model_pretrained(name):
        raise DecomposeError(f"timm:{name}: has no pretrained weights; write weights=none")
    return _created(name, options, pretrained=True).state_dict()


def hub_name(name: str) -> str | None:
    """The repository on the hub that holds a model's pretrained weights, if one does."""
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name, allow_unregistered=True)
    return known.hf_hub_id if known else None


def data_config(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """The preprocessing of the weights: ``input_size``, ``mean``, ``std``, ``crop_pct`` and so on.

    Grey ones (``in_chans=1``) have the colours' average mean and deviation.
    """
    timm = _timm()
    from timm.models import get_pretrained_cfg

    known = get_pretrained_cfg(name, allow_unregistered=True)
    config = timm.data.resolve_data_config(
        None, pretrained_cfg=known.to_dict() if known else {"tag": ""}
    )
    channels, *sides = config["input_size"]
    size = options.get("img_size", sides)
    sides = [size, size] if isinstance(size, int) else list(size)
    channels = options.get("in_chans", channels)
    if channels == 1:
        config |= {name: (fmean(config[name]),) for name in ("mean", "std")}
    return config | {"input_size": (channels, *sides)}


def transform(config: Mapping[str, Any]) -> Any:
    """The preprocessing of a ``data_config``.

    Raises:
        DecomposeError: its inputs are no images, by their number of channels.
    """
    from torchvision.transforms import Grayscale, InterpolationMode
    from torchvision.transforms._presets import ImageClassification

    channels, height, width = config["input_size"]
    if channels not in (1, 3):
        raise DecomposeError(f"images have 1 or 3 channels; the model takes {channels}")
    if height != width or config["crop_mode"] != "center":
        made = _timm().data.create_transform(**config, is_training=False)
        if channels == 1:
            made.transforms.insert(0, Grayscale())
        return made
    # Does the same, and has its sizes as attributes.
    made = ImageClassification(
        crop_size=height,
        resize_size=math.floor(height / config["crop_pct"]),
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        interpolation=InterpolationMode(config["interpolation"]),
    )
    if channels == 1:
        made.register_forward_pre_hook(_in_grey)
    return made


def _in_grey(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(image.convert("L") for image in inputs)


def _created(name: str, options: Mapping[str, Any], *, pretrained: bool) -> nn.Module:
    timm = _timm()
    try:
        with _quiet():
            return timm.create_model(name, pretrained=pretrained, **options).eval()
    except OSError as error:
        raise DecomposeError(
            f"timm:{name}: its weights cannot be had from the hub ({first_line(error)}); give a "
            "checkpoint file with --arch, or write weights=none"
        ) from None
    except NotImplementedError:
        raise  # of the meta device
    # Builders check few of their options.
    except Exception as error:  # noqa: BLE001
        raise DecomposeError(f"timm:{name}: {refusal(error)}") from None


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the hub's log of its attempts; the outcome is reported once."""
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _timm() -> Any:
    return required("timm", "timm", "timm")
