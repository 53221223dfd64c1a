"""Convert expressions to torch modules, and torch modules to expressions.

The leaves become plain ``torch.nn.Conv*d``, so that state dicts, ``torch.compile``, automatic
mixed precision, DDP and export see nothing unusual.
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor, nn

from decompose.algebra import (
    Chain,
    Conv,
    Expression,
    Geometry,
    Sum,
    bias_of,
    compose,
    map_leaves,
    run,
    split_like,
)
from decompose.algebra.execution import mean_over_positions, swap_transposed_layout
from decompose.layers.cache_blocking import ReceptiveField, run_in_pieces
from decompose.layers.execution_forms import DEFAULT_FORM, get_form
from decompose.methods.choices import Choice, Note
from decompose.utils.errors import DecomposeError

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
"""The modules that are convolutions of the algebra: by number of axes, transposed ones last."""

DECOMPOSABLE = (*CONVOLUTIONS, nn.Linear)
"""The modules that can be decomposed; a fully connected layer is a convolution without axes."""

Convolution = (
    nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
)

Decomposable = Convolution | nn.Linear

# Attributes that other code reads from a convolution or fully connected layer.
_COPIED = (
    "in_channels",
    "out_channels",
    "kernel_size",
    "stride",
    "padding",
    "dilation",
    "groups",
    "in_features",
    "out_features",
)


class PooledConv1d(nn.Conv1d):
    """A pointwise convolution of the mean over all positions; its output has one."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(batch, I, L)`` to ``(batch, O, 1)``."""
        return super().forward(mean_over_positions(input))


class PooledConv2d(nn.Conv2d):
    """As ``PooledConv1d``, of images."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(batch, I, H, W)`` to ``(batch, O, 1, 1)``."""
        return super().forward(mean_over_positions(input))


class PooledConv3d(nn.Conv3d):
    """As ``PooledConv1d``, of volumes."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``(batch, I, D, H, W)`` to ``(batch, O, 1, 1, 1)``."""
        return super().forward(mean_over_positions(input))


_POOLED = (PooledConv1d, PooledConv2d, PooledConv3d)


class Branches(nn.ModuleList):
    """Modules side by side on one input, with their outputs added."""

    def forward(self, x: Tensor) -> Tensor:
        """Add the branches' outputs."""
        # In place: each fresh output costs as many page faults as it has pages. No convolution
        # needs its own output for the gradient, so autograd does not mind.
        outputs = (branch(x) for branch in self)
        return reduce(Tensor.add_, outputs)


class DecomposedLayer(nn.Module):
    """A convolution or fully connected layer decomposed by a method.

    Args:
        original: the layer that it replaces; its attributes are copied for readers.
        expression: the layer as the method rewrote it.
        choice: the method and rank.
        note: its predicted cost and error, for readers.

    Attributes:
        is_made_in_turn: whether its factors were made of another decomposed layer's, not of the kernel.
        trains_composed: whether it runs as the dense kernel that its factors compose to wherever gradients
            are needed; they reach the factors all the same.
    """

    def __init__(
        self,
        original: Layer,
        expression: Expression,
        choice: Choice,
        note: Note | None = None,
    ) -> None:
        super().__init__()
        copy_attributes(original, self)
        self.choice = choice
        self.note = note
        self.form = DEFAULT_FORM
        self.is_made_in_turn = False
        self.trains_composed = False
        self.body = to_module(expression)
        self._made = map_leaves(Conv.without_weights, expression)
        self._reach = ReceptiveField.of(expression)
        self._num_axes = to_conv(original).geometry.num_axes

    @property
    def expression(self) -> Expression:
        """The expression that the layer computes now, in its form, sharing its weights."""
        return to_expression(self.body)

    @property
    def factors(self) -> Expression | None:
        """The expression with its factors as its choice names them; ``None`` if recomposed for good."""
        return None if self.form == "dense" else split_like(self.expression, self._made)

    @property
    def weight(self) -> Tensor:
        """The dense kernel that the layer replaces, in torch's layout, composed each time it is read.

        No parameter: for modules that look at a layer's weight now and then, such as for its device.
        Those that do so in each call save nothing; ``plan`` leaves their layers dense (``consumers``).

        Raises:
            AttributeError: a module inside is no convolution.
        """
        conv = compose(self._differentiable())
        is_transposed = conv.geometry.transposed
        return swap_transposed_layout(conv.weight, conv.groups) if is_transposed else conv.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias that its branches add together, as ``weight``."""
        return bias_of(self._differentiable())

    def _differentiable(self) -> Expression:
        try:
            return to_expression(self.body, differentiable=True)
        except TypeError as error:
            raise AttributeError(str(error)) from None

    def take_form(self, name: str) -> None:
        """Run in another form (``execution_forms``) from now on; its parameters are new ones.

        Raises:
            DecomposeError: there is no such form, or the layer is ``dense`` already.
        """
        form = get_form(name)
        if name == self.form:
            return
        if self.form == "dense":
            raise DecomposeError("it was multiplied back into one convolution for good")
        expression = form.rewrite(split_like(self.expression, self._made))
        body = to_module(expression)
        trained = any(parameter.requires_grad for parameter in self.body.parameters())
        body.requires_grad_(trained).train(self.training)
        if is_channels_last(self.body):
            body.to(memory_format=torch.channels_last)
        self.form, self.body, self._reach = name, body, ReceptiveField.of(expression)

    def assign(self, expression: Expression) -> None:
        """Take the weights of another expression of its choice, and the bias it has gained.

        Args:
            expression: as the method makes it, or in the layer's form already.
        """
        made = to_module(get_form(self.form).rewrite(expression))
        for leaf, other in zip(self.body.modules(), made.modules(), strict=True):
            if isinstance(leaf, DECOMPOSABLE) and leaf.bias is None and other.bias is not None:
                give_bias(leaf)
        self.body.load_state_dict(made.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, in_channels, *input_size)`` to ``(batch, out_channels, *output_size)``.

        On a CPU, and without gradients, large inputs are run in pieces (``cache_blocking``), which computes
        a few rows twice.
        """
        if self.trains_composed and torch.is_grad_enabled():
            # In half precision the kernel itself would lose digits.
            with torch.autocast(x.device.type, enabled=False):
                kernel = compose(self._differentiable())
            return run(kernel, x)
        in_whole = (
            not get_form(self.form).in_pieces
            or torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or torch.is_autocast_enabled(x.device.type)
            or x.device.type != "cpu"
            or not 0 < self._num_axes == x.ndim - 2
        )
        return self.body(x) if in_whole else run_in_pieces(self.body, x, self._reach)

    def extra_repr(self) -> str:
        """Show the method and rank where the module is printed."""
        form = "" if self.form == DEFAULT_FORM else f", form={self.form}"
        return f"method={self.choice.label}, rank={self.choice.rank_label}{form}"


