"""Memory that the process keeps once it has freed it.

glibc gives large blocks back to the system at once and maps them afresh at the next request, so every
map that a model makes in torch costs as many page faults as it has pages. A small model makes
as large maps as the original in less time, and loses more of it.
"""

from __future__ import annotations

import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep what torch frees on the CPU for its next request, from now on and in the whole process.

    The process never shrinks then, and may grow somewhat larger than it would have. It is what glibc's
    environment variables ``MALLOC_MMAP_MAX_=0`` and ``MALLOC_TRIM_THRESHOLD_`` ask for.

    Returns:
        Whether the allocator listened; False where it is not glibc's.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    # Either of the first two stops mapping; older versions refuse so high a threshold.
    never_mapped = mallopt(_M_MMAP_MAX, 0) or mallopt(_M_MMAP_THRESHOLD, _NEVER)
    return bool(mallopt(_M_TRIM_THRESHOLD, _NEVER) and never_mapped)
