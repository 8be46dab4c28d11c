"""A model card's part on geometric claims: ``model-index`` metadata of the Hub, and markdown for people.

Pure functions of judgements of one subject. What fails comes before what holds.
"""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from tabulate import tabulate

from geometry_bench.claims.model import Claim
from geometry_bench.claims.registry import CLAIMS
from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.estimates import Estimate
from geometry_bench.records.facts import ModelFacts, PromptInputs
from geometry_bench.records.judgement import BaselineVerdict, ClaimVerdict, Judgement, PublishedVerdict, Reason
from geometry_bench.report.command import command_of
from geometry_bench.report.glance import CONTROL

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

DATASET = "geometry-bench"
"""``dataset.type`` of our entries in a model-index, by which they are found again."""

BEGIN = "<!-- geometry-bench card: what follows up to the closing line is written by `geometry-bench card` -->"
END = "<!-- geometry-bench card: end -->"
HOME = "https://github.com/geometry-bench/geometry-bench"

_NONE = "–"
_HEADINGS = {
    ClaimVerdict.FAILS: "Fails",
    ClaimVerdict.INCONCLUSIVE: "Cannot be told",
    ClaimVerdict.HOLDS: "Holds",
    ClaimVerdict.NOT_APPLICABLE: "Has no value",
}


# Metadata


def eval_results(judged: Sequence[Judgement], claims: Mapping[str, Claim] = CLAIMS) -> list[EvalResult]:
    """One result of the Hub's schema for each case with a value: its interval, null and verdicts are its arguments."""
    from huggingface_hub import EvalResult

    results = []
    for one in judged:
        measured, estimate = one.measurement, one.measurement.estimate
        if estimate is None or estimate.value is None:
            continue
        claim = claims[measured.claim]
        results.append(
            EvalResult(
                task_type="text-generation",
                task_name="Geometric claims about activations and weights",
                dataset_type=DATASET,
                dataset_name=f"geometry-bench: {_prompts(one) or 'weights'}",
                dataset_config=claim.id,
                metric_type=claim.metric,
                metric_name=measured.key,
                metric_value=round(estimate.value, 6),
                metric_args=_arguments(one, estimate),
            )
        )
    return results


def _arguments(judged: Judgement, estimate: Estimate) -> dict[str, Any]:
    null, subject = estimate.null, judged.measurement.subject
    stored = judged.baseline.verdict
    known = {
        "claim_version": judged.measurement.claim_version,
        "interval_95": None if estimate.low is None or estimate.high is None else _rounded(estimate.low, estimate.high),
        "null_5_to_95": None if null is None else _rounded(null.low, null.high),
        "null_is": None if null is None else null.name,
        "holds": str(judged.claim.verdict),
        "as_published": _unless(judged.published.verdict, PublishedVerdict.NO_FIGURE),
        "as_stored": _unless(stored, BaselineVerdict.NO_BASELINE),
        "revision": subject.revision,
        "dtype": subject.dtype,
    }
    return {name: value for name, value in known.items() if value is not None}


def _rounded(*values: float) -> list[float]:
    return [round(value, 6) for value in values]


def _unless(verdict: StrEnum, nothing: StrEnum) -> str | None:
    return None if verdict is nothing else str(verdict)


def model_index(judged: Sequence[Judgement]) -> list[dict[str, Any]]:
    """The results as the Hub's ``model-index``, under the subject's name."""
    from huggingface_hub.repocard_data import eval_results_to_model_index

    return eval_results_to_model_index(judged[0].measurement.subject.name, eval_results(judged))


# Markdown


def section(judged: Sequence[Judgement]) -> str:
    """The markdown between its markers: what was measured on what, what fails, what cannot be told, what holds, how."""
    asked = [one for one in judged if one.was_asked]
    claims = [one for one in asked if not one.measurement.claim.startswith(CONTROL)]
    parts = [
        "## Geometric claims",
        _what_was_measured(judged),
        _counts(asked, claims),
        *(_verdict(verdict, [one for one in claims if one.claim.verdict is verdict]) for verdict in _HEADINGS),
        _values(asked),
        _reproduction(asked),
    ]
    body = "\n\n".join(part for part in parts if part)
    if BEGIN in body or END in body:
        raise GeometryBenchError("A name among these measurements holds the lines that a card's section is found by.")
    return f"{BEGIN}\n{body}\n{END}"


def _what_was_measured(judged: Sequence[Judgement]) -> str:
    subject = judged[0].measurement.subject
    model = subject if isinstance(subject, ModelFacts) else None
    facts = [
        f"revision {code(subject.revision)}",
        *([f"{model.layers} blocks × {model.width}"] if model is not None else []),
        *([escaped(str(fact)) for fact in (subject.dtype, subject.attention, subject.quantisation) if fact]),
        *([f"on {escaped(model.device)}"] if model is not None else []),
    ]
    prompts = dict.fromkeys(filter(None, map(_prompts, judged)))
    read = f" with {escaped(', '.join(prompts))}" if prompts else ""
    return (
        f"[geometry-bench]({HOME}) measured published claims about the geometry of aligned language models on "
        f"{code(subject.name)} ({', '.join(facts)}){read}."
    )


def _prompts(judged: Judgement) -> str:
    inputs = judged.measurement.inputs
    if not isinstance(inputs, PromptInputs):
        return ""
    return f"prompts {inputs.pack}" if inputs.pack else "requests"


