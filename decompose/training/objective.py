"""Compute the training loss: labels, the original's outputs and features, or both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from decompose.layers.discovery import find_decomposed, find_layers
from decompose.layers.forward import evaluating
from decompose.layers.global_pooling import averaged_as
from decompose.layers.hooks import observing
from decompose.training.frobenius_decay import composed_energy
from decompose.training.mixup import Mixture
from decompose.training.recipe import Recipe
from decompose.utils.errors import DecomposeError


@dataclass(frozen=True)
class Objective:
    """The weighted loss of a recipe.

    Attributes:
        recipe: the weights of its terms.
        student: the model that is trained.
        teacher: the original, in evaluation mode; ``None`` where there are labels alone.
        labelled: whether images have labels.

    Raises:
        DecomposeError: there is nothing to learn from, or the teacher lacks a layer.
    """

    recipe: Recipe
    student: nn.Module
    teacher: nn.Module | None
    labelled: bool

    def __post_init__(self) -> None:
        if self.teacher is None:
            if not self.labelled:
                raise DecomposeError("without labels there must be a teacher to learn from")
            if self.recipe.blockwise:
                raise DecomposeError(
                    "blockwise reconstruction learns from the original, as teacher"
                )
            return
        matched = self._features if find_decomposed(self.student) else 0
        if not (self._labels or self.recipe.outputs or matched):
            raise DecomposeError("all losses have weight 0; there is nothing to learn")
        known = find_layers(self.teacher)
        if not known and (self.recipe.features or self.recipe.blockwise):
            raise DecomposeError(
                "the teacher has no layers, as an ONNX model in its engine has none; learn from its "
                "outputs alone, without features and blockwise, or give the original model"
            )
        if stray := [name for name in find_decomposed(self.student) if known and name not in known]:
            raise DecomposeError(f"the teacher has no layer {stray[0]}; give the original model")

    @property
    def learns_from_labels(self) -> bool:
        """Whether labels have a weight in the loss."""
        return self._labels > 0

    @property
    def _labels(self) -> float:
        if self.teacher is None:
            return 1.0
        return self.recipe.labels if self.labelled else 0.0

    @property
    def _features(self) -> float:
        given = self.recipe.features
        if given is None:
            has_layers = self.teacher is not None and bool(find_layers(self.teacher))
            return float(not self.labelled and has_layers)
        return given

    def loss(
        self, model: nn.Module, images: Tensor, labels: Tensor, mixture: Mixture | None = None
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch, without decay.

        Args:
            model: the student, as it is wrapped for training.
            images: ``(batch, 3, H, W)``.
            labels: ``(batch,)`` int64; -1 where there are none.
            mixture: that the images are; none by default.

        Returns:
            A scalar, and the student's outputs.

        Raises:
            DecomposeError: labels, or the teacher's outputs, do not fit the model's.
        """
        terms, outputs = self._terms(model, images, labels, mixture)
        return torch.stack(terms).sum(), outputs

    def rehearse(self, images: Tensor, labels: Tensor) -> None:
        """Compute a batch's loss once without training, to check that model, teacher and labels fit.

        Raises:
            DecomposeError: labels, or the teacher's outputs, do not fit the model's.
        """
        with evaluating(self.student):
            self._terms(self.student, images, labels)

    def _terms(
        self, model: nn.Module, images: Tensor, labels: Tensor, mixture: Mixture | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """The terms of the loss, and the student's outputs."""
        rewritten = find_decomposed(self.student) if self._features and self.teacher else {}
        with tapping(rewritten) as ours:
            outputs = model(images)
        if not isinstance(outputs, Tensor):
            # Models with auxiliary heads give those beside the scores while they train.
            outputs = getattr(outputs, "logits", None)
            if outputs is None:
                raise DecomposeError("the model gives no tensor to learn by")
        from_teacher = (
            () if self.teacher is None else self._from_teacher(self.teacher, images, outputs, ours)
        )
        return [*self._from_labels(outputs, labels, mixture), *from_teacher], outputs

    def _from_labels(
        self, outputs: Tensor, labels: Tensor, mixture: Mixture | None
    ) -> Iterator[Tensor]:
        """The labels' term of the loss; of a mixed image those of both, by their shares."""
        if self._labels:
            require_fit(outputs, labels)
            scores, smoothing = outputs.float(), self.recipe.smoothing
            losses = F.cross_entropy(scores, labels, label_smoothing=smoothing, reduction="none")
            if mixture is not None:
                others = labels[mixture.partners]
                beside = F.cross_entropy(
                    scores, others, label_smoothing=smoothing, reduction="none"
                )
                losses = mixture.shares * losses + (1 - mixture.shares) * beside
            yield self._labels * losses.mean()

    def _from_teacher(
        self,
        teacher: nn.Module,
        images: Tensor,
        outputs: Tensor,
        ours: Mapping[str, Sequence[Tensor]],
    ) -> Iterator[Tensor]:
        """The teacher's terms of the loss, from its outputs and those of tapped layers."""
        known = find_layers(teacher)
        with tapping({name: known[name] for name in ours}) as theirs, torch.no_grad():
            wanted = teacher(images)
        if isinstance(wanted, Tensor) and wanted.shape != outputs.shape:
            raise DecomposeError(
                f"the teacher gives {tuple(wanted.shape[1:])} for an image, the model "
                f"{tuple(outputs.shape[1:])}; give the original model"
            )
        if self.recipe.outputs:
            distance = output_distance(outputs, wanted, self.recipe.temperature)
            yield self.recipe.outputs * distance
        if ours:
            layers = find_decomposed(self.student)
            given = [output for name in ours for output in ours[name]]
            aims = [averaged_as(layers[name], output) for name in ours for output in theirs[name]]
            yield self._features * feature_distance(given, aims)

    def penalty(self) -> Tensor:
        """The decay of the kernels that factors compose to, a scalar."""
        if not self.recipe.weight_decay:
            return torch.zeros(())
        return self.recipe.weight_decay / 2 * composed_energy(self.student)


@contextmanager
def tapping(layers: Mapping[str, nn.Module]) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the outputs of each call of layers, by their names."""
    outputs: dict[str, list[Tensor]] = {name: [] for name in layers}

    def keep(name: str, _: Tensor, output: Tensor) -> None:
        # What runs on may change it in place.
        outputs[name].append(output.clone())

    with observing(layers, keep):
        yield outputs


def require_fit(outputs: Tensor, labels: Tensor) -> None:
    """Check that outputs are class scores that the labels index.

    Raises:
        DecomposeError: they are not.
    """
    if outputs.ndim != 2:
        raise DecomposeError(
            f"the model gives an output of shape {tuple(outputs.shape[1:])} for an image, not one "
            "score a class; train it without labels (--unlabelled)"
        )
    if labels.max() >= outputs.shape[1]:
        raise DecomposeError(
            f"the data has a label {int(labels.max())}, but the model scores "
            f"{outputs.shape[1]} classes"
        )


def distillation(scores: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """The divergence from another model's softened classes (Hinton et al. 2015, section 2).

        T^2 KL(softmax(wanted / T) || softmax(scores / T))

    T^2 keeps the size of the gradient as T grows.

    Args:
        scores: ``(batch, classes)``.
        wanted: the other model's, of the same shape.
        temperature: T.

    Returns:
        A scalar, in nats.
    """
    ours = F.log_softmax(scores.float() / temperature, 1)
    theirs = F.log_softmax(wanted.float() / temperature, 1)
    return temperature**2 * F.kl_div(ours, theirs, reduction="batchmean", log_target=True)


def relative_error(outputs: Tensor, wanted: Tensor) -> Tensor:
    """Mean over images of the squared error over the target's energy.

    Args:
        outputs: ``(batch, ...)``.
        wanted: of the same shape.

    Returns:
        A scalar; 1 where the outputs are zero.
    """
    outputs, wanted = outputs.flatten(1).float(), wanted.flatten(1).float()
    energies = wanted.square().sum(1)
    # An image that leaves nothing to match counts by its squared error.
    energies = torch.where(energies > 0, energies, 1.0)
    return ((outputs - wanted).square().sum(1) / energies).mean()


def output_distance(outputs: Tensor, wanted: Tensor, temperature: float) -> Tensor:
    """``distillation`` of class scores ``(batch, classes)``; of anything else its relative error."""
    if outputs.ndim == 2:
        return distillation(outputs, wanted, temperature)
    return relative_error(outputs, wanted)


def feature_distance(outputs: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Mean relative error over layers (as hints, Romero et al. 2015, but at layers of one shape)."""
    pairs = zip(outputs, wanted, strict=True)
    return torch.stack([relative_error(ours, theirs) for ours, theirs in pairs]).mean()
