"""The C library's heap, told to keep what a training step frees: the next step asks for the same sizes again.

By default glibc gives each large block back to the system at once, and the next of its size comes as fresh pages, each of which costs a fault and is zeroed: a third of a
step on a CPU whose products are fast.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
"""Numbers of malloc.h."""


def keep_memory() -> bool:
    """No block of its own mapping, and nothing given back; for the rest of the process. False where the C library is not glibc."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, -1))
