"""The tokens with which a model ends an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from geometry_bench.subjects.blocks import without_adapter
from geometry_bench.subjects.subject import Subject

_USER, _ANSWER = "Name a colour.", "Blue, I would say."


def end_tokens(subject: Subject) -> tuple[int, ...]:
    """Ids, ascending: the end tokens that configurations and tokenizer state, and the end of a turn in the chat template."""
    model = cast(Any, without_adapter(subject.model))
    stated = [
        getattr(model.generation_config, "eos_token_id", None),
        getattr(subject.text_config, "eos_token_id", None),
    ]
    found = {int(one) for ids in stated for one in (ids if isinstance(ids, list | tuple) else [ids]) if one is not None}
    if subject.tokenizer is not None:
        own = subject.tokenizer.eos_token_id
        found |= {*([] if own is None else [own]), *_end_of_turn(subject)}
    return tuple(sorted(found))


def _end_of_turn(subject: Subject) -> Iterator[int]:
    """The control token that the chat template writes after an answer, if it does."""
    from jinja2.exceptions import TemplateError

    template = subject.chat.template
    if template is None:
        return
    try:
        text = template.rendered([("user", _USER), ("assistant", _ANSWER)], generation=False)
    except TemplateError:  # it takes a single turn only
        return
    rest = text.rpartition(_ANSWER)[2].strip()
    ids = subject.tokenizer(rest, add_special_tokens=False)["input_ids"]
    control = {key for key, token in subject.tokenizer.added_tokens_decoder.items() if token.special}
    if ids and ids[0] in control:
        yield int(ids[0])
