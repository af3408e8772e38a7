"""Memory of passes: what a CPU's malloc keeps, and passes in parts where a GPU runs out of memory."""

import ctypes
import platform
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from ownlm.errors import DeviceMemoryError

Item = TypeVar("Item")
Result = TypeVar("Result")

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


def in_halves(
    run: Callable[[Sequence[Item]], Result], items: Sequence[Item], what: str, size: Callable[[Item], int]
) -> Iterator[Result]:
    """Runs a pass over items at once; where memory runs out, over each half of them, down to one item.

    Args:
        run: runs a pass over one item or more. What it began must not outlast an error.
        items: at least one.
        what: one item, for the message.
        size: number of an item's tokens, for the message.

    Yields:
        The results, in the order of the items.

    Raises:
        DeviceMemoryError: one item alone does not fit.
    """
    try:
        result = run(items)
    except torch.OutOfMemoryError as error:
        if len(items) == 1:
            raise DeviceMemoryError(
                f"{what} does not fit into the memory of the device",
                got=f"{size(items[0])} tokens; {str(error).splitlines()[0] if str(error) else 'out of memory'}",
                expected="a pass that fits alone",
                hint="shorten the records, free memory of the device, or use a smaller base",
            ) from None
    else:
        yield result
        return
    if torch.cuda.is_available():  # the failed pass is gone only here, behind the handler
        torch.cuda.empty_cache()
    half = len(items) // 2
    for part in (items[:half], items[half:]):
        yield from in_halves(run, part, what, size)
