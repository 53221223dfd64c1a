"""Inputs that two classifiers put in the same class."""

from __future__ import annotations

import doctest

import torch
from torch import nn

from decompose.evaluation import agreement
from decompose.evaluation.agreement import class_agreement


def test_classes_are_compared_input_by_input() -> None:
    model = nn.Linear(3, 3, bias=False)
    other = nn.Linear(3, 3, bias=False)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        other.weight.copy_(torch.eye(3)[[0, 2, 1]])
    found = class_agreement(model, other, torch.eye(3))
    assert found is not None
    assert (found.num_same, found.num) == (1, 3)
    assert found.is_alarming
    same = class_agreement(model, model, [torch.eye(3), torch.eye(3)])
    assert same is not None
    assert (same.share, same.num, same.is_alarming) == (1.0, 6, False)


def test_other_outputs_have_no_classes() -> None:
    model = nn.Conv2d(3, 4, 1)
    assert class_agreement(model, model, torch.rand(2, 3, 4, 4)) is None
    assert class_agreement(nn.Linear(3, 1), nn.Linear(3, 1), torch.rand(2, 3)) is None


def test_examples_run() -> None:
    assert doctest.testmod(agreement).failed == 0
