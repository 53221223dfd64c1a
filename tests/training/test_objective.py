"""The loss of a batch is what its recipe weighs together."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import decompose
from decompose import Choice, Plan
from decompose.training.mixup import Mixture
from decompose.training.objective import (
    Objective,
    distillation,
    feature_distance,
    output_distance,
    relative_error,
    tapping,
)
from decompose.training.recipe import Recipe
from decompose.utils.errors import DecomposeError
from tests.support.averaged_head import averaged_head
from tests.training.cases import models

IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([0, 1, 2, 1])
NONE = Recipe(labels=0.0, outputs=0.0, features=0.0, weight_decay=0.0)


def loss(recipe: Recipe, *, labelled: bool = True, taught: bool = True) -> torch.Tensor:
    original, small = models()
    lesson = Objective(recipe, small, original if taught else None, labelled)
    return lesson.loss(small, IMAGES, LABELS)[0]


def test_each_term_is_its_definition() -> None:
    original, small = models()
    scores, wanted = small(IMAGES), original(IMAGES)
    labels = F.cross_entropy(scores, LABELS, label_smoothing=0.1)
    torch.testing.assert_close(loss(replace(NONE, labels=2.0, smoothing=0.1)), 2 * labels)
    outputs = distillation(scores, wanted, 3.0)
    torch.testing.assert_close(loss(replace(NONE, outputs=2.0, temperature=3.0)), 2 * outputs)
    # Before the rectifier that works in place behind it.
    first = relative_error(
        small.get_submodule("features.0")(IMAGES), original.get_submodule("features.0")(IMAGES)
    )
    ours, theirs = (
        n.get_submodule("features.3")(n.get_submodule("features")[:3](IMAGES))  # type: ignore[index]
        for n in (small, original)
    )
    features = (first + relative_error(ours, theirs)) / 2
    torch.testing.assert_close(loss(replace(NONE, features=2.0)), 2 * features)
    torch.testing.assert_close(
        loss(Recipe(labels=1, outputs=1, features=1, temperature=3.0, smoothing=0.1)),
        labels + outputs + features,
    )


def test_without_labels_features_and_outputs_are_matched() -> None:
    recipe = Recipe(labels=5.0)
    expected = loss(replace(NONE, outputs=0.5, features=1.0))
    torch.testing.assert_close(loss(recipe, labelled=False), expected)


def test_without_a_teacher_labels_are_all() -> None:
    _, small = models()
    torch.testing.assert_close(
        loss(Recipe(labels=0.2, features=3.0), taught=False), F.cross_entropy(small(IMAGES), LABELS)
    )


def test_the_penalty_is_half_the_decay_of_the_kernels() -> None:
    original, small = models()
    lesson = Objective(Recipe(weight_decay=0.1), small, original, True)
    kernels = [original.get_parameter(f"features.{index}.weight") for index in (0, 3)]
    energy = float(lesson.penalty().detach()) / 0.05
    # Truncation takes some of the energy away.
    assert 0.5 < energy / sum(float(w.detach().square().sum()) for w in kernels) < 1
    assert Objective(Recipe(weight_decay=0.0), small, original, True).penalty() == 0


def test_the_teacher_gets_no_gradient() -> None:
    original, small = models()
    Objective(Recipe(features=1.0), small, original, True).loss(small, IMAGES, LABELS)[0].backward()
    assert all(parameter.grad is None for parameter in original.parameters())
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_taps_keep_what_is_changed_in_place_afterwards() -> None:
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(inplace=True))
    with tapping({"0": model[0]}) as seen:
        model(IMAGES)
    (output,) = seen["0"]
    assert output.min() < 0


def test_what_does_not_fit_is_refused() -> None:
    original, small = models()
    with pytest.raises(DecomposeError, match="without labels there must be a teacher"):
        Objective(Recipe(), small, None, False)
    with pytest.raises(DecomposeError, match="nothing to learn"):
        Objective(NONE, small, original, True)
    with pytest.raises(DecomposeError, match="the teacher has no layer features"):
        Objective(Recipe(), small, nn.Linear(3, 3), True)
    lesson = Objective(Recipe(), small, original, True)
    with pytest.raises(DecomposeError, match="a label 7, but the model scores 3 classes"):
        lesson.loss(small, IMAGES, LABELS + 5)
    lesson = Objective(Recipe(), small, None, True)
    with pytest.raises(DecomposeError, match="train it without labels"):
        lesson.loss(nn.Conv2d(3, 2, 1), IMAGES, LABELS)
    other = nn.Sequential(original, nn.Linear(3, 2))
    lesson = Objective(Recipe(outputs=1.0), nn.Sequential(original), other, True)
    with pytest.raises(DecomposeError, match=r"the teacher gives \(2,\) for an image"):
        lesson.loss(original, IMAGES, LABELS)


OURS, THEIRS = torch.randn(6, 5), torch.randn(6, 5)


def test_distillation_is_hintons() -> None:
    p, q = (torch.softmax(scores / 3, 1) for scores in (THEIRS, OURS))
    divergence = (p * (p.log() - q.log())).sum(1).mean()
    torch.testing.assert_close(distillation(OURS, THEIRS, 3.0), 9 * divergence)
    assert float(distillation(THEIRS, THEIRS, 2.0)) < 1e-6


def test_the_gradient_keeps_its_size_as_temperature_grows() -> None:
    sizes = []
    for temperature in (10.0, 100.0):
        scores = OURS.clone().requires_grad_()
        distillation(scores, THEIRS, temperature).backward()
        assert scores.grad is not None
        sizes.append(float(scores.grad.norm()))
    assert 0.8 < sizes[0] / sizes[1] < 1.25


def test_relative_error_is_a_images() -> None:
    assert float(relative_error(torch.zeros_like(THEIRS), THEIRS)) == 1
    assert float(relative_error(THEIRS, THEIRS)) == 0
    assert float(relative_error(torch.ones(1, 3), torch.zeros(1, 3))) == 3


def test_parts_of_a_batch_average_to_it() -> None:
    maps = torch.randn(2, 6, 3, 4, 4)
    for loss in (
        lambda rows: distillation(OURS[rows], THEIRS[rows], 2.0),
        lambda rows: output_distance(maps[0][rows], maps[1][rows], 2.0),
        lambda rows: feature_distance([maps[0][rows], OURS[rows]], [maps[1][rows], THEIRS[rows]]),
    ):
        parts = torch.stack([loss(slice(0, 3)), loss(slice(3, 6))])
        torch.testing.assert_close(parts.mean(), loss(slice(0, 6)))


def test_a_pooled_layer_learns_from_the_mean() -> None:
    model = averaged_head(nn.ReLU())
    small = decompose.apply(Plan({"3": Choice("pool", 1)}), model)
    lesson = Objective(replace(NONE, features=1.0), small, model, labelled=False)
    images = torch.rand(2, 4, 12, 12)
    assert lesson.loss(small, images, LABELS)[0] < 1e-9
    with torch.no_grad():
        small.get_parameter("3.body.bias").add_(1)
    assert lesson.loss(small, images, LABELS)[0] > 1e-3


def test_labels_of_mixed_images_count_by_their_shares() -> None:
    _, small = models()
    mixture = Mixture(torch.tensor([1, 2, 3, 0]), torch.tensor([1.0, 0.5, 0.75, 0.9]))
    lesson = Objective(replace(NONE, labels=2.0, smoothing=0.1), small, None, True)
    images = mixture.applied(IMAGES)
    classes = F.one_hot(LABELS, small(IMAGES).shape[1]).float()
    shares = mixture.shares[:, None]
    soft = shares * classes + (1 - shares) * classes[mixture.partners]
    expected = F.cross_entropy(small(images), soft, label_smoothing=0.1)
    torch.testing.assert_close(lesson.loss(small, images, LABELS, mixture)[0], expected)
