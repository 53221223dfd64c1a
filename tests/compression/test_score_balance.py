"""What all classes have in common counts no more than its share."""

import torch
from torch import nn

import decompose
from decompose.compression.score_balance import ScoreBalance


def test_a_common_part_is_scaled_to_the_energy_of_one_class() -> None:
    scores = torch.randn(200, 10) + 50 + 5 * torch.randn(200, 1)
    (balanced,) = ScoreBalance.of([scores]).applied([scores])
    apart = scores - scores.mean(1, keepdim=True)
    torch.testing.assert_close(
        balanced - balanced.mean(1, keepdim=True), apart, rtol=1e-4, atol=1e-4
    )
    common = 10 * balanced.mean(1).square().sum()
    torch.testing.assert_close(common, apart.square().sum() / 9, rtol=1e-3, atol=0.0)


def test_other_outputs_are_left_as_they_are() -> None:
    few = torch.randn(50, 10)
    others = [
        few - 0.5 * few.mean(1, keepdim=True),
        torch.randn(4, 8, 5, 5) + 50,
        torch.randn(6, 1) + 50,
        torch.tensor([[1.0, float("-inf")]]),
        torch.full((3, 4), 2.0),
    ]
    balance = ScoreBalance.of(others)
    assert all(a is b for a, b in zip(balance.applied(others), others, strict=True))


def test_a_classifier_with_a_large_common_part_is_planned_as_one_without() -> None:
    torch.manual_seed(0)

    def model(offset: float) -> nn.Module:
        layers = [nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU()]
        last = nn.Linear(32, 20)
        built = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)
        built.load_state_dict(state or built.state_dict())
        state.update({name: tensor.clone() for name, tensor in built.state_dict().items()})
        with torch.no_grad():
            last.bias.add_(offset)
        return built.eval()

    state: dict[str, torch.Tensor] = {}
    images = torch.randn(16, 3, 16, 16)
    plans = [
        decompose.plan(model(offset), images[:1], macs=0.5, calibrate=images)
        for offset in (0.0, 100.0)
    ]
    errors = [sum(note.error for note in plan.notes.values()) for plan in plans]
    assert 0.5 < errors[0] / errors[1] < 2
