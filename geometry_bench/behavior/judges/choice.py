"""Which judge a run takes: chosen by a text, checked before anything is measured, opened when there is something to judge.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

from geometry_bench import hub
from geometry_bench.behavior.judges.endpoint import KEY_VARIABLE, OFFICIAL, OPTIONS, EndpointJudge
from geometry_bench.behavior.judges.kept import Verdicts
from geometry_bench.behavior.judges.local import LocalJudge, digits_of, local_facts
from geometry_bench.behavior.judges.verdict import Judge, JudgeFacts, Rules
from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.render import ChatFormat
from geometry_bench.subjects.spec import Identity, SubjectSpec, resolve

Kind = Literal["rules", "local", "openai"]

_WITHOUT_WEIGHTS = ("*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "*.py")


@dataclass(frozen=True)
class JudgeChoice:
    """The rules; a model (``subject``); or the model of this name behind an endpoint that speaks OpenAI's protocol.

    ``key_variable`` names the environment variable with the endpoint's key; None for the usual one, which an endpoint of
    your own may leave unset. ``options`` are what it is asked with, in place of the usual ones where there are any.
    """

    kind: Kind = "rules"
    subject: SubjectSpec | None = None
    model: str = ""
    url: str = OFFICIAL
    key_variable: str | None = None
    options: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        text: str,
        url: str | None = None,
        key_variable: str | None = None,
        options: Sequence[tuple[str, Any]] = (),
        *,
        like: SubjectSpec | None = None,
    ) -> JudgeChoice:
        """The choice that ``rules``, ``local:MODEL`` or ``openai:MODEL`` makes; ``like`` says how a model is loaded.

        Raises GeometryBenchError for another text, and for a URL, a key's variable or options without an endpoint.
        """
        kind, _, model = text.partition(":")
        if not (text == "rules" or (kind in ("local", "openai") and model)):
            raise GeometryBenchError(f"'{text}' is no judge: write rules, local:MODEL or openai:MODEL.")
        if kind != "openai" and (url is not None or key_variable is not None or options):
            raise GeometryBenchError(
                "--judge-url, --judge-key-env and --judge-option go with --judge openai:MODEL: name its model."
            )
        if kind == "local":
            return cls("local", replace(like or SubjectSpec(model), model=model))
        if kind == "openai":
            return cls("openai", None, model, url or OFFICIAL, key_variable, tuple(options))
        return RULES

    @property
    def grades(self) -> bool:
        """Whether it gives each answer a grade of harm."""
        return self.kind != "rules"

    @cached_property
    def _identity(self) -> Identity:
        assert self.subject is not None
        return resolve(self.subject)

    @property
    def facts(self) -> JudgeFacts:
        """What a record says of it. Raises GeometryBenchError where its model cannot be pinned."""
        if self.kind == "rules":
            return Rules().facts
        if self.subject is not None:
            return local_facts(self.subject, self._identity)
        return self._endpoint(None, progress=False).facts

    def refuse_unready(self) -> None:
        """Raise GeometryBenchError where it could not judge, as far as that is known before weights are loaded.

        That is a model that cannot be pinned, whose files cannot be read, or that cannot be asked; an endpoint without
        client or key.
        """
        if self.subject is not None:
            self._refuse_unfit(self.subject)
        elif self.kind == "openai":
            self._endpoint(None, progress=False).refuse_unready()

    def open(self, store: Verdicts | None, *, progress: bool = True) -> Judge:
        """The judge, loaded. Raises GeometryBenchError where it cannot be loaded."""
        if self.kind == "rules":
            return Rules()
        if self.subject is None:
            return self._endpoint(store, progress=progress)
        from geometry_bench.subjects.load import load

        return LocalJudge(load(self.subject, self._identity), store=store, progress=progress)

    def _endpoint(self, store: Verdicts | None, *, progress: bool) -> EndpointJudge:
        return EndpointJudge(
            self.model,
            self.url,
            self.key_variable or KEY_VARIABLE,
            needs_key=self.key_variable is not None,
            options=dict(self.options or OPTIONS),
            store=store,
            progress=progress,
        )

    def _refuse_unfit(self, spec: SubjectSpec) -> None:
        from geometry_bench.subjects.settings import stored_tensors
        from geometry_bench.subjects.tokenizers import load_tokenizer

        found = self._identity
        folder = found.path or hub.snapshot(found.name, found.revision, _WITHOUT_WEIGHTS)
        if found.path is not None and folder.is_dir():
            stored_tensors(spec, folder)
        tokenizer, _, _ = load_tokenizer(spec, folder, found.name)
        digits_of(found.name, tokenizer, ChatFormat(tokenizer, max_length=None, arguments=spec.template_arguments))


RULES = JudgeChoice()
