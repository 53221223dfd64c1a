"""Losses equal their definitions, and a batch's is the mean of its parts'."""

import torch

from decompose.training.losses import (
    distillation,
    feature_distance,
    output_distance,
    relative_error,
)

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


def test_relative_error_is_a_pictures() -> None:
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
