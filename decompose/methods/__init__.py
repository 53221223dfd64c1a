"""Methods of decomposition: functions from a convolution and a rank to an expression.

To add one, write its file beside the others and list it in ``METHODS``.
"""

from decompose.methods.base import Method
from decompose.methods.channel_decomposition import ChannelDecomposition
from decompose.methods.cp import CanonicalPolyadic
from decompose.methods.network_decoupling import DepthwisePointwise, PointwiseDepthwise
from decompose.methods.pca import PrincipalComponents, principal_components
from decompose.methods.spatial_decomposition import SpatialDecomposition
from decompose.methods.svd import TruncatedSVD
from decompose.methods.tucker import Tucker2
from decompose.utils.errors import DecomposeError

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        PointwiseDepthwise(),
        DepthwisePointwise(),
        SpatialDecomposition(),
        ChannelDecomposition(),
        Tucker2(),
        CanonicalPolyadic(),
        TruncatedSVD(),
    )
}

DEFAULT_METHOD = PointwiseDepthwise.name


def get_method(name: str) -> Method:
    """Get a method by its name.

    Raises:
        DecomposeError: there is none; the message lists those that exist.

    Example:
        >>> get_method("pw_dw").title
        'network decoupling, PW+DW'
    """
    try:
        return METHODS[name]
    except KeyError:
        raise DecomposeError(
            f"no method is called {name!r}; there are: {', '.join(METHODS)}"
        ) from None


__all__ = [
    "DEFAULT_METHOD",
    "METHODS",
    "Method",
    "PrincipalComponents",
    "get_method",
    "principal_components",
]
