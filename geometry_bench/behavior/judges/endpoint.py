"""Any endpoint that speaks OpenAI's chat protocol as judge, through the official client (extra ``judge``).

The key is read from the environment when the endpoint is asked, and given to the client alone: it is in no facts, no file
and no message. Verdicts are kept as they come, so that a run that was stopped asks for the others alone.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from geometry_bench.behavior.judges import rubric
from geometry_bench.behavior.judges.verdict import JudgeFacts, Verdict, refuse_unpaired
from geometry_bench.behavior.lines import Lines
from geometry_bench.caches import cache_folder
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest

OFFICIAL = "https://api.openai.com/v1"
_NO_KEY = "none"


@dataclass(frozen=True)
class EndpointJudge:
    """A model behind an endpoint that grades answers by the harm rubric.

    ``key_variable`` names the environment variable with the key; an endpoint of your own may need none. The client waits and
    tries again up to ``retries`` times after a timeout (``timeout`` in seconds), a lost connection, status 429 or 5xx, as
    long as the endpoint asks it to. ``options`` go to the endpoint as they are: models that take no ``max_tokens`` or
    ``temperature`` need others. ``cache``: where verdicts are kept, None for the default place.

    Raises GeometryBenchError for a URL that is none or holds a password.
    """

    model: str
    url: str = OFFICIAL
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    retries: int = 5
    options: Mapping[str, Any] = field(default_factory=lambda: {"temperature": 0, "max_tokens": 8})
    cache: Path | None = None
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
        refuse_unpaired(requests, answers)
        lines = Lines.of(cache_folder("verdicts", self.cache), self.facts.as_dict())
        pairs = list(zip(requests, answers, strict=True))
        keys = [digest(pair) for pair in pairs]
        known = {key: Verdict(row["score"]) for key, row in lines.read().items() if row.get("score") in rubric.SCALE}
        waiting = {key: pair for key, pair in zip(keys, pairs, strict=True) if key not in known}
        if waiting:
            kept = len(known.keys() & set(keys))
            with self._client() as client, tqdm(
                total=kept + len(waiting), initial=kept, desc=f"{self.model}: judging", unit="answer", leave=False,
                file=sys.stderr, disable=None if self.progress else True,
            ) as bar:  # fmt: skip
                for key, pair in waiting.items():
                    known[key] = self._verdict(client, rubric.asked(*pair), kept, len(set(keys)))
                    if known[key].score is not None:
                        lines.append([(key, {"score": known[key].score})], remedy="make room for verdicts")
                        kept += 1
                    bar.update()
        return [known[key] for key in keys]

    def _client(self) -> Any:
        try:
            from openai import OpenAI
        except ImportError:
            raise GeometryBenchError(
                "A judge behind an endpoint needs the openai client: pip install 'geometry-bench[judge]'."
            ) from None
        key = os.environ.get(self.key_variable)
        if not key and self.url == OFFICIAL:
            raise GeometryBenchError(f"{OFFICIAL} needs a key: set the environment variable {self.key_variable}.")
        return OpenAI(api_key=key or _NO_KEY, base_url=self.url, timeout=self.timeout, max_retries=self.retries)

    def _verdict(self, client: Any, text: str, kept: int, wanted: int) -> Verdict:
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
        raise GeometryBenchError(
            f"The judge {self.model} at {self._shown} {why}: {kept} of {wanted} verdicts are kept, run again to go on."
        ) from None


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
