"""How many threads a measurement takes: sharing small matrix products among threads costs far more than it saves."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SMALL = 50_000_000
"""Weights in decoder blocks below which one thread is fastest (measured on 2 and 16 cores)."""


def block_weights(layers: int, width: int) -> int:
    """About how many weights the decoder blocks of a model hold: 12 width² a block."""
    return 12 * layers * width**2


@contextmanager
def threads_for(weights: int) -> Iterator[None]:
    """One thread for a small model, in torch and in NumPy's libraries, and as before afterwards.

    Where OMP_NUM_THREADS is set, the user has decided.
    """
    if weights >= SMALL or "OMP_NUM_THREADS" in os.environ:
        yield
        return
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch is not None else None
    with threadpool_limits(1):
        if torch is not None:
            torch.set_num_threads(1)
        try:
            yield
        finally:
            if torch is not None and before is not None:
                torch.set_num_threads(before)
