"""Settings of glibc malloc that keep freed memory in the process during training."""

import ctypes
import platform
from collections.abc import Iterator
from contextlib import contextmanager

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # mallopt(3)
MOST_MMAP_THRESHOLD = 32 << 20  # the largest value before glibc 2.35, and of its dynamic rule


@contextmanager
def keeping_freed_memory() -> Iterator[None]:
    """Keeps freed memory in the process within the block, then returns it to the system. Without glibc it does nothing.

    Each pass frees and allocates the same large blocks. A block returned to the system in between would have to be
    cleared page by page before its next use. Threads that start within the block share one arena.

    Source: ours; 8% more tokens/s on two cores (benchmarks/LOG.md).
    """
    if platform.libc_ver()[0] != "glibc":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_ARENA_MAX, 1)
    libc.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
    if not libc.mallopt(M_MMAP_THRESHOLD, 1 << 30):
        libc.mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
    try:
        yield
    finally:
        libc.mallopt(M_MMAP_THRESHOLD, MOST_MMAP_THRESHOLD)
        libc.mallopt(M_TRIM_THRESHOLD, 2 * MOST_MMAP_THRESHOLD)
        libc.malloc_trim(0)
