"""The C library's heap, told to keep what a training step frees: the next step asks for the same sizes again.

By default glibc gives each large block back to the system at once, and the next of its size comes as fresh pages, each of which costs a fault and is zeroed: a third of a
step on a CPU whose products are fast.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4
"""Numbers of malloc.h."""
_LARGEST_THRESHOLD = 32 << 20
"""glibc takes no larger one."""


def keep_memory(*, large: bool) -> bool:
    """Give nothing back for the rest of the process.

    Args:
        large: blocks above 32 MiB are kept too. That costs none where each step asks for the same ones, and half as much memory again where
            flat copies of all weights come and go, as they do where DeepSpeed partitions.

    Returns:
        False where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = mallopt(_M_MMAP_MAX, 0) if large else mallopt(_M_MMAP_THRESHOLD, _LARGEST_THRESHOLD)
    return bool(kept and mallopt(_M_TRIM_THRESHOLD, -1))
