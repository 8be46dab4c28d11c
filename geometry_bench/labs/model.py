"""One model's measured quantities, each computed once and shared by all claims: the only door to the heavy parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np

from geometry_bench.activations.pooling import LAST, Pooling
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.directions import Array
from geometry_bench.geometry.groups import Group, Summed, deal_topics
from geometry_bench.geometry.moments import Folding, Moments
from geometry_bench.labs.memo import Memo, remembered
from geometry_bench.labs.requirements import NOTHING, RequestRendering, Wanted
from geometry_bench.prompts.pack import Pack, without_opening
from geometry_bench.prompts.roles import RequestSettings
from geometry_bench.prompts.sets import RequestSet
from geometry_bench.records.facts import ModelFacts, Requested
from geometry_bench.records.measurement import Absence, NotApplicableError
from geometry_bench.subjects.spec import Identity, SubjectSpec

if TYPE_CHECKING:
    from geometry_bench.activations.cache import Cache
    from geometry_bench.behavior.store import Answers
    from geometry_bench.prompts.render import Encoded
    from geometry_bench.subjects.subject import Subject

Rendering = Literal["published", "corrected"]
States = Mapping[str, Array]
"""Condition -> pooled block outputs (messages, layers, width)."""

GROUPS = 10
FEWEST_GROUPS = 4
"""Groups of whole topics that a set is resampled by."""

GROUPED_AT_MOST = 2 * 1024**3
"""Bytes that a set's groups may take."""


@dataclass(frozen=True)
class CaptureSettings:
    """How forward passes are batched, by the names of ``capture``; none of it changes a value beyond numerical noise."""

    batch_size: int | None = None
    token_budget: int | None = None
    padding: Literal["right", "left"] = "right"
    progress: bool = True


@dataclass(frozen=True)
class Requests:
    """A set of requests and what the model made of it.

    ``states`` are pooled block outputs (requests, layers, width), float32; ``lengths`` are tokens, BOS included.
    """

    requests: RequestSet
    states: Mapping[Pooling, Array]
    lengths: tuple[int, ...]
    truncated: int

    @property
    def topics(self) -> list[str]:
        """One label a request, for resampling by topic."""
        return self.requests.topics


@dataclass(frozen=True)
class Grouped:
    """A set's pooled block outputs in groups of whole topics: prompts (prompts, blocks, width) or their moments.

    ``blocks`` are those that were kept, ``prompts`` the number of all prompts.
    """

    parts: Mapping[Pooling, Sequence[Array | Moments]]
    blocks: tuple[int, ...]
    prompts: int

    @property
    def groups(self) -> int:
        """Number of groups."""
        return len(next(iter(self.parts.values())))

    def at(self, pooling: Pooling, block: int) -> list[Group]:
        """The groups at one block."""
        place = self.blocks.index(block)
        return [
            Summed(part.count, part.mean[place], part.cross[place]) if isinstance(part, Moments) else part[:, place]
            for part in self.parts[pooling]
        ]


