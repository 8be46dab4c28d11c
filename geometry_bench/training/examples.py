"""From rows to token ids and labels: the tokenizer of a family of its own, rendering, masks and packing.

Chats go through the tokenizer's own chat template, as the suite speaks to the finished model (`prompts.render`); a model
without one gets the project's plain format. Imports no torch; transformers and tokenizers inside functions.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.render import PLAIN_NAME, ChatFormat
from geometry_bench.training.sources import Row

IGNORED = -100
BOS, SYSTEM, USER, ASSISTANT, END, PAD = "<s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<pad>"
MARKERS = (PAD, BOS, END, SYSTEM, USER, ASSISTANT)
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role: ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' }}{{ message['content'] | trim }}{{ '<|end|>' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
_CHUNK = 512

Progress = Callable[[int], Any]


def train_tokenizer(rows: Iterable[Row], pieces: int) -> Any:
    """A byte-level BPE tokenizer with single digits, special markers, a BOS added to raw text, and the chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    split: Any = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=pieces,
        special_tokens=list(MARKERS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((part for row in rows for text in _texts(row) for part in _unmarked(text)), trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    fast: Any = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def _texts(row: Row) -> Iterator[str]:
    if "text" in row:
        yield row["text"]
    for message in row.get("messages") or row.get("prompt") or ():
        yield message["content"]
    for key in ("chosen", "rejected"):
        if key in row:
            yield row[key]


def _unmarked(text: str) -> list[str]:
    for marker in MARKERS:
        text = text.replace(marker, "\0")
    return [part for part in text.split("\0") if part]


@dataclass
class Rows:
    """Tokenised rows of one stage. ``dropped`` rows had no answer left within the maximal length.

    ``ids`` and ``labels`` of supervised rows are lists of equal length; ``pairs`` those of preference data. ``tokens``
    counts all, ``learnt`` those that the loss sees.
    """

    hash: str = ""
    ids: list[list[int]] = field(default_factory=list)
    labels: list[list[int]] = field(default_factory=list)
    pairs: list[dict[str, list[int]]] = field(default_factory=list)
    packed: np.ndarray | None = None
    dropped: int = 0
    tokens: int = 0
    learnt: int = 0

    def __len__(self) -> int:
        return len(self.packed) if self.packed is not None else len(self.ids) or len(self.pairs)


class Encoder:
    """Tokenises rows for one tokenizer; ``max_length`` in tokens, None for no limit.

    Raises GeometryBenchError for a tokenizer without an end token or with a template that cannot be rendered.
    """

    def __init__(self, tokenizer: Any, max_length: int | None) -> None:
        if tokenizer.eos_token_id is None:
            raise GeometryBenchError(
                "The base's tokenizer has no end token (eos_token), so answers could not be ended; declare one in its "
                "tokenizer_config.json."
            )
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.chat = ChatFormat(tokenizer, max_length=None)
        self.end: int = tokenizer.eos_token_id
        self._plain = self.chat.name == PLAIN_NAME
        self._specials = set(tokenizer.all_special_ids)

    # Text

    def prompt_text(self, messages: list[dict[str, str]]) -> str:
        """The rendered conversation up to the place where the answer begins."""
        messages = self._placed(messages)
        if self._plain:
            return self._plain_text(messages) + "\n\nAssistant:"
        return self._rendered(messages, generation=True)

    def answered_text(self, prompt: str, messages: list[dict[str, str]], answer: str) -> str:
        """``prompt`` with the answer as the template writes it, to the end of the turn."""
        if self._plain:
            return f"{prompt} {answer.strip()}"
        turns = [*self._placed(messages), {"role": "assistant", "content": answer}]
        rendered = self._rendered(turns, generation=False)
        # Some templates open an answer otherwise than they write one down later; the opening is what a model is given.
        return rendered if rendered.startswith(prompt) else prompt + answer.strip()

    def _placed(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        """The messages with a system text where this template has room for it."""
        if messages[0]["role"] != "system":
            return messages
        system, rest = messages[0]["content"], messages[1:]
        if not system.strip():
            return rest
        if self.chat.system_policy == "native" or not rest:
            return messages
        return [{**rest[0], "content": f"{system}\n\n{rest[0]['content']}"}, *rest[1:]]

    def _plain_text(self, messages: list[dict[str, str]]) -> str:
        names = {"user": "User: ", "assistant": "Assistant: ", "system": ""}
        for message in messages:
            if message["role"] not in names:
                raise GeometryBenchError(
                    f"The plain format has no place for a message of the role {message['role']!r}."
                )
        return "\n\n".join(names[message["role"]] + message["content"] for message in messages)

    def _rendered(self, messages: list[dict[str, str]], *, generation: bool) -> str:
        from jinja2.exceptions import TemplateError

        assert self.chat.template is not None, "the plain format is written here"
        try:
            return self.chat.template.rendered([(m["role"], m["content"]) for m in messages], generation=generation)
        except TemplateError as error:
            roles = ", ".join(message["role"] for message in messages)
            raise GeometryBenchError(
                f"The chat template refuses a conversation of the roles {roles}: {error}."
            ) from error

    # Token ids

    def _ids(self, texts: list[str]) -> list[list[int]]:
        if not texts:
            return []
        found = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        bos = self.tokenizer.bos_token_id
        if bos is None or not self.chat.uses_bos:
            return [list(ids) for ids in found]
        return [list(ids) if ids[:1] == [bos] else [bos, *ids] for ids in found]

    def _ended(self, ids: list[int], start: int) -> list[int]:
        """``ids`` ending with the marker that ends a turn: what follows it is cut, and a missing one is added.

        A template may write a line break after the marker; a model that has stopped is never asked for it.
        """
        last = len(ids)
        while last > start and ids[last - 1] not in self._specials and not self._decoded(ids[last - 1]).strip():
            last -= 1
        if last > start and ids[last - 1] in self._specials:
            return ids[:last]
        return [*ids, self.end]

    def _decoded(self, token: int) -> str:
        return str(self.tokenizer.decode([token]))

    def answers(self, prompts: list[str], fulls: list[str]) -> list[tuple[list[int], list[int]]]:
        """(ids of the prompt, ids of the answer with its end marker), the prompt tokenised exactly as when asked."""
        made = []
        asked, told = self._ids(prompts), self._ids(fulls)
        for prompt, full, head, whole in zip(prompts, fulls, asked, told, strict=True):
            if whole[: len(head)] != head:
                # The answer's first letters merged with the prompt's last: keep the prompt that a model is given.
                whole = head + list(self.tokenizer(full[len(prompt) :], add_special_tokens=False)["input_ids"])
            whole = self._ended(whole, len(head))
            made.append((head, whole[len(head) :]))
        return made

    def documents(self, texts: list[str]) -> list[list[int]]:
        """Ids of raw texts from BOS (where the tokenizer uses one) to the end token."""
        return [ids if ids[-1:] == [self.end] else [*ids, self.end] for ids in self._ids(texts)]

    # Rows

    def supervised(self, rows: Iterable[Row], progress: Progress | None = None) -> Rows:
        """Ids and labels: the loss is on the answer of chats with its end marker, and on all of a text but its first token.

        Rows are cut at the end; one with no answer left is dropped and counted.
        """
        made, digest = Rows(), hashlib.sha256()
        for chunk in _chunks(rows, digest):
            for ids, skipped in self._examples(chunk):
                skipped = max(skipped, 1)  # nothing comes before the first token that could tell it
                labels = [IGNORED] * skipped + ids[skipped:]
                if self.max_length is not None:
                    ids, labels = ids[: self.max_length], labels[: self.max_length]
                learnt = len(labels) - min(skipped, len(labels))
                if learnt == 0:
                    made.dropped += 1
                    continue
                made.ids.append(ids)
                made.labels.append(labels)
                made.tokens += len(ids)
                made.learnt += learnt
            if progress is not None:
                progress(len(chunk))
        made.hash = f"sha256:{digest.hexdigest()}"
        return made

    def preferences(self, rows: Iterable[Row], progress: Progress | None = None) -> Rows:
        """Prompt, chosen and rejected ids, as the preference trainer collates them; too long a prompt is dropped."""
        made, digest = Rows(), hashlib.sha256()
        for chunk in _chunks(rows, digest):
            prompts = [self.prompt_text(row["prompt"]) for row in chunk]
            both = [
                [self.answered_text(p, row["prompt"], row[key]) for p, row in zip(prompts, chunk, strict=True)]
                for key in ("chosen", "rejected")
            ]
            for (head, chosen), (_, rejected) in zip(
                self.answers(prompts, both[0]), self.answers(prompts, both[1]), strict=True
            ):
                if self.max_length is not None and len(head) >= self.max_length:
                    made.dropped += 1
                    continue
                made.pairs.append({"prompt_ids": head, "chosen_ids": chosen, "rejected_ids": rejected})
                made.tokens += 2 * len(head) + len(chosen) + len(rejected)
                made.learnt += len(chosen) + len(rejected)
            if progress is not None:
                progress(len(chunk))
        made.hash = f"sha256:{digest.hexdigest()}"
        return made

    def packed(self, rows: Iterable[Row], pack: int, count: int, progress: Progress | None = None) -> Rows:
        """``count`` rows of ``pack`` tokens: documents one after another from BOS to end token, cut where a row is full.

        Raises GeometryBenchError when the rows run out first.
        """
        digest, wanted = hashlib.sha256(), count * pack
        stream = np.empty(wanted, dtype=np.int32)
        filled = 0
        for chunk in _chunks(rows, digest):
            before = filled
            for ids, _ in self._examples(chunk):
                part = ids[: wanted - filled]
                stream[filled : filled + len(part)] = part
                filled += len(part)
                if filled == wanted:
                    break
            if progress is not None:
                progress(filled - before)
            if filled == wanted:
                break
        if filled < wanted:
            raise GeometryBenchError(
                f"The pretraining text holds {filled} tokens, fewer than the {wanted} asked for; give more text, or lower "
                "`tokens`."
            )
        packed = stream.reshape(count, pack)
        return Rows(hash=f"sha256:{digest.hexdigest()}", packed=packed, tokens=wanted, learnt=count * (pack - 1))

    def _examples(self, chunk: list[Row]) -> Iterator[tuple[list[int], int]]:
        """(ids, number of leading ids without loss) of each row, in order."""
        chats = [row["messages"] for row in chunk if "messages" in row]
        prompts = [self.prompt_text(messages[:-1]) for messages in chats]
        fulls = [
            self.answered_text(prompt, messages[:-1], messages[-1]["content"])
            for prompt, messages in zip(prompts, chats, strict=True)
        ]
        answered = iter(self.answers(prompts, fulls))
        told = iter(self.documents([row["text"] for row in chunk if "text" in row]))
        for row in chunk:
            if "text" in row:
                yield next(told), 0
            else:
                head, tail = next(answered)
                yield head + tail, len(head)


def _chunks(rows: Iterable[Row], digest: Any) -> Iterator[list[Row]]:
    """Rows a few hundred at a time; their content goes into ``digest``."""
    rows = iter(rows)
    while chunk := list(itertools.islice(rows, _CHUNK)):
        for row in chunk:
            digest.update(json.dumps(row, sort_keys=True, ensure_ascii=False).encode() + b"\n")
        yield chunk