def _counts(asked: Sequence[Judgement], claims: Sequence[Judgement]) -> str:
    count = {verdict: sum(one.claim.verdict is verdict for one in claims) for verdict in ClaimVerdict}
    beyond = sum(one.claim.reason is Reason.BEYOND_NULL for one in claims)
    controls = [one for one in asked if one.measurement.claim.startswith(CONTROL)]
    right = sum(one.claim.verdict is ClaimVerdict.HOLDS for one in controls)
    checked = f" {right} of {len(controls)} controls of the instrument are as they should be." if controls else ""
    unasked = "" if claims else " None of the claims was asked for."
    return (
        f"Of {len(claims)} cases **{count[ClaimVerdict.FAILS]} fail**, {count[ClaimVerdict.INCONCLUSIVE]} cannot be told, "
        f"{count[ClaimVerdict.HOLDS]} hold ({beyond} of them beyond what a null distribution brings), and "
        f"{count[ClaimVerdict.NOT_APPLICABLE]} have no value here.{checked}{unasked} These are claims, not marks of "
        "quality: no score sums them up, and a direction between prompts need not control what the model does."
    )


def _verdict(verdict: ClaimVerdict, judged: Sequence[Judgement]) -> str:
    """The claims of one verdict; of what does not hold, the reason for each case."""
    if not judged:
        return ""
    by_claim: dict[str, list[Judgement]] = {}
    for one in judged:
        by_claim.setdefault(one.measurement.claim, []).append(one)
    lines = [f"### {_HEADINGS[verdict]} ({len(judged)})", ""]
    for id, of_claim in by_claim.items():
        cases = [code(one.measurement.case) for one in of_claim if one.measurement.case]
        of_cases = f" ({', '.join(cases)})" if cases else ""
        lines.append(f"- {code(id)}{of_cases}: {escaped(CLAIMS[id].statement)}")
        if verdict is ClaimVerdict.FAILS:  # each with its numbers
            lines += [f"  - {_named(one)}{escaped(one.claim.sentence)}" for one in of_claim]
        elif verdict is not ClaimVerdict.HOLDS:
            lines += [f"  - {escaped(reason)}" for reason in dict.fromkeys(map(_reason, of_claim))]
    return "\n".join(lines)


def _named(judged: Judgement) -> str:
    return f"{code(judged.measurement.case)}: " if judged.measurement.case else ""


def _reason(judged: Judgement) -> str:
    missing = judged.measurement.missing
    return str(judged.claim.reason) if missing is None else missing.sentence


def _values(judged: Sequence[Judgement]) -> str:
    rows = [_row(one) for one in judged if one.measurement.estimate is not None]
    if not rows:
        return ""
    headers = ("case", "value [95 % interval]", "null, 5 to 95 %", "holds?", "as published?", "as stored?")
    used = [place for place in range(len(headers)) if any(row[place] != _NONE for row in rows)]
    table = tabulate(
        [[row[place] for place in used] for row in rows],
        [headers[place] for place in used],
        tablefmt="pipe",
        disable_numparse=True,
    )
    return f"### Values\n\n{table}"


def _row(judged: Judgement) -> tuple[str, ...]:
    estimate, reported, old = (
        judged.measurement.estimate,
        judged.published.number("reported"),
        judged.baseline.number("old"),
    )
    assert estimate is not None
    published, baseline = judged.published.verdict, judged.baseline.verdict
    value = _NONE if estimate.value is None else f"{estimate.value:+.3f}"
    if estimate.low is not None and estimate.high is not None:
        value += f" [{estimate.low:+.3f}, {estimate.high:+.3f}]"
    label = f" {escaped(estimate.label)}" if estimate.label else ""
    null = estimate.null
    return (
        code(judged.measurement.key),
        value + label,
        "none" if null is None else f"{null.low:+.2f} to {null.high:+.2f}",
        f"{judged.claim.verdict} ({judged.claim.reason})",
        _NONE if published is PublishedVerdict.NO_FIGURE or reported is None else f"{published} ({reported:+.2f})",
        _NONE if baseline is BaselineVerdict.NO_BASELINE else f"{baseline}{'' if old is None else f' ({old:+.3f})'}",
    )


def _reproduction(judged: Sequence[Judgement]) -> str:
    """The commands that measure these cases again, one for claims that take the same options."""
    commands: dict[tuple[str, ...], dict[str, None]] = {}
    where: dict[str, None] = {}
    for one in judged:
        command = command_of(one.measurement, CLAIMS[one.measurement.claim])
        words = shlex.split(command.line)
        named = len(words) > 2 and words[-2] == "--claim"
        commands.setdefault(tuple(words[:-2] if named else words), {}).update({words[-1]: None} if named else {})
        where |= dict.fromkeys(command.where)
    lines = [
        shlex.join([*words, *(part for claim in claims for part in ("--claim", claim))])
        for words, claims in commands.items()
    ]
    text = "\n".join(lines)
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    meant = "".join(f"\n\nHere {escaped(one)}." for one in where)
    return f"### Measure it again\n\n{fence}sh\n{text}\n{fence}{meant}"


def escaped(text: str) -> str:
    """Text that markdown shows as it is, in one line: no table, markup, HTML or change of writing direction comes of it."""
    line = " ".join(re.sub(r"[\x00-\x08\x0b-\x1f\x7f\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", text).split())
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", html.escape(line, quote=False))


def code(text: str) -> str:
    """A name as code where it is made of the letters of names, else as escaped text."""
    return f"`{text}`" if re.fullmatch(r"[\w.,:/@~=+ \[\]-]+", text, re.ASCII) else escaped(text)
