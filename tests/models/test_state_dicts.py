"""State dicts that do not fit a model, and what the message says to do."""

import pytest
import torchvision
from torch import nn

from decompose.models.state_dicts import completed
from decompose.utils.errors import DecomposeError


@pytest.mark.parametrize("build", [torchvision.models.resnet18, torchvision.models.mobilenet_v2])
def test_another_number_of_classes_is_named(build) -> None:
    state = build(num_classes=7).state_dict()
    with pytest.raises(DecomposeError, match=r"; give the architecture num_classes=7$"):
        completed(build(num_classes=4), state, "a.pth")


def test_other_misfits_have_no_hint() -> None:
    wide, narrow = (nn.Sequential(nn.Linear(3, n), nn.Linear(n, 2)) for n in (8, 4))
    with pytest.raises(DecomposeError, match="wrong shapes") as caught:
        completed(narrow, wide.state_dict(), "a.pth")
    assert "num_classes" not in str(caught.value)
    with pytest.raises(DecomposeError, match="missing keys") as caught:
        completed(nn.Linear(3, 2), {"weight": nn.Linear(3, 5).weight.data}, "a.pth")
    assert "num_classes" not in str(caught.value)
