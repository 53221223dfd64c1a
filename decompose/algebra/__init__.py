"""The algebra: a decomposed convolution is a small expression of ordinary ones.

``Conv``, ``Chain`` and ``Sum`` are the whole language. The operations on expressions are
written once, for every method and every combination of methods:

- :func:`compose` multiplies it back into one dense convolution,
- :func:`weight_deviation` measures that convolution's error against the original's,
- :func:`macs` and :func:`params` count its cost from the leaves,
- :func:`merged` and :func:`split_like` rewrite it into equal ones, :func:`balanced` into one whose
  factors are of equal size, :func:`equalized` into one that quantises well,
- :func:`run` evaluates it on an input, :func:`patches` and :func:`features` unfold the input
  for its kernels, so that a regression can refit them.

Tensors only: nothing here knows of modules or files. Tensors on the meta device serve as well,
so that shapes and costs follow from an expression that has no weights.
"""

from decompose.algebra.approximation_error import Deviation, is_exact, weight_deviation
from decompose.algebra.balancing import balanced
from decompose.algebra.channel_elimination import eliminations, keep_inputs_refitted
from decompose.algebra.channel_subsets import behind_selection, keep_inputs, keep_outputs
from decompose.algebra.composition import compose, with_groups
from decompose.algebra.costs import macs, output_size, params
from decompose.algebra.dtypes import at_least_float32, widened
from decompose.algebra.equalization import equalized, middle_ranges
from decompose.algebra.execution import run
from decompose.algebra.expressions import (
    Chain,
    Conv,
    Expression,
    Geometry,
    Sum,
    leaves,
    map_leaves,
    owned,
)
from decompose.algebra.finite import finite_rows
from decompose.algebra.kernel_gradients import ComposedKernel
from decompose.algebra.output_factors import (
    bias_of,
    features,
    last_factors,
    last_weights,
    scale_outputs,
    with_last_weights,
)
from decompose.algebra.patch_outputs import FactorOutputs, run_on_patches, truncations_on_patches
from decompose.algebra.rewrites import merge_branches, merged, split_branches, split_like
from decompose.algebra.svd import balanced_svd, gram_eigenvalues, thin_svd
from decompose.algebra.unfolding import (
    Subsampling,
    grouped_patches,
    on_patches,
    outputs_at,
    patches,
    patches_at,
    strided_outputs,
    subsampling_for,
)
from decompose.algebra.whitening import Whitening

__all__ = [
    "Chain",
    "ComposedKernel",
    "Conv",
    "Deviation",
    "Expression",
    "FactorOutputs",
    "Geometry",
    "Subsampling",
    "Sum",
    "Whitening",
    "at_least_float32",
    "balanced",
    "balanced_svd",
    "behind_selection",
    "bias_of",
    "compose",
    "eliminations",
    "equalized",
    "features",
    "finite_rows",
    "gram_eigenvalues",
    "grouped_patches",
    "is_exact",
    "keep_inputs",
    "keep_inputs_refitted",
    "keep_outputs",
    "last_factors",
    "last_weights",
    "leaves",
    "macs",
    "map_leaves",
    "merge_branches",
    "merged",
    "middle_ranges",
    "on_patches",
    "output_size",
    "outputs_at",
    "owned",
    "params",
    "patches",
    "patches_at",
    "run",
    "run_on_patches",
    "scale_outputs",
    "split_branches",
    "split_like",
    "strided_outputs",
    "subsampling_for",
    "thin_svd",
    "truncations_on_patches",
    "weight_deviation",
    "widened",
    "with_groups",
    "with_last_weights",
]
