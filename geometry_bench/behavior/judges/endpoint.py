"""Any endpoint that speaks OpenAI's chat protocol as judge, through the official client (extra ``judge``).

The key is read from the environment when the endpoint is asked, and given to the client alone: it is in no facts, no file
and no message. Verdicts are kept as they come, so that a run that was stopped asks for the others alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from geometry_bench.behavior.judges import rubric
from geometry_bench.behavior.judges.kept import Grading, Pair, Verdicts
from geometry_bench.behavior.judges.verdict import JudgeFacts, UnansweredError, Verdict
from geometry_bench.errors import GeometryBenchError

OFFICIAL = "https://api.openai.com/v1"
KEY_VARIABLE = "OPENAI_API_KEY"
OPTIONS: Mapping[str, Any] = {"temperature": 0, "max_tokens": 8}
_NO_KEY = "none"


@dataclass(frozen=True)
class EndpointJudge:
    """A model behind an endpoint that grades answers by the harm rubric.

    ``key_variable`` names the environment variable with the key; an endpoint of your own may need none. The client waits and
    tries again up to ``retries`` times after a timeout (``timeout`` in seconds), a lost connection, status 429 or 5xx, as
    long as the endpoint asks it to. ``options`` go to the endpoint as they are: models that take no ``max_tokens`` or
    ``temperature`` need others. ``store``: where verdicts are kept, None for nowhere. ``needs_key``: whether the variable
    must be set; OpenAI's own endpoint always needs it.

    Raises GeometryBenchError for a URL that is none or holds a password.
    """

    model: str
    url: str = OFFICIAL
    key_variable: str = KEY_VARIABLE
    needs_key: bool = False
    timeout: float = 60.0
    retries: int = 5
    options: Mapping[str, Any] = field(default_factory=lambda: OPTIONS)
    store: Verdicts | None = field(default_factory=Verdicts)
    progress: bool = True

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise GeometryBenchError(f"The judge's URL {self._shown} is none: give one like http://127.0.0.1:8000/v1.")
        if parts.username is not None or parts.query:
            raise GeometryBenchError(
                f"The judge's URL for {parts.hostname} holds a name, a password or a query: give the key in the environment."
            )

    @property
    def _shown(self) -> str:
        return self.url.rpartition("@")[2].partition("?")[0]

    @property
    def facts(self) -> JudgeFacts:
        """Rubric, model, URL, and what it is asked with."""
        options = tuple(sorted(self.options.items()))
        return JudgeFacts("endpoint", rubric.VERSION, rubric.HASH, rubric.SCALE, f"{self.model} at {self.url}", options)

    def judge(self, requests: Sequence[str], answers: Sequence[str]) -> list[Verdict]:
        """A verdict on each answer; none, with the reason, where the reply is no grade. Such an answer is asked for again.

        Raises GeometryBenchError where the client is not installed or the key is missing, and where the endpoint cannot be
        reached or turns requests away: verdicts given until then are kept, and the next call goes on there.
        """
        return Grading(self.store, self.model, self.progress).verdicts(self.facts, requests, answers, self._asked)

    def refuse_unready(self) -> None:
        """Raise GeometryBenchError where the client is not installed or the key is missing; the endpoint is not asked."""
        self._client().close()

    def _asked(self, pairs: Sequence[Pair]) -> Iterator[Verdict]:
        with self._client() as client:
            for pair in pairs:
                yield self._verdict(client, rubric.asked(*pair))

    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ImportError:
            raise GeometryBenchError(
                "A judge behind an endpoint needs the openai client: pip install 'geometry-bench[judge]'."
            ) from None
        key = os.environ.get(self.key_variable)
        if not key and (self.needs_key or self.url == OFFICIAL):
            raise GeometryBenchError(f"{self.url} needs a key: set the environment variable {self.key_variable}.")
        return OpenAI(api_key=key or _NO_KEY, base_url=self.url, timeout=self.timeout, max_retries=self.retries)

    def _verdict(self, client: Any, text: str) -> Verdict:
        import openai

        try:
            reply = client.chat.completions.create(
                model=self.model, messages=[{"role": "user", "content": text}], **self.options
            )
        except openai.APITimeoutError:
            why = f"did not answer within {self.timeout:g} s"
        except openai.APIConnectionError:
            why = "cannot be reached"
        except openai.RateLimitError:
            why = "turns requests away for their number (status 429)"
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            why = f"does not accept the key in {self.key_variable}"
        except openai.APIStatusError as error:
            why = f"answers with status {error.status_code}; check model, URL and options"
        except (openai.OpenAIError, ValueError):
            why = "answers with something that is not the protocol"
        else:
            return _read(reply)
        # The client's own message may repeat what was sent, the key included: it is not passed on.
        raise UnansweredError(f"The judge {self.model} at {self._shown} {why}") from None


def _read(reply: Any) -> Verdict:
    """The verdict in a reply of the chat protocol."""
    choices = getattr(reply, "choices", None)
    message = getattr(choices[0], "message", None) if choices else None
    if message is None:
        return Verdict(None, "the judge's reply is not of the chat protocol")
    if getattr(message, "refusal", None):
        return Verdict(None, "the judge refused to grade")
    content = getattr(message, "content", None)
    score = rubric.score_in(content) if isinstance(content, str) else None
    return Verdict(score) if score is not None else Verdict(None, "the judge's reply is no grade from 1 to 5")
