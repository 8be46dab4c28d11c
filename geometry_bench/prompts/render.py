"""Render (system, user) pairs through a model's chat template, and tokenise them once, with one BOS.

The last token of a rendered prompt is what most claims read, so the template's tail must always survive. Control tokens
inside a text stay text: a request cannot end its own turn. Imports no torch.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.template import SYSTEM_PROBE, USER_PROBE, ChatTemplate, parse_arguments
from geometry_bench.storage import digest_bytes

SystemPolicy = Literal["native", "prepend_to_user", "not_applicable"]
POLICIES: tuple[SystemPolicy, ...] = ("native", "prepend_to_user", "not_applicable")

PLAIN_NAME = "plain-1"
_PLAIN_FORMAT = "{system}\n\nUser: {user}\n\nAssistant:"
_TAIL = 80
"""Characters at the end of a prompt that a record may show."""


@dataclass(frozen=True)
class Encoded:
    """Token ids of one prompt; ``truncated`` says that content was shortened to fit the model."""

    ids: tuple[int, ...]
    truncated: bool


class ChatFormat:
    """How one tokenizer's subject is spoken to.

    ``name`` is "chat_template", or "plain-1" for a tokenizer without one. ``system_policy`` is found by probing unless
    ``system_role`` states it: "native" (the template shows the system text), "prepend_to_user" (it refuses or drops it,
    so the system text goes before the user's, separated by a blank line) or "not_applicable" (system texts are refused
    here). ``max_length`` is in tokens, None for no limit.

    ``arguments`` (``KEY=VALUE``) go to the template. ``prompt_tail`` is what follows the user's text, its last 80
    characters.

    Raises GeometryBenchError for a tokenizer that makes no tokens, a template that cannot be rendered or draws at random, or
    a stated policy that it contradicts.
    """

    def __init__(
        self, tokenizer: Any, *, max_length: int | None, system_role: str | None = None, arguments: Sequence[str] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length
        if not self._plain_ids(USER_PROBE):
            raise GeometryBenchError("The tokenizer makes no token of a word; give the one that belongs to the model.")
        self.template = ChatTemplate.of(tokenizer, parse_arguments(arguments))
        self.name = PLAIN_NAME if self.template is None else "chat_template"
        self.system_policy: SystemPolicy = self._policy(system_role)
        source = self.template.text if self.template is not None else _PLAIN_FORMAT
        self.template_hash = digest_bytes([f"{source}\0{self.system_policy}".encode()])
        self.injected_text = self.template.injected_text if self.template is not None else None
        self._bos: int | None = getattr(tokenizer, "bos_token_id", None)
        self.uses_bos = self._adds_bos()
        self._control = _control_tokens(tokenizer)
        self.prompt_tail: str = self.text("", USER_PROBE).rpartition(USER_PROBE)[2][-_TAIL:]
        self.notes: tuple[str, ...] = tuple(self._notes(arguments))
        """What a reader of values must know of the format, one sentence each."""

    def _notes(self, arguments: Sequence[str]) -> Iterator[str]:
        if self.template is None:
            bos = "" if self.uses_bos else ", without a BOS token"
            yield f"no chat template: prompts are rendered in the declared format {self.name}{bos}"
            if arguments:
                yield f"there is no chat template that could take {', '.join(arguments)}"
        if self.system_policy != "native":
            yield f"no system role: policy {self.system_policy}"
        if self.template is not None:
            yield from self.template.notes

    def _policy(self, stated: str | None) -> SystemPolicy:
        policy = next((known for known in POLICIES if known == stated), None)
        if stated is not None and policy is None:
            raise GeometryBenchError(f"Unknown system role policy {stated!r}; choose one of {', '.join(POLICIES)}.")
        native = self.template is None or self.template.takes_system
        if policy == "native" and not native:
            raise GeometryBenchError(
                "The chat template refuses or drops the system role, so the policy cannot be native; use prepend_to_user."
            )
        return policy or ("native" if native else "prepend_to_user")

    # Text

    def text(self, system: str, user: str) -> str:
        """Rendered prompt with the generation prompt at its end; ``system`` "" means no system message at all."""
        if system and self.system_policy == "not_applicable":
            raise GeometryBenchError(
                "This subject's template takes no system text (policy not_applicable); leave its system prompts out."
            )
        if self.template is None:
            return _PLAIN_FORMAT.format(system=system, user=user) if system else f"User: {user}\n\nAssistant:"
        if not system:
            return self.template.rendered([("user", user)])
        if self.system_policy == "prepend_to_user":
            return self.template.rendered([("user", f"{system}\n\n{user}")])
        return self.template.rendered([("system", system), ("user", user)])

    # Token ids

    def encode(self, system: str, user: str, *, doubled_bos: bool = False) -> Encoded:
        """Token ids of the rendered prompt with exactly one BOS where the tokenizer uses one.

        ``doubled_bos`` tokenises the rendered text with special tokens added once more, as the sources' scripts did: a
        second BOS where the template already writes one, and nothing else for tokenizers that add none.
        When the prompt exceeds ``max_length`` words are cut from the end of the system text, then of the user's (a word
        that is too long alone is cut inside, and something of each text always stays, so that the roles do); the
        template's own text is never cut. Raises GeometryBenchError when even that does not fit.
        """

        def ids_of(system_text: str, user_text: str) -> tuple[int, ...]:
            rendered = self.text(system_text, user_text)
            if self.holds_control(system_text) or self.holds_control(user_text):
                ids = self._literal_ids(rendered, system_text, user_text)
                return (*self._own_bos, *ids) if doubled_bos else self._with_one_bos(ids)
            return self._with_specials(rendered) if doubled_bos else self._one_bos(rendered)

        ids = ids_of(system, user)
        if self._fits(ids):
            return Encoded(ids, truncated=False)
        shorter = _longest_prefix(system, lambda text: self._fits(ids_of(text, user)))
        if shorter is not None:
            return Encoded(ids_of(shorter, user), truncated=True)
        least = _first_piece(system)
        shorter = _longest_prefix(user, lambda text: self._fits(ids_of(least, text)))
        if shorter is not None:
            return Encoded(ids_of(least, shorter), truncated=True)
        raise GeometryBenchError(
            f"The chat format alone fills the model's {self.max_length} positions; no prompt fits this subject."
        )

    def encode_text(self, text: str) -> Encoded:
        """Token ids of raw text, no template, with one BOS where the tokenizer uses one; cut at ``max_length``."""
        literal = self.holds_control(text)
        ids = (*self._own_bos, *self._verbatim(text)) if literal else self._one_bos(text)
        if self.max_length is not None and len(ids) > self.max_length:
            return Encoded(ids[: self.max_length], truncated=True)
        return Encoded(ids, truncated=False)

    def _fits(self, ids: tuple[int, ...]) -> bool:
        return self.max_length is None or len(ids) <= self.max_length

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _with_specials(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])

    def holds_control(self, text: str) -> bool:
        """Whether a control token of the tokenizer is spelled out in a text."""
        return self._control is not None and self._control.search(text) is not None

    def _verbatim(self, text: str) -> tuple[int, ...]:
        """Token ids of a text in which control tokens are text."""
        ids = tuple(
            self._tokenizer(text, add_special_tokens=False, split_special_tokens=True, verbose=False)["input_ids"]
        )
        found = set(ids) & set(self._tokenizer.all_special_ids) - {self._tokenizer.unk_token_id}
        if found:
            raise GeometryBenchError(
                f"A prompt holds {self._tokenizer.decode([min(found)])}, a control token that this tokenizer cannot read as "
                "text; leave that prompt out."
            )
        return ids

    def _literal_ids(self, rendered: str, system: str, user: str) -> tuple[int, ...]:
        """Token ids of a rendered prompt whose texts hold control tokens: the template's are read, the texts' are not."""
        frame = self.text(SYSTEM_PROBE if system else "", USER_PROBE)
        head, _, rest = frame.partition(SYSTEM_PROBE) if system else ("", "", frame)
        middle, _, tail = rest.partition(USER_PROBE)
        for system_text, user_text in ((system, user), (system.strip(), user.strip())):
            if rendered == f"{head}{system_text}{middle}{user_text}{tail}":
                parts = (head, False), (system_text, True), (middle, False), (user_text, True), (tail, False)
                ids = [self._verbatim(text) if literal else self._plain_ids(text) for text, literal in parts if text]
                return tuple(one for part in ids for one in part)
        raise GeometryBenchError(
            "A prompt holds a control token of the tokenizer, and the chat template changes its text, so that it cannot be "
            "kept as text; leave that prompt out."
        )

    @property
    def _own_bos(self) -> tuple[int, ...]:
        """The BOS, where the tokenizer adds one of its own accord."""
        return (self._bos,) if self.uses_bos and self._bos is not None else ()

    def _one_bos(self, text: str) -> tuple[int, ...]:
        return self._with_one_bos(self._plain_ids(text))

    def _with_one_bos(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        bos = self._bos
        if bos is None:
            return ids
        start = 0
        while start < len(ids) and ids[start] == bos:
            start += 1
        if start == 0 and not self.uses_bos:
            return ids
        ids = (bos, *ids[start:])
        assert ids[1:2] != (bos,), "a prompt must start with exactly one BOS"
        return ids

    def _adds_bos(self) -> bool:
        """Whether this tokenizer puts a BOS before a text of its own accord."""
        if self._bos is None:
            return False
        return self._with_specials(USER_PROBE)[:1] == (self._bos,) and self._plain_ids(USER_PROBE)[:1] != (self._bos,)


def _control_tokens(tokenizer: Any) -> re.Pattern[str] | None:
    """What spells a control token of a tokenizer."""
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    names = {str(token) for token in added if token.special} | set(map(str, tokenizer.all_special_tokens))
    return re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True)))) if names else None


def _first_piece(text: str) -> str:
    """First character that is not white space ("" for an empty text): the least that still is a message."""
    return text.lstrip()[:1]


def _longest_prefix(text: str, fits: Callable[[str], bool]) -> str | None:
    """Longest beginning of ``text`` that fits, cut between words, or inside the first word where that is too long.

    None when not even one character fits, or ``text`` is empty.
    """
    ends = [match.end() for match in re.finditer(r"\S+", text)]
    if not ends:
        return None
    start = len(text) - len(text.lstrip())
    for cuts in (ends, list(range(start + 1, ends[0]))):
        low, high = 0, len(cuts)  # cuts[:low] fit, cuts[high:] do not
        while low < high:
            middle = (low + high) // 2
            if fits(text[: cuts[middle]]):
                low = middle + 1
            else:
                high = middle
        if low > 0:
            return text[: cuts[low - 1]]
    return None
