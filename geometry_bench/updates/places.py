"""Where a stored tensor stands: in a decoder block of the text model, outside of the blocks, or in another part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from geometry_bench.subjects.describe import OTHER_PARTS

_NUMBERED = re.compile(r"(?:^|\.)(?:layers|h|blocks|block)\.(\d+)\.")
_OTHER_PARTS = re.compile(rf"(?:^|\.)(\w*(?:{'|'.join(OTHER_PARTS)})\w*)\.")


@dataclass(frozen=True)
class Place:
    """``layer`` is the decoder block, None outside of blocks; ``part`` names what is no part of the text model's pass."""

    layer: int | None = None
    part: str = ""


def places(names: Iterable[str], layers: int | None) -> Mapping[str, Place]:
    """The place of every tensor of a checkpoint whose text model runs so many blocks (None: unknown).

    Of several numbered stacks the text model's is the one that has that many blocks and the shortest name; towers for
    images or sound, blocks beyond the last one that is run and modules for multi-token prediction are other parts.
    """
    stacks: dict[str, set[int]] = {}
    found: dict[str, tuple[str, int] | None] = {}
    for name in names:
        match = _NUMBERED.search(name)
        found[name] = (name[: match.start(1) - 1], int(match[1])) if match else None
        if match and not _OTHER_PARTS.search(name[: match.start(1)]):
            stacks.setdefault(name[: match.start(1) - 1], set()).add(int(match[1]))
    decoder = min(stacks, key=lambda stack: (not _holds(stacks[stack], layers), len(stack), stack), default="")
    return {name: _place(name, at, decoder, layers) for name, at in found.items()}


def _holds(blocks: set[int], layers: int | None) -> bool:
    return layers is None or len(blocks) >= layers


def _place(name: str, at: tuple[str, int] | None, decoder: str, layers: int | None) -> Place:
    other = _OTHER_PARTS.search(name if at is None else f"{at[0]}.")
    if other or at is None:
        return Place(part=other[1] if other else "")
    stack, block = at
    if stack != decoder:
        return Place(part=stack)
    if layers is not None and block >= layers:
        return Place(part=f"blocks beyond the {layers} that are run")
    return Place(layer=block)
