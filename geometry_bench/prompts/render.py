"""Render (system, user) pairs through a model's chat template, and tokenise them once, with one BOS.

The last token of a rendered prompt is what most claims read, so the template's tail must always survive, the date must
not change from day to day, and what a template adds on its own must be known. Imports no torch; transformers only
inside functions.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_bytes

SystemPolicy = Literal["native", "prepend_to_user", "not_applicable"]
POLICIES: tuple[SystemPolicy, ...] = ("native", "prepend_to_user", "not_applicable")

# The day every template that prints today's date is shown.
FIXED_DATE = datetime.datetime(2025, 1, 15, 12, 0, 0)
PLAIN_NAME = "plain-1"
_PLAIN_FORMAT = "{system}\n\nUser: {user}\n\nAssistant:"

# Plain words that no template holds, to find where content lands.
_SYSTEM_PROBE = "quillsystem"
_USER_PROBE = "quilluser"
_REPLY_PROBE = "quillreply"
_SECOND_PROBE = "quillsecond"
_MARKER = re.compile(r"<\|[^|<>]*\|>|</?[A-Za-z_]+(?::[A-Za-z_]+)?>|<<?/?SYS>>?|\[/?[A-Z_]+\]")
_ROLE_LINE = re.compile(r"\A\W*(system|developer)\b[ \t]*:?[ \t]*(?=\n|\Z|[A-Z])", re.IGNORECASE)


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

    Raises GeometryBenchError for a template that cannot be rendered, or a stated policy that it contradicts.
    """

    def __init__(self, tokenizer: Any, *, max_length: int | None, system_role: str | None = None) -> None:
        self._tokenizer = tokenizer
        self.max_length = max_length
        self._template = _template_text(tokenizer)
        self.name = PLAIN_NAME if self._template is None else "chat_template"
        self._as_parts = False
        if self._template is not None:
            self._as_parts = self._needs_parts()
        self.system_policy: SystemPolicy = self._policy(system_role)
        source = self._template if self._template is not None else _PLAIN_FORMAT
        self.template_hash = digest_bytes([f"{source}\0{self.system_policy}".encode()])
        self.injected_text: str | None = self._injected()
        self._bos: int | None = getattr(tokenizer, "bos_token_id", None)
        self.uses_bos = self._adds_bos()
        self.notes: tuple[str, ...] = tuple(self._notes())
        """What a reader of values must know of the format, one sentence each."""

    def _notes(self) -> Iterator[str]:
        if self._template is None:
            yield f"no chat template: prompts are rendered in the declared format {self.name}"
        if self.system_policy != "native":
            yield f"no system role: policy {self.system_policy}"
        if self.injected_text:
            yield "the template adds a text of its own where no system message is given"

    # Text

    def text(self, system: str, user: str) -> str:
        """Rendered prompt with the generation prompt at its end; ``system`` "" means no system message at all."""
        if system and self.system_policy == "not_applicable":
            raise GeometryBenchError(
                "This subject's template takes no system text (policy not_applicable); leave its system prompts out."
            )
        if self._template is None:
            return _PLAIN_FORMAT.format(system=system, user=user) if system else f"User: {user}\n\nAssistant:"
        if not system:
            return self.rendered([("user", user)])
        if self.system_policy == "prepend_to_user":
            return self.rendered([("user", f"{system}\n\n{user}")])
        return self.rendered([("system", system), ("user", user)])

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
        ids = self._one_bos(text)
        if self.max_length is not None and len(ids) > self.max_length:
            return Encoded(ids[: self.max_length], truncated=True)
        return Encoded(ids, truncated=False)

    def _fits(self, ids: tuple[int, ...]) -> bool:
        return self.max_length is None or len(ids) <= self.max_length

    def _plain_ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])

    def _with_specials(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=True, verbose=False)["input_ids"])

    def _one_bos(self, text: str) -> tuple[int, ...]:
        ids = self._plain_ids(text)
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
        return self._with_specials(_USER_PROBE)[:1] == (self._bos,) and self._plain_ids(_USER_PROBE)[:1] != (self._bos,)

    # Template

    def rendered(
        self, turns: Sequence[tuple[str, str]], *, generation: bool = True, as_parts: bool | None = None
    ) -> str:
        """(role, content) turns as the template writes them, under the fixed date.

        ``generation`` adds what opens an answer. Raises jinja2's TemplateError where the template refuses the turns.
        """
        parts = self._as_parts if as_parts is None else as_parts
        messages = [
            {"role": role, "content": [{"type": "text", "text": content}] if parts else content}
            for role, content in turns
        ]
        with _frozen_date():
            rendered = self._tokenizer.apply_chat_template(
                messages,
                chat_template=self._template,
                tokenize=False,
                add_generation_prompt=generation,
                date_string=FIXED_DATE.strftime("%d %b %Y"),
            )
        return str(rendered)

    def _try(self, turns: list[tuple[str, str]], *, as_parts: bool | None = None) -> str | None:
        """Rendered text, or None where the template refuses these turns or drops any of their content."""
        from jinja2.exceptions import TemplateError

        try:
            rendered = self.rendered(turns, as_parts=as_parts)
        except (TemplateError, TypeError, KeyError, ValueError, AttributeError, IndexError):
            # Templates written for other shapes of content fail in all these ways.
            return None
        return rendered if all(content in rendered for _, content in turns) else None

    def _needs_parts(self) -> bool:
        """Whether content must be given as a list of parts, as templates of multimodal models may want."""
        turns = [("user", _USER_PROBE)]
        for as_parts in (False, True):
            rendered = self._try(turns, as_parts=as_parts)
            if rendered is not None and "'type'" not in rendered:
                return as_parts
        raise GeometryBenchError(
            "The chat template cannot render a single user message; repair chat_template in the tokenizer's files."
        )

    def _policy(self, stated: str | None) -> SystemPolicy:
        policy = next((known for known in POLICIES if known == stated), None)
        if stated is not None and policy is None:
            raise GeometryBenchError(f"Unknown system role policy {stated!r}; choose one of {', '.join(POLICIES)}.")
        if self._template is None:
            return policy or "native"
        native = self._try([("system", _SYSTEM_PROBE), ("user", _USER_PROBE)]) is not None
        if policy == "native" and not native:
            raise GeometryBenchError(
                "The chat template refuses or drops the system role, so the policy cannot be native; use prepend_to_user."
            )
        return policy or ("native" if native else "prepend_to_user")

    def _injected(self) -> str | None:
        """Words that precede the first user message although no system message was given.

        What precedes every user message is the frame of a turn; what precedes only the first one, without markers and
        the name of the role, was injected.
        """
        if self._template is None:
            return None
        alone = self.rendered([("user", _USER_PROBE)])
        # Markers go first: two different ones may end in the same way.
        head = self._without_markers(alone[: alone.index(_USER_PROBE)])
        frame = self._without_markers(self._turn_frame() or "")
        rest = _ROLE_LINE.sub("", head[: len(head) - _common_suffix_length(head, frame)]).strip()
        return rest if any(char.isalnum() for char in rest) else None

    def _without_markers(self, text: str) -> str:
        specials = getattr(self._tokenizer, "all_special_tokens", None) or []
        for token in sorted((str(special) for special in specials), key=len, reverse=True):
            text = text.replace(token, "")
        return _MARKER.sub("", text)

    def _turn_frame(self) -> str | None:
        """Text between a reply and the next user message; None where the template takes a single turn only."""
        turns = [("user", _USER_PROBE), ("assistant", _REPLY_PROBE), ("user", _SECOND_PROBE)]
        rendered = self._try(turns)
        if rendered is not None:
            return rendered[rendered.index(_REPLY_PROBE) + len(_REPLY_PROBE) : rendered.index(_SECOND_PROBE)]
        rendered = self._try([("system", _SYSTEM_PROBE), ("user", _USER_PROBE)])
        if rendered is not None:
            return rendered[rendered.index(_SYSTEM_PROBE) + len(_SYSTEM_PROBE) : rendered.index(_USER_PROBE)]
        return None


def _template_text(tokenizer: Any) -> str | None:
    """The tokenizer's chat template; of several named ones, the one called "default"."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if template is None or isinstance(template, str):
        return template or None
    raise GeometryBenchError("The tokenizer's chat_template is not text; repair it in the tokenizer's files.")


class _Frozen(datetime.datetime):
    @classmethod
    def now(cls, tz: datetime.tzinfo | None = None) -> _Frozen:
        return cls(*FIXED_DATE.timetuple()[:6], tzinfo=tz)


@contextlib.contextmanager
def _frozen_date() -> Iterator[None]:
    """Let ``strftime_now`` inside templates see FIXED_DATE; transformers offers no argument for it."""
    from transformers.utils import chat_template_utils

    module: Any = chat_template_utils
    original = module.datetime
    module.datetime = _Frozen
    try:
        yield
    finally:
        module.datetime = original


def _common_suffix_length(left: str, right: str) -> int:
    size = 0
    while size < min(len(left), len(right)) and left[-1 - size] == right[-1 - size]:
        size += 1
    return size


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
