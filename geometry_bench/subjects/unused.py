"""What of a checkpoint a model has no place for: said in notes, since a configuration may leave out whole blocks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from torch import nn

from geometry_bench.subjects.blocks import find_blocks

_BLOCK = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")


def unused_notes(model: nn.Module, unused: Sequence[str]) -> list[str]:
    """One sentence on stored tensors that are not used, with the count of whole blocks among them; none for none."""
    if not unused:
        return []
    run = len(find_blocks(model))
    own = {
        name.rpartition(f".{match[1]}.")[0] for name, _ in model.named_parameters() if (match := _BLOCK.search(name))
    }
    left_out = {
        int(match[1])
        for name in unused
        if (match := _BLOCK.search(name)) and int(match[1]) >= run and name[: match.start(1) - 1] in own
    }
    if left_out:
        return [
            f"config.json names {run} blocks and the checkpoint stores {len(left_out)} more, which are not run "
            f"({len(unused)} tensors)"
        ]
    if len(unused) == 1:
        return [f"1 stored tensor has no place in the model and is not used ({unused[0]})"]
    return [f"{len(unused)} stored tensors have no place in the model and are not used ({unused[0]} the first)"]
