"""Expressions as torch modules, and torch modules as expressions.

The leaves become plain ``torch.nn.Conv*d``, so that state dicts, ``torch.compile``, automatic
mixed precision, DDP and export see nothing unusual.
"""

from __future__ import annotations

from functools import reduce
from math import prod

from torch import Tensor, nn

from decompose.algebra import Chain, Conv, Expression, Geometry, Sum, macs
from decompose.algebra.execution import swap_transposed_layout
from decompose.errors import DecomposeError

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""The modules that are convolutions of the algebra: by number of axes, transposed ones last."""

AnyConv = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)


class Branches(nn.ModuleList):
    """Modules side by side on one input, their outputs added."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches' outputs."""
        # In place: each fresh output costs as many page faults as it has pages. No convolution
        # needs its own output for the gradient, so autograd does not mind.
        outputs = (branch(x) for branch in self)
        return reduce(Tensor.add_, outputs)


class DecomposedConv(nn.Module):
    """A convolution rewritten by a method.

    Args:
        original: the convolution that it stands for; its attributes are copied for readers.
        expression: what the method made of it.
        method: the method's name.
        rank: its rank.
    """

    def __init__(self, original: AnyConv, expression: Expression, method: str, rank: int) -> None:
        super().__init__()
        self.in_channels = original.in_channels
        self.out_channels = original.out_channels
        self.kernel_size = original.kernel_size
        self.stride = original.stride
        self.padding = original.padding
        self.dilation = original.dilation
        self.groups = original.groups
        self.method = method
        self.rank = rank
        self.body = to_module(expression)

    @property
    def expression(self) -> Expression:
        """The expression that it computes now, sharing its weights."""
        return to_expression(self.body)

    def forward(self, x: Tensor) -> Tensor:
        """``(batch, in_channels, *input_size)`` to ``(batch, out_channels, *output_size)``."""
        return self.body(x)

    def extra_repr(self) -> str:
        """Show the method and rank where the module is printed."""
        return f"method={self.method}, rank={self.rank}"


def to_expression(module: nn.Module) -> Expression:
    """Read a module back as an expression, detached, sharing its weights.

    Args:
        module: a convolution, a ``Sequential`` or ``Branches`` of such, or a ``DecomposedConv``.

    Raises:
        TypeError: the module, or one inside it, is none of these.
    """
    if isinstance(module, CONVOLUTIONS):
        return to_conv(module)
    if isinstance(module, DecomposedConv):
        return module.expression
    if isinstance(module, nn.Sequential):
        return Chain(*(to_expression(part) for part in module))
    if isinstance(module, Branches):
        return Sum(*(to_expression(part) for part in module))
    raise TypeError(f"a {type(module).__name__} is no expression of convolutions")


def to_conv(module: AnyConv) -> Conv:
    """Read a convolution module as a ``Conv``, detached, sharing its weights."""
    weight = module.weight.detach()
    if module.transposed:
        weight = swap_transposed_layout(weight, module.groups)
    bias = None if module.bias is None else module.bias.detach()
    return Conv(weight, bias, _geometry(module), module.groups)


def to_module(expression: Expression) -> nn.Module:
    """Build the module that computes an expression; its parameters share the tensors given.

    Raises:
        DecomposeError: torch has no module for a leaf, because its padding is asymmetric and not
            what ``padding='same'`` does.
    """
    if isinstance(expression, Conv):
        return _to_conv_module(expression)
    parts = [to_module(part) for part in expression.parts]
    return nn.Sequential(*parts) if isinstance(expression, Chain) else Branches(parts)


def layer_macs(module: nn.Module, input_shape: tuple[int, ...]) -> int:
    """MACs of one call of a convolution, a ``DecomposedConv`` or a fully connected layer.

    Args:
        module: the layer.
        input_shape: of the whole input tensor, batch included.
    """
    if isinstance(module, nn.Linear):
        return prod(input_shape[:-1]) * module.weight.numel()
    expression = to_expression(module)
    num_axes = len(module.kernel_size)  # type: ignore[arg-type]
    return prod(input_shape[: -num_axes - 1]) * macs(expression, input_shape[-num_axes:])


def _geometry(module: AnyConv) -> Geometry:
    if module.padding == "valid":
        padding = ((0, 0),) * len(module.kernel_size)
    elif isinstance(module.padding, str):
        padding = tuple(
            (reach // 2, reach - reach // 2)
            for reach in (
                dilation * (taps - 1)
                for dilation, taps in zip(module.dilation, module.kernel_size, strict=True)
            )
        )
    else:
        padding = tuple((width, width) for width in module.padding)
    return Geometry(
        tuple(module.stride),
        padding,
        tuple(module.dilation),
        module.padding_mode,
        module.transposed,
        tuple(module.output_padding),
    )


def _to_conv_module(conv: Conv) -> AnyConv:
    g = conv.geometry
    options = {
        "kernel_size": conv.kernel_size,
        "stride": g.stride,
        "padding": _module_padding(conv),
        "dilation": g.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": g.padding_mode,
        "device": "meta",
    }
    kind, weight = CONVOLUTIONS[g.num_axes - 1], conv.weight
    if g.transposed:
        kind, weight = CONVOLUTIONS[g.num_axes + 2], swap_transposed_layout(weight, conv.groups)
        options["output_padding"] = g.output_padding
    module = kind(conv.in_channels, conv.out_channels, **options)
    module.weight = nn.Parameter(weight)
    if conv.bias is not None:
        module.bias = nn.Parameter(conv.bias)
    return module


def _module_padding(conv: Conv) -> str | tuple[int, ...]:
    g = conv.geometry
    if not g.is_asymmetric:
        return tuple(before for before, _ in g.padding)
    reaches = [d * (taps - 1) for d, taps in zip(g.dilation, conv.kernel_size, strict=True)]
    if set(g.stride) == {1} and g.padding == tuple((r // 2, r - r // 2) for r in reaches):
        return "same"
    raise DecomposeError(
        f"torch.nn has no convolution with padding {g.padding}: it must be symmetric or 'same'"
    )
