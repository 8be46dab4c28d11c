"""A subject as a model of lm-eval's: scores and answers, with interventions in effect.

Texts become tokens as lm-eval's own ``HFLM`` makes them of a transformers model: as the tokenizer does with its special
tokens, without them where a text begins with the BOS, and an empty context is the BOS (the end token where there is none).
Contexts that are too long lose their beginning. Two things differ. Chats are written by the subject's chat format, under its
fixed date and policy for system prompts. And answers come from `generation.generate`, which takes end tokens alone from a
model's generation configuration, where ``HFLM`` takes a repetition penalty too.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lm_eval.api.model import TemplateLM
from lm_eval.models.utils import normalize_gen_kwargs, resolve_max_length
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from geometry_bench.behavior.end_tokens import end_tokens
from geometry_bench.behavior.generation import Settings, generate
from geometry_bench.behavior.interventions import Intervention
from geometry_bench.behavior.perplexity import scored
from geometry_bench.behavior.store import Answers
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.settings import position_limit
from geometry_bench.subjects.subject import Subject

_KNOWN = {"until", "max_gen_toks", "do_sample", "temperature", "top_p"}
"""What a task may ask of generation."""


class SubjectLM(TemplateLM):  # type: ignore[misc]
    """What lm-eval asks of a model, answered by a subject as it is when asked.

    ``batch_size``: texts of a pass, at most. ``store``: where answers are kept. ``shortened`` counts the contexts
    that lost their beginning.
    """

    def __init__(
        self,
        subject: Subject,
        interventions: Sequence[Intervention] = (),
        *,
        batch_size: int | None = None,
        store: Answers | None = None,
        progress: bool = True,
        label: str = "",
    ) -> None:
        super().__init__()
        self.subject, self.tokenizer, self.interventions = subject, subject.tokenizer, tuple(interventions)
        self._batch_size, self._store, self._progress, self._label = batch_size, store, progress, label
        known = position_limit(subject.text_config, subject.tokenizer)
        longest = int(resolve_max_length(subject.text_config, subject.tokenizer))
        self.max_length = longest if known is None else min(longest, known)
        self.shortened = 0

    # Tokens

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        own = self.tokenizer.eos_token_id
        return int(own if own is not None else end_tokens(self.subject)[0])

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else int(bos)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """Token ids of a text; special tokens are those of the tokenizer, and none where the text begins with the BOS."""
        if add_special_tokens is None and string.startswith(self.tokenizer.decode(self.prefix_token_id)):
            add_special_tokens = False
        given = {} if add_special_tokens is None else {"add_special_tokens": add_special_tokens}
        return list(self.tokenizer.encode(string, **given))

    @property
    def tokenizer_name(self) -> str:
        """What lm-eval keeps requests under."""
        return f"{self.subject.tokenizer_hash}-{self.subject.chat.template_hash}"

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as the subject's template writes it; without a generation prompt its last turn is left open.

        Raises GeometryBenchError for a subject without chat template, and for a system prompt that it has no place for.
        """
        template, turns = self.subject.chat.template, [(one["role"], one["content"]) for one in chat_history]
        if template is None:
            raise GeometryBenchError(f"{self.subject.identity.name} has no chat template: run its tasks without chat.")
        if turns[0][0] == "system" and self.subject.chat.system_policy != "native":
            (_, system), (role, first), *rest = turns
            if self.subject.chat.system_policy == "not_applicable":
                raise GeometryBenchError(
                    f"{self.subject.identity.name} takes no system prompt: run tasks without a description."
                )
            turns = [(role, f"{system}\n\n{first}"), *rest]
        if add_generation_prompt:
            return template.rendered(turns)
        return template.rendered(turns[:-1]) + turns[-1][1]

    # Scores

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any
    ) -> list[tuple[float, bool]]:
        texts = []
        for _texts, context, continuation in requests:
            ids = [*context, *continuation][-(self.max_length + 1) :]
            self.shortened += len(ids) < len(context) + len(continuation)
            texts.append((ids, len(ids) - len(continuation)))
        with self._bar("scores", len(texts)) as bar:
            found = scored(
                self.subject,
                texts,
                interventions=self.interventions,
                batch_size=self._batch_size,
                done=bar.update,
            )
        return [(-one.nats, one.greedy) for one in found]

    def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> list[tuple[float, bool]]:
        """Log-likelihood in nats of each continuation, and whether it is what the model would say."""
        found: list[tuple[float, bool]] = super().loglikelihood(requests, disable_tqdm=True)
        return found

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> list[float]:
        """Log-likelihood in nats of whole texts, in windows of the model's positions."""
        windows: list[tuple[None, list[int], list[int]]] = []
        owners: list[int] = []
        for place, request in enumerate(requests):
            rolling = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            for window in map(make_disjoint_window, rolling):
                windows.append((None, *window))
                owners.append(place)
        totals: Counter[int] = Counter()
        for place, (value, _) in zip(owners, self._loglikelihood_tokens(windows), strict=True):
            totals[place] += value  # type: ignore[assignment]
        return [float(totals[place]) for place in range(len(requests))]

    # Answers

    def generate_until(self, requests: Any, disable_tqdm: bool = True) -> list[str]:
        """What the subject says to each context, up to any of the texts at which it is to stop."""
        asked: dict[Settings, list[int]] = {}
        for place, request in enumerate(requests):
            asked.setdefault(_settings(request.args[1]), []).append(place)
        said: dict[int, str] = {}
        for settings, places in asked.items():
            room = self.max_length - settings.new_tokens
            if room < 1:
                raise GeometryBenchError(
                    f"A task asks for {settings.new_tokens} tokens, and {self.subject.identity.name} has "
                    f"{self.max_length} positions: give the task a smaller max_gen_toks."
                )
            whole = [self.tok_encode(requests[place].args[0]) for place in places]
            self.shortened += sum(len(ids) > room for ids in whole)
            prompts = [ids[-room:] for ids in whole]
            longest = max(map(len, prompts)) + settings.new_tokens
            answers = generate(
                self.subject,
                prompts,
                settings,
                interventions=self.interventions,
                token_budget=None if self._batch_size is None else self._batch_size * longest,
                progress=self._progress,
                label=self._label,
                store=self._store,
            )
            said |= {place: answer.text for place, answer in zip(places, answers, strict=True)}
        return [said[place] for place in range(len(requests))]

    def _bar(self, what: str, total: int) -> Any:
        return tqdm(
            total=total, desc=f"{self._label}: {what}" if self._label else what, unit="text", leave=False,
            file=sys.stderr, disable=None if self._progress else True,
        )  # fmt: skip


def _settings(asked: Mapping[str, Any]) -> Settings:
    """What a task asks of generation, as settings; raises GeometryBenchError for what is not known here."""
    wanted = dict(normalize_gen_kwargs(dict(asked)))
    unknown = sorted(set(wanted) - _KNOWN)
    if unknown:
        raise GeometryBenchError(
            f"A task asks for generation with {', '.join(unknown)}, which is not known here: it may ask for "
            f"{', '.join(sorted(_KNOWN))}."
        )
    stop = wanted.get("until") or ()
    return Settings(
        int(wanted["max_gen_toks"]),
        float(wanted.get("temperature") or 0.0) if wanted.get("do_sample") else 0.0,
        float(wanted.get("top_p", 1.0)),
        stop=tuple(filter(None, [stop] if isinstance(stop, str) else stop)),
    )
