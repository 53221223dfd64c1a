"""Which layers end in a ReLU, and only there."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from decompose.layers.relu import Rectifier
from decompose.layers.survey import survey

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
VECTORS = st.lists(st.floats(-3, 3, width=32), min_size=4, max_size=4).map(torch.tensor)


class Both(nn.Module):
    """Three layers: one rectified by a function, one read by a sum as well, one the output."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.added = nn.Conv2d(3, 3, 1)
        self.last = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to the same."""
        x = functional.relu(self.conv(x))
        y = self.added(x)
        return self.last(functional.relu(y) + y)


class Reused(nn.Module):
    """One layer, normalised in two ways."""

    def __init__(self, *, alike: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(2))
        if not alike:
            nn.init.constant_(self.norms[1].weight, 2)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, 3, H, W)`` to the same."""
        for norm in self.norms:
            x = norm(self.conv(x)).relu()
        return x


def found(model: nn.Module, x: Tensor = X) -> set[str]:
    names = [
        name
        for name, m in model.named_modules()
        if isinstance(m, nn.Conv2d | nn.Conv1d | nn.Linear)
    ]
    return set(survey(model, x).rectifiers(names))


def test_only_what_nothing_else_reads() -> None:
    assert found(Both()) == {"conv"}


@pytest.mark.parametrize(
    ("after", "is_rectified"),
    [
        (nn.ReLU(), True),
        (nn.ReLU(inplace=True), True),
        (nn.ReLU6(inplace=True), True),
        (nn.Hardtanh(), False),
        (nn.LeakyReLU(), False),
        (nn.Sequential(nn.BatchNorm2d(4), nn.ReLU(inplace=True)), True),
        (nn.Sequential(nn.BatchNorm2d(4, affine=False), nn.ReLU()), True),
        (nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()), False),
        (nn.Sequential(nn.BatchNorm2d(4), nn.GELU()), False),
        (nn.MaxPool2d(2), False),
        (nn.Identity(), False),
    ],
)
def test_what_follows(after: nn.Module, is_rectified: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), after, nn.AvgPool2d(2))
    assert found(model) == ({"0"} if is_rectified else set())
    assert model.training


def test_one_layer_in_two_positions() -> None:
    assert found(Reused(alike=True)) == {"conv"}
    assert found(Reused(alike=False)) == set()


def test_a_fully_connected_layer_over_a_sequence() -> None:
    model = nn.Sequential(nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 2))
    rectifier = survey(model, X[:, 0]).rectifiers(["0", "2"])
    assert set(rectifier) == {"0"}
    assert rectifier["0"].slope.shape == (5,)


def test_a_normalisation_shifts_the_threshold() -> None:
    norm = nn.BatchNorm2d(4)
    for tensor in (norm.weight, norm.bias, norm.running_mean):
        nn.init.normal_(tensor)  # type: ignore[arg-type]
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU()).eval()
    rectifier = survey(model, X).rectifiers(["0"])["0"]
    with torch.no_grad():
        outputs = model[0](X)
        torch.testing.assert_close(rectifier.read(outputs.movedim(1, -1)), model(X).movedim(1, -1))


@given(VECTORS, VECTORS, VECTORS, VECTORS)
def test_targets_bound_the_rectified_error(
    slope: Tensor, offset: Tensor, wanted: Tensor, given: Tensor
) -> None:
    slope = torch.where(slope.abs() < 0.1, 1.0, slope)
    rectifier = Rectifier(slope, offset)
    targets = rectifier.targets(wanted, given)
    torch.testing.assert_close(rectifier.read(targets), rectifier.read(wanted))
    moved = torch.linspace(-2, 2, 9).unsqueeze(1) + given
    real = rectifier.read(moved) - rectifier.read(wanted)
    bound = slope * (moved - targets)
    assert (real.abs() <= bound.abs() + 1e-4).all()


@given(VECTORS, VECTORS, VECTORS)
def test_the_nearest_outputs_that_a_relu_cuts_off(
    slope: Tensor, offset: Tensor, outputs: Tensor
) -> None:
    slope = torch.where(slope.abs() < 0.1, 0.0, slope)
    rectifier = Rectifier(slope, offset)
    cut_off = rectifier.cut_off(outputs)
    assert cut_off.isfinite().all()
    moves = rectifier.passes(outputs) & (slope != 0)
    torch.testing.assert_close(
        cut_off[~rectifier.passes(outputs)], outputs[~rectifier.passes(outputs)]
    )
    torch.testing.assert_close(slope[moves] * cut_off[moves], -offset[moves])


def test_outputs_that_are_no_numbers_stay_so() -> None:
    rectifier = Rectifier(torch.tensor([1.0, 0.0]), torch.tensor([0.5, -1.0]))
    assert rectifier.cut_off(torch.full((2,), torch.nan)).isnan().all()
