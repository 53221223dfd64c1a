"""Every public name has an example in its docstring, and every example runs."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest

import decompose
from decompose.inference import allocator

FACES = ["decompose", "decompose.algebra", "decompose.methods"]
"""Packages whose ``__all__`` is public."""

PUBLIC = [
    pytest.param(getattr(module, name), id=f"{face}.{name}")
    for face in FACES
    for module in [importlib.import_module(face)]
    for name in module.__all__
    if inspect.isroutine(getattr(module, name)) or inspect.isclass(getattr(module, name))
]

PACKAGE = Path(decompose.__file__).parent

WITH_EXAMPLES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>>" in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("public", PUBLIC)
def test_every_public_name_has_an_example(public: object) -> None:
    assert doctest.DocTestParser().get_examples(inspect.getdoc(public) or "")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_every_example_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Else the tests that follow in this process would keep all memory.
    monkeypatch.setattr(allocator, "ctypes", SimpleNamespace(CDLL=lambda _: None))
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted
    assert not result.failed
