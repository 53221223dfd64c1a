"""Points of a sweep."""

import pytest

from decompose import DecomposeError
from decompose.evaluation.sweep.points import SweepPoint, sweep_points


def test_every_share_is_tried_in_every_way() -> None:
    points = sweep_points(
        {"macs": (0.75, 0.5), "latency": (0.5,)},
        on_images=(True, False),
        methods=((), ("spatial", "channel+pw_dw")),
    )
    names = [point.name for point in points]
    assert len(set(names)) == len(names) == 12
    assert names[:3] == ["macs-0.75-images", "macs-0.5-images", "latency-0.5-images"]
    assert SweepPoint("macs", 0.5, False, ("spatial", "channel+pw_dw")) in points
    assert len({point.family for point in points}) == 4


@pytest.mark.parametrize(
    ("shares", "options", "message"),
    [
        ({}, {}, "a sweep needs shares of macs, params, latency"),
        ({"macs": (0.5, 1.5)}, {}, r"macs 1\.5 is out of bounds"),
        ({"macs": (0.5, 0.50)}, {}, "given twice"),
        ({"watts": (0.5,)}, {}, "budget 'watts'"),
        ({"macs": (0.5,)}, {"methods": (("nothing",),)}, "no method is called 'nothing'"),
    ],
)
def test_points_that_are_none(shares: dict, options: dict, message: str) -> None:
    with pytest.raises(DecomposeError, match=message):
        sweep_points(shares, **options)