Layer = Decomposable | DecomposedLayer
"""A layer that a plan may rewrite; decomposed ones again."""


def copy_attributes(layer: nn.Module, other: nn.Module) -> None:
    """Copy the sizes of a layer to another module, but no weights, for readers."""
    for name in _COPIED:
        if hasattr(layer, name):
            setattr(other, name, getattr(layer, name))


def to_expression(module: nn.Module, *, differentiable: bool = False) -> Expression:
    """Convert a module to an expression that shares its weights.

    Args:
        module: a convolution, a ``Sequential`` or ``Branches`` of such, or a ``DecomposedLayer``.
        differentiable: whether gradients go back to the module's parameters.

    Raises:
        TypeError: the module, or one inside it, is none of these.
    """
    if isinstance(module, DECOMPOSABLE):
        return to_conv(module, differentiable=differentiable)
    if isinstance(module, DecomposedLayer):
        return to_expression(module.body, differentiable=differentiable)
    if isinstance(module, nn.Sequential | Branches):
        parts = (to_expression(part, differentiable=differentiable) for part in module)
        return Chain(*parts) if isinstance(module, nn.Sequential) else Sum(*parts)
    raise TypeError(f"a {type(module).__name__} is no expression of convolutions")


def to_conv(module: Layer, *, differentiable: bool = False) -> Conv:
    """Convert a convolution or fully connected module to a ``Conv`` that shares its weights.

    Args:
        module: the layer; the factors of a decomposed one are multiplied back.
        differentiable: whether gradients go back to its parameters.
    """
    if isinstance(module, DecomposedLayer):
        return compose(to_expression(module, differentiable=differentiable))
    weight, bias = module.weight, module.bias
    if not differentiable:
        weight, bias = weight.detach(), None if bias is None else bias.detach()
    if isinstance(module, nn.Linear):
        return Conv(weight, bias)
    if module.transposed:
        weight = swap_transposed_layout(weight, module.groups)
    return Conv(weight, bias, _geometry(module), module.groups)


def to_module(expression: Expression) -> nn.Module:
    """Build the module that computes an expression; its parameters share the tensors given.

    Raises:
        DecomposeError: torch has no module for a leaf, because its padding is asymmetric and not
            that of ``padding='same'``.
    """
    if isinstance(expression, Conv):
        return _to_leaf_module(expression)
    parts = [to_module(part) for part in expression.parts]
    return nn.Sequential(*parts) if isinstance(expression, Chain) else Branches(parts)


def give_bias(leaf: Decomposable) -> None:
    """Add a bias of zeros to a convolution or fully connected module without one."""
    outputs = leaf.out_features if isinstance(leaf, nn.Linear) else leaf.out_channels
    bias = nn.Parameter(leaf.weight.new_zeros(outputs), leaf.weight.requires_grad)
    leaf.register_parameter("bias", bias)


def is_channels_last(module: nn.Module) -> bool:
    """Whether the kernels of a module lie in channels-last order and no other."""
    return any(
        weight.ndim == 4
        and weight.is_contiguous(memory_format=torch.channels_last)
        and not weight.is_contiguous()
        for weight in module.parameters()
    )


def _geometry(module: Convolution) -> Geometry:
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
        isinstance(module, _POOLED),
    )


def _to_leaf_module(conv: Conv) -> Decomposable:
    g = conv.geometry
    if g.num_axes == 0:
        return _filled(
            nn.Linear(conv.in_channels, conv.out_channels, device="meta"), conv.weight, conv.bias
        )
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
    kind, weight = (_POOLED if g.pooled else CONVOLUTIONS)[g.num_axes - 1], conv.weight
    if g.transposed:
        kind, weight = CONVOLUTIONS[g.num_axes + 2], swap_transposed_layout(weight, conv.groups)
        options["output_padding"] = g.output_padding
    return _filled(kind(conv.in_channels, conv.out_channels, **options), weight, conv.bias)


def _filled(module: Decomposable, weight: Tensor, bias: Tensor | None) -> Decomposable:
    module.weight = nn.Parameter(weight)
    module.register_parameter("bias", None if bias is None else nn.Parameter(bias))
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
