"""Keep freed memory in the process instead of returning it to the system.

glibc returns large blocks to the system at once and maps them afresh at the next request, so every
feature map that torch allocates costs as many page faults as it has pages. A decomposed model has
feature maps as large as the original's in less time, so that page faults take a larger share of it.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep the memory that torch frees on the CPU for its next request, in the whole process.

    The process never shrinks then, and may grow somewhat larger than it would have. glibc's environment
    variables ``MALLOC_MMAP_MAX_=0`` and ``MALLOC_TRIM_THRESHOLD_`` have the same effect.

    Returns:
        Whether the allocator accepted the setting; False where it is not glibc's.

    Examples:
        >>> import decompose
        >>> kept = decompose.keep_freed_memory()  # once, before the first model runs
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Either of the first two stops mapping; older versions refuse so high a threshold.
    never_mapped = mallopt(_M_MMAP_MAX, 0) or mallopt(_M_MMAP_THRESHOLD, _NEVER)
    return bool(mallopt(_M_TRIM_THRESHOLD, _NEVER) and never_mapped)