class Lab(Memo):
    """What claims may ask of one model.

    It is loaded on the first question that needs it, so that a resumed run loads nothing; ``subject`` is one that is in
    memory already. ``wanted`` are the poolings that all claims of the run read, captured together. ``store`` keeps answers.
    """

    def __init__(
        self,
        spec: SubjectSpec,
        identity: Identity,
        pack: Pack,
        capture: CaptureSettings | None = None,
        cache: Cache | None = None,
        requests: RequestSettings | None = None,
        wanted: Wanted = NOTHING,
        subject: Subject | None = None,
        store: Answers | None = None,
    ) -> None:
        super().__init__()
        self.spec, self.identity, self.pack = spec, identity, pack
        self.request_settings, self.wanted = requests or RequestSettings(), wanted
        self.capture_settings, self._cache, self.store = capture or CaptureSettings(), cache, store
        self._requests: dict[tuple[str, RequestRendering], Requests] = {}
        if subject is not None:
            self.subject = subject

    @cached_property
    def subject(self) -> Subject:
        """The loaded model.

        Raises:
            GeometryBenchError: it cannot be loaded.
        """
        from geometry_bench.subjects.load import load

        return load(self.spec, self.identity)

    @contextmanager
    def twin(self, seed: int = 0) -> Iterator[Lab]:
        """The lab of an untrained model of this one's shape: same prompts, same settings. It is let go afterwards.

        What is captured of it is kept in the disk cache as that of any model.

        Raises:
            NotApplicableError: it cannot be built.
        """
        from geometry_bench.subjects.twin import untrained_twin

        try:
            subject = untrained_twin(self.subject, seed)
        except GeometryBenchError as error:
            raise NotApplicableError(Absence.NO_TWIN, str(error)) from error
        lab = Lab(
            self.spec,
            subject.identity,
            self.pack,
            self.capture_settings,
            self._cache,
            self.request_settings,
            self.wanted,
            subject,
        )
        try:
            yield lab
        finally:
            lab.close()

    @property
    def layers(self) -> int:
        """Number of decoder blocks."""
        return self.subject.n_layers

    def conditions(self, messages: str) -> dict[str, str]:
        """Every condition measured on a message set: name -> system text.

        The pack's keys, ``bare:KEY`` (without its opening formula), ``control:ID``; on the benign messages alone
        ``safety_control:ID`` and ``topic:ID``.
        """
        texts = dict(self.pack.systems)
        texts |= {f"bare:{key}": without_opening(self.pack, key) for key in self.pack.openings}
        texts |= {f"control:{key}": text for key, text in self.pack.controls.items()}
        if messages == "benign":
            texts |= {f"safety_control:{key}": text for key, text in self.pack.safety_controls.items()}
            texts |= {f"topic:{key}": text for key, text in self.pack.safety_topics.items()}
        return texts

    @remembered
    def encoded(self, messages: str, rendering: Rendering) -> Mapping[str, list[Encoded]]:
        """Condition -> token ids of each message under it.

        The ``published`` rendering covers the pack's own keys and their bare forms alone: controls are the corrected
        variant's.
        """
        chat = self.subject.chat
        return {
            condition: [
                chat.encode(text, message.text, doubled_bos=rendering == "published")
                for message in self.pack.messages[messages]
            ]
            for condition, text in self.conditions(messages).items()
            if rendering == "corrected" or not condition.startswith(("control:", "safety_control:", "topic:"))
        }

    @remembered
    def states(self, messages: str, rendering: Rendering) -> States:
        """Last-token block outputs of every condition: name -> (messages, layers, width), float32.

        Where both renderings give the same tokens they share one capture; not in 16 bits, where batching changes values
        beyond the source's resolution and the source passed one prompt at a time.
        """
        alone = rendering == "published" and self.subject.dtype not in ("float32", "float64")
        if rendering == "published" and not alone and self.same_tokens(messages):
            return self.states(messages, "corrected")
        settings = replace(self.capture_settings, batch_size=1) if alone else self.capture_settings
        return self._captured(self.encoded(messages, rendering), f"{self.identity.name}: {messages}", settings)

    def same_tokens(self, messages: str) -> bool:
        """Whether both renderings give the same tokens of a message set under every condition."""
        corrected = self.encoded(messages, "corrected")
        return all(corrected[name] == prompts for name, prompts in self.encoded(messages, "published").items())

    def _captured(self, encoded: Mapping[str, list[Encoded]], label: str, settings: CaptureSettings) -> States:
        prompts = [prompt.ids for condition in encoded.values() for prompt in condition]
        pooled = self._pooled(prompts, (LAST,), label, settings)[LAST]
        ends = np.cumsum([len(condition) for condition in encoded.values()])[:-1]
        return dict(zip(encoded, np.split(pooled, ends), strict=True))

    def _pooled(
        self,
        prompts: Sequence[Sequence[int]],
        poolings: Sequence[Pooling],
        label: str,
        settings: CaptureSettings | None = None,
    ) -> Mapping[Pooling, Array]:
        from geometry_bench.activations.capture import capture

        how = asdict(settings or self.capture_settings)
        return capture(self.subject, prompts, poolings, label=label, cache=self._cache, **how)

    @remembered
    def encoded_requests(self, name: str, rendering: RequestRendering) -> list[Encoded]:
        """Token ids of each request drawn of a set."""
        chat, texts = self.subject.chat, self.request_settings.load(name).texts
        return [chat.encode_text(text) if rendering == "text" else chat.encode("", text) for text in texts]

    def requests(
        self, name: str, *, rendering: RequestRendering, poolings: Sequence[Pooling] | None = None
    ) -> Requests:
        """Pooled block outputs of the requests drawn of a set.

        Every pooling that claims of the run read is captured in one pass (``wanted``); others named in ``poolings`` too, at
        the price of another pass where the set has been captured already.

        Raises:
            GeometryBenchError: there is no such set.
        """
        key = (name, rendering)
        known = self._requests.get(key)
        wanted = dict.fromkeys([*self.wanted.of(name, rendering), *(poolings or ())])
        missing = [pooling for pooling in wanted if known is None or pooling not in known.states]
        if known is None or missing:
            encoded = self.encoded_requests(name, rendering)
            fresh = self._pooled([prompt.ids for prompt in encoded], missing, f"{self.identity.name}: {name}")
            self._requests[key] = Requests(
                self.request_settings.load(name),
                {**(known.states if known is not None else {}), **fresh},
                tuple(len(prompt.ids) for prompt in encoded),
                sum(prompt.truncated for prompt in encoded),
            )
        return self._requests[key]

    @remembered
    def first_tokens(self, name: str) -> Array:
        """Log-probabilities (requests, vocabulary), float32, of the token after each request of a set in a chat."""
        return self.first_tokens_now(name)

    def first_tokens_now(self, name: str) -> Array:
        """The same, computed again: under interventions."""
        from geometry_bench.behavior.first_token import first_token_logprobs

        prompts = [prompt.ids for prompt in self.encoded_requests(name, "chat")]
        how = self.capture_settings
        return first_token_logprobs(
            self.subject,
            prompts,
            token_budget=how.token_budget,
            batch_size=how.batch_size,
            progress=how.progress,
            label=f"{self.identity.name}: first tokens",
        )

    @remembered
    def encoded_under(self, name: str, systems: tuple[str, ...]) -> list[Encoded]:
        """Token ids of each request of a set under one of some system prompts of the pack, taken in turn."""
        texts = [self.pack.systems[system] for system in systems]
        drawn = self.request_settings.load(name).texts
        return [self.subject.chat.encode(texts[row % len(texts)], request) for row, request in enumerate(drawn)]

    @remembered
    def requests_under(self, name: str, systems: tuple[str, ...]) -> Array:
        """Last-token block outputs (requests, layers, width) of the requests of a set under system prompts in turn."""
        prompts = [prompt.ids for prompt in self.encoded_under(name, systems)]
        return self._pooled(prompts, (LAST,), f"{self.identity.name}: {name} under {', '.join(systems)}")[LAST]

    @contextmanager
    def changed(self, change: Callable[[Subject], AbstractContextManager[None]]) -> Iterator[Lab]:
        """A lab of the same model while it is changed; nothing that it measures is kept."""
        with change(self.subject):
            settings = (self.capture_settings, None, self.request_settings, NOTHING)
            yield Lab(self.spec, self.identity, self.pack, *settings, self.subject)

    @remembered
    def common_beginning(self, sets: tuple[str, ...], rendering: RequestRendering) -> int:
        """Tokens that all requests of these sets begin with: the BOS and, in a chat, what the template writes first.

        Where a prompt is no more than that beginning, its last token does not count.
        """
        prompts = [prompt.ids for name in sets for prompt in self.encoded_requests(name, rendering)]
        first, last = min(prompts), max(prompts)  # what these two share, all between them share
        shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
        return min(shared, min(map(len, prompts)) - 1)

    @remembered
    def grouped(
        self,
        name: str,
        rendering: RequestRendering,
        poolings: tuple[Pooling, ...],
        needed: range,
        groups: int = GROUPS,
    ) -> Grouped:
        """Pooled block outputs of a set in at most ``groups`` groups of whole topics, for second moments.

        A set that takes less memory as it is than as second moments is captured as by :meth:`requests`, the disk cache
        included; of a larger one each batch is added up at once, so that memory does not grow with the number of prompts.
        All blocks are kept where they fit ``GROUPED_AT_MOST`` bytes, else the ``needed`` ones, in fewer groups (not
        below ``FEWEST_GROUPS``) where that saves anything.

        Raises:
            GeometryBenchError: the set cannot be read, or a prompt is too short for a pooling.
        """
        drawn, every, width = self.request_settings.load(name), range(self.layers), self.subject.width

        def size(blocks: Sequence[int], dealt: int) -> int:
            return len(poolings) * dealt * Folding.size(-(-len(drawn) // dealt), len(blocks), width)

        blocks = tuple(every if size(every, groups) <= GROUPED_AT_MOST else needed)
        fewer = range(groups, FEWEST_GROUPS - 1, -1)
        groups = min(fewer, key=lambda dealt: max(size(blocks, dealt), GROUPED_AT_MOST))  # the first that fits
        codes = deal_topics(drawn.topics, len(drawn), groups)
        numbers = range(int(codes.max()) + 1)
        if 4 * len(drawn) * width * len(every) * len(poolings) <= min(size(every, groups), GROUPED_AT_MOST):
            states = self.requests(name, rendering=rendering, poolings=poolings).states
            parts: dict[Pooling, list[Array | Moments]] = {
                pooling: [states[pooling][codes == number] for number in numbers] for pooling in poolings
            }
            return Grouped(parts, tuple(every), len(drawn))

        from geometry_bench.activations.capture import capture_batches

        sums = {pooling: [Folding(len(blocks), width) for _ in numbers] for pooling in poolings}
        kept = list(blocks)
        for rows, pooled in capture_batches(
            self.subject,
            [prompt.ids for prompt in self.encoded_requests(name, rendering)],
            poolings,
            label=f"{self.identity.name}: {name}",
            **asdict(self.capture_settings),
        ):
            for pooling, values in pooled.items():
                for number in np.unique(codes[rows]):
                    sums[pooling][number].add(values[codes[rows] == number][:, kept])
        return Grouped(
            {pooling: [part.result() for part in parted] for pooling, parted in sums.items()}, blocks, len(drawn)
        )

    def same_prompt(self, a: str, b: str, messages: str) -> bool:
        """Whether two conditions give the model the very same tokens."""
        encoded = self.encoded(messages, "corrected")
        return [prompt.ids for prompt in encoded[a]] == [prompt.ids for prompt in encoded[b]]

    def facts(self, id: str) -> ModelFacts:
        """What a record says of the model, which the run calls ``id``."""
        spec = self.spec
        return ModelFacts(
            **self.subject.facts() | {"id": id, "alignment": spec.alignment},
            requested=Requested.of(spec),
            family=spec.family,
            role=spec.role,
            parent=spec.parent,
        )

    def close(self) -> None:
        """Let the model and its activations go."""
        subject = self.__dict__.pop("subject", None)
        if subject is not None:
            subject.close()
        self._requests.clear()
        self.forget()
