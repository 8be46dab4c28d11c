"""What a record says of the prompts that a model read: which, in what rendering, how well it knows their language."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from geometry_bench.labs.memo import remembered
from geometry_bench.labs.model import Lab
from geometry_bench.labs.questions import SUMS_ASKED, Sums, TaskOf, abilities
from geometry_bench.labs.requirements import Requirements
from geometry_bench.records.facts import PromptInputs, RequestFacts, TaskFacts
from geometry_bench.storage import digest_bytes

if TYPE_CHECKING:
    from geometry_bench.activations.readability import Readability
    from geometry_bench.prompts.render import Encoded

REQUESTS = "requests"
"""What stands for the pack in a record whose prompts are sets of requests alone."""


@remembered
def prompt_inputs(lab: Lab, required: Requirements, published: Requirements | None = None) -> PromptInputs:
    """What a record says of the prompts behind a value, in the corrected variant unless both read them alike."""
    chat, messages, sets = lab.subject.chat, required.messages, required.sets
    able = abilities(lab.request_settings, SUMS_ASKED) if required.abilities else ()
    of_messages = [sorted(lab.encoded(name, "corrected").items()) for name in messages]
    prompts = [prompt for conditions in of_messages for _, encoded in conditions for prompt in encoded]
    for name in sets:
        if required.under:
            prompts += [prompt for system in required.under for prompt in lab.encoded_under(name, system)]
        else:
            prompts += lab.encoded_requests(name, required.rendering)
    in_chat = bool(messages) or not sets or required.rendering == "chat"  # else no template has touched the prompts
    read = [*(["last"] if messages or not sets else []), *required.named()]
    if published is not None:
        read = [f"corrected {', '.join(read)}", f"published {published.rendering} {', '.join(published.named())}"]
    return PromptInputs(
        hash=required.inputs_hash(lab.pack, lab.request_settings),
        pack=lab.pack.id if required.reads_pack else REQUESTS,
        controls=lab.pack.controls_from if messages or not sets else None,
        safety_controls=lab.pack.safety_controls_from if "benign" in messages else None,
        wording={name: lab.pack.wording(name) for name in messages},
        messages=list(messages),
        requests=[
            *(RequestFacts(**lab.request_settings.load(name).facts()) for name in sets),
            *(RequestFacts(**one.requests.facts()) for one in able if isinstance(one, Sums)),
        ],
        tasks=[TaskFacts(**one.described) for one in able if isinstance(one, TaskOf)],
        tokens_hash=_tokens_hash(prompts),
        template=chat.name if in_chat else "raw text",
        template_hash=chat.template_hash if in_chat else None,
        system_policy=chat.system_policy if in_chat else None,
        injected_text=chat.injected_text if in_chat else None,
        truncated_prompts=sum(prompt.truncated for prompt in prompts),
        bos_doubled_in_published=not all(lab.same_tokens(name) for name in messages),
        pooling=", ".join(read),
        site="block_output",
        nats_per_token={name: round(found.nats, 3) for name, found in _readings(lab, required).items()},
        uniform_nats=next((round(found.uniform, 3) for found in _readings(lab, required).values()), None),
        notes=_notes(lab, prompts, required),
    )


def _readings(lab: Lab, required: Requirements) -> dict[str, Readability]:
    found = {name: readability(lab, name) for name in (*required.messages, *required.sets)}
    return {name: one for name, one in found.items() if one is not None}


@remembered
def readability(lab: Lab, name: str) -> Readability | None:
    """How well the model predicts the texts of a message set or set of requests, without template."""
    from geometry_bench.activations.readability import readability as read

    texts = _texts(lab, name)
    return read(lab.subject, [lab.subject.chat.encode_text(text).ids for text in texts])


def _texts(lab: Lab, name: str) -> list[str]:
    if name in lab.pack.messages:
        return [message.text for message in lab.pack.messages[name]]
    return lab.request_settings.load(name).texts


def _notes(lab: Lab, prompts: Sequence[Encoded], required: Requirements) -> list[str]:
    cut = sum(prompt.truncated for prompt in prompts)
    notes = [f"{cut} prompts shortened to fit the model's context"] if cut else []
    notes += [f"{lab.pack.id}: {note}" for name in required.messages for note in lab.pack.length_notes(name)]
    for name in (*required.messages, *required.sets):
        drawn = lab.request_settings.load(name) if name in required.sets else None
        label = lab.pack.id if drawn is None else drawn.name if drawn.origin != "pack" else "built-in requests"
        notes += [f"{label}: {note}" for note in (drawn.notes if drawn is not None else ())]
        held = sum(map(lab.subject.chat.holds_control, _texts(lab, name)))
        if held:
            notes.append(f"{label}: control tokens of the tokenizer in {held} texts are read as text")
        found = readability(lab, name)
        if found is not None and found.is_guessing:
            notes.append(
                f"{label}: the model predicts them no better than by guessing ({found.uniform:.1f} nats a token), so "
                "values on them may be noise"
            )
    return list(dict.fromkeys(notes))


def _tokens_hash(prompts: Iterable[Encoded]) -> str:
    return digest_bytes(np.asarray([len(prompt.ids), *prompt.ids], dtype="<i8").tobytes() for prompt in prompts)
