"""Names of the roles that sets of requests fill. Imports nothing, since every pytest run reads them for its options."""

from __future__ import annotations

NEUTRAL = "instructions"
"""The set of benign instructions that belongs to neither class."""

ALIGNMENT = "alignment"
"""The benign instructions that maps between models are fitted on (source B)."""

BUILT_IN_NAMES: tuple[str, ...] = (
    "unsafe",
    "safe",
    "safe-short",
    "safe-long",
    "safe-unmatched",
    "harmful-a",
    "harmful-b",
    "refusal-style",
    "jailbreak",
    "jailbreak-safe",
    NEUTRAL,
    "maths",
)
"""The built-in sets."""

ROLES: tuple[str, ...] = (*BUILT_IN_NAMES, ALIGNMENT)
"""What sets of requests are there for. Each role has a built-in set, and can be given another one."""
