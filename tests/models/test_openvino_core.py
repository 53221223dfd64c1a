"""One core for the process."""

import pytest

from decompose.models.openvino_core import openvino_core


def test_the_core_is_made_once() -> None:
    pytest.importorskip("openvino")
    assert openvino_core() is openvino_core()
