"""Groups of alignment methods, read from the words in which a source or a user names the method."""

from __future__ import annotations

from typing import Literal

from geometry_bench.errors import GeometryBenchError

AlignmentGroup = Literal["sft", "preference", "distilled", "undisclosed"]

_PREFERENCE = ("dpo", "rlhf", "rlaif", "ppo", "kto", "orpo", "grpo")


def alignment_group_of(method: str) -> AlignmentGroup:
    """The group of an alignment method as published; the first rule that matches decides.

    DPO, RLHF or another training on preferences named: ``preference``; distilled: ``distilled``; undisclosed in part or
    whole: ``undisclosed``; SFT named: ``sft``. Only the model's own last method counts, not its parent's. Raises
    ``GeometryBenchError`` where no rule matches, so that an unknown method never lands in a group by default.
    """
    text = method.lower()
    if any(word in text for word in _PREFERENCE):
        return "preference"
    if "distil" in text:
        return "distilled"
    if "undisclosed" in text:
        return "undisclosed"
    if "sft" in text:
        return "sft"
    raise GeometryBenchError(
        f"The alignment method {method!r} names none of DPO, RLHF, PPO, KTO, SFT, distillation or 'undisclosed'; "
        "say it with one of these words."
    )
