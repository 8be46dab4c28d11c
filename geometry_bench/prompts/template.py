"""One chat template: what it writes, and what it does to the texts that it is given.

The date must not change from day to day, what a template adds on its own must be known, and so must whatever it drops, cuts
or draws at random. Imports no torch; transformers only inside functions.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from geometry_bench.errors import GeometryBenchError

# The day every template that prints today's date is shown.
FIXED_DATE = datetime.datetime(2025, 1, 15, 12, 0, 0)

# Plain words that no template holds, to find where content is placed.
SYSTEM_PROBE = "quillsystem"
USER_PROBE = "quilluser"
_REPLY_PROBE = "quillreply"
_SECOND_PROBE = "quillsecond"
_LONG_PROBE = "\n\n".join(
    f'Line {n}: Quill says  <b>"it\'s" & 50 % of {{x}}</b> \\n in 1,000 naïve words.' for n in range(80)
)
_RENDERINGS = 10
"""How often a template is rendered to see whether it writes the same each time."""
_MARKER = re.compile(r"<\|[^|<>]*\|>|</?[A-Za-z_]+(?::[A-Za-z_]+)?>|<<?/?SYS>>?|\[/?[A-Z_]+\]")
_ROLE_LINE = re.compile(r"\A\W*(system|developer)\b[ \t]*:?[ \t]*(?=\n|\Z|[A-Z])", re.IGNORECASE)
_NOT_FOR_USERS = (
    "messages", "conversation", "chat_template", "tokenize", "add_generation_prompt", "continue_final_message", "padding",
    "truncation", "max_length", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
    "date_string",
)  # fmt: skip
_NOT_FOR_CHATS = ("tool_use", "rag")


def parse_arguments(texts: Iterable[str]) -> dict[str, Any]:
    """Arguments of a template from ``KEY=VALUE``; a value is JSON (true, 3, "x") or else text.

    Raises:
        GeometryBenchError: no ``=``, a key that is no name or that this project sets itself.
    """
    found: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals or not key.isidentifier():
            raise GeometryBenchError(f"'{text}' is not KEY=VALUE: write it as enable_thinking=false.")
        if key in _NOT_FOR_USERS:
            raise GeometryBenchError(f"'{text}' cannot be chosen: {key} is set by the benchmark itself; leave it out.")
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = {"True": True, "False": False, "None": None}.get(value, value)
    return found


class ChatTemplate:
    """A tokenizer's template with its arguments.

    ``takes_system`` says whether it shows a system text; ``injected_text`` is what it writes of its own where it is given
    none. ``notes`` say what a reader of values must know.

    Raises:
        GeometryBenchError: it cannot render a user's message, or writes something else each time.
    """

    def __init__(self, tokenizer: Any, text: str, arguments: Mapping[str, Any], notes: Sequence[str] = ()) -> None:
        self._tokenizer, self.text, self._arguments = tokenizer, text, dict(arguments)
        self._as_parts = False
        self._as_parts = self._needs_parts()
        self.takes_system = self._try([("system", SYSTEM_PROBE), ("user", USER_PROBE)]) is not None
        self._refuse_random()
        self.injected_text = self._injected()
        self.notes = (*notes, *self._notes())

    @classmethod
    def of(cls, tokenizer: Any, arguments: Mapping[str, Any]) -> ChatTemplate | None:
        """The template of a tokenizer, None where it has none; of several named ones, "default" or the first for chats.

        Raises:
            GeometryBenchError: it is not text, or of no use.
        """
        template, notes = getattr(tokenizer, "chat_template", None) or None, []
        if isinstance(template, dict):
            name = min(template, key=lambda known: (known != "default", known in _NOT_FOR_CHATS))
            if name != "default":
                notes.append(f"of the chat templates {', '.join(template)}, none is called default: {name} is used")
            template = template[name]
        if template is None:
            return None
        if not isinstance(template, str):
            raise GeometryBenchError("The tokenizer's chat_template is not text; repair it in the tokenizer's files.")
        return cls(tokenizer, template, arguments, notes)

    def _notes(self) -> Iterator[str]:
        if self.injected_text:
            yield "the template adds a text of its own where no system message is given"
        turns = [("system", _LONG_PROBE), ("user", USER_PROBE)], [("user", _LONG_PROBE)]
        for role, given in zip(("system", "user"), turns, strict=True):
            if (role == "user" or self.takes_system) and self._try(given) is None:
                yield f"the chat template changes or cuts long texts of the {role}"
        unknown = [key for key in self._arguments if not re.search(rf"\b{key}\b", self.text)]
        if unknown:
            yield f"the chat template has no use for the argument {', '.join(unknown)}"

    def _refuse_random(self) -> None:
        turns = [("user", USER_PROBE)]
        if len({self.rendered(turns) for _ in range(_RENDERINGS)}) > 1:
            raise GeometryBenchError(
                "The chat template writes something else each time it is rendered (it draws at random), so no value could "
                "be reproduced; give the model a chat_template without that."
            )

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
                chat_template=self.text,
                tokenize=False,
                add_generation_prompt=generation,
                date_string=FIXED_DATE.strftime("%d %b %Y"),
                **self._arguments,
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
        turns = [("user", USER_PROBE)]
        for as_parts in (False, True):
            rendered = self._try(turns, as_parts=as_parts)
            if rendered is not None and "'type'" not in rendered:
                return as_parts
        raise GeometryBenchError(
            "The chat template cannot render a single user message; repair chat_template in the tokenizer's files."
        )

    def _injected(self) -> str | None:
        """Words that precede the first user message although no system message was given.

        What precedes every user message is the frame of a turn; what precedes only the first one, without markers and
        the name of the role, was injected.
        """
        alone = self.rendered([("user", USER_PROBE)])
        # Markers go first: two different ones may end in the same way.
        head = self._without_markers(alone[: alone.index(USER_PROBE)])
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
        turns = [("user", USER_PROBE), ("assistant", _REPLY_PROBE), ("user", _SECOND_PROBE)]
        rendered = self._try(turns)
        if rendered is not None:
            return rendered[rendered.index(_REPLY_PROBE) + len(_REPLY_PROBE) : rendered.index(_SECOND_PROBE)]
        rendered = self._try([("system", SYSTEM_PROBE), ("user", USER_PROBE)])
        if rendered is not None:
            return rendered[rendered.index(SYSTEM_PROBE) + len(SYSTEM_PROBE) : rendered.index(USER_PROBE)]
        return None


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
