"""Silence for the progress bars and advice of transformers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Leave out transformers' own bars and advice; errors still raise."""
    from transformers import modeling_gguf_pytorch_utils, utils

    gguf_bar: Any = modeling_gguf_pytorch_utils
    logging: Any = utils.logging  # its functions carry no annotations
    level = logging.get_verbosity()
    bars = logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bar = gguf_bar.tqdm  # reading GGUF files has a bar of its own, which no setting turns off
    gguf_bar.tqdm = lambda items, **_: items
    try:
        yield
    finally:
        gguf_bar.tqdm = bar
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
