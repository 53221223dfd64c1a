"""Bind the functions that a model holds to the modules of its copy.

``copy.deepcopy`` takes a function as it is: in the copy of a model with a hook defined inside ``__init__``,
or with ``self.block = lambda x: self.b(x)``, it would still run the original's layers. Here such functions
are made anew, each module in their closures and defaults replaced by its copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

_REGISTRIES = {"_parameters", "_buffers", "_modules"}


def rebind_closures_(
    model: nn.Module, copies: Mapping[int, Any], replacements: Iterable[nn.Module] = ()
) -> None:
    """Bind the functions that a copied model holds to the copy, in place.

    Args:
        model: a copy.
        copies: the copy of each object of the original, by ``id``.
        replacements: modules of the copy that are new; their functions are left as they are.

    >>> import copy
    >>> def network():
    ...     model = nn.Sequential(nn.ReLU())
    ...     model.block = lambda x: model[0](x)
    ...     return model
    >>> model, memo = network(), {}
    >>> twin = copy.deepcopy(model, memo)
    >>> twin.block.__closure__[0].cell_contents is twin
    False
    >>> rebind_closures_(twin, memo)
    >>> twin.block.__closure__[0].cell_contents is twin
    True
    """
    binder = _Binder(copies)
    others = {id(part) for module in replacements for part in module.modules()}
    for module in model.modules():
        if id(module) in others:
            continue
        attributes = vars(module)
        for name in attributes.keys() - _REGISTRIES:
            attributes[name] = binder.bound(attributes[name])


class _Binder:
    """Makes copies of functions, one of each."""

    def __init__(self, copies: Mapping[int, Any]) -> None:
        self._copies = copies
        # The originals are kept, so that no other object takes the identity of one.
        self._done: dict[int, tuple[Any, Any]] = {}

    def bound(self, value: Any) -> Any:
        """The counterpart of a value in the copy: itself, unless it is bound to the original."""
        if isinstance(value, nn.Module | Tensor):
            return self._copies.get(id(value), value)
        if id(value) not in self._done:
            # Itself, where it leads back to itself.
            self._done[id(value)] = value, value
            self._done[id(value)] = value, self._made(value)
        return self._done[id(value)][1]

    def _made(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._function(value)
        if isinstance(value, MethodType):
            owner, function = self.bound(value.__self__), self.bound(value.__func__)
            name = value.__name__
            if isinstance(owner, nn.Module) and not hasattr(type(owner), name):
                return value
            if isinstance(owner, nn.Module) and function not in _inherited(owner, name):
                # Of the layer that replaces its owner.
                return getattr(owner, name)
            is_same = owner is value.__self__ and function is value.__func__
            return value if is_same else MethodType(function, owner)
        if isinstance(value, partial):
            parts = self.bound((value.func, value.args, value.keywords))
            is_same = all(a is b for a, b in zip(parts, _parts(value), strict=True))
            return value if is_same else partial(parts[0], *parts[1], **parts[2])
        if isinstance(value, dict):
            # In place: handles of hooks refer to their dictionary.
            for key in value:
                value[key] = self.bound(value[key])
        elif isinstance(value, list):
            value[:] = [self.bound(item) for item in value]
        elif type(value) is tuple:
            found = tuple(self.bound(item) for item in value)
            return value if all(a is b for a, b in zip(found, value, strict=True)) else found
        return value

    def _function(self, function: FunctionType) -> FunctionType:
        cells = function.__closure__ or ()
        contents = [_content(cell) for cell in cells]
        held = (
            *contents,
            *(function.__defaults__ or ()),
            *(function.__kwdefaults__ or {}).values(),
        )
        if all(self._is_same(item) for item in held):
            return function
        made = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            tuple(map(self.bound, function.__defaults__ or ())) or None,
            tuple(
                cell if self._is_same(content) else CellType(self.bound(content))
                for cell, content in zip(cells, contents, strict=True)
            ),
        )
        made.__kwdefaults__ = {
            name: self.bound(item) for name, item in (function.__kwdefaults__ or {}).items()
        } or None
        made.__dict__.update(function.__dict__)
        return made

    def _is_same(self, held: Any) -> bool:
        # Other contents of a closure, such as a list of results, are shared with the original.
        is_bound = isinstance(held, nn.Module | Tensor | FunctionType | MethodType | partial)
        return not is_bound or self.bound(held) is held


def _parts(function: partial[Any]) -> tuple[Any, ...]:
    return function.func, function.args, function.keywords


def _inherited(owner: nn.Module, name: str) -> list[Any]:
    return [kind.__dict__.get(name) for kind in type(owner).__mro__]


def _content(cell: CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
