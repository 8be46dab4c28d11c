"""Source A: *Safety and Compassion Geometry Across Models*, its claims that need activations alone.

Every value is made of axes mean(condition) − mean(generic) over eight messages, last token of the rendered prompt, block
outputs. Compassion axes are taken on the suffering messages, safety axes on the benign ones.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from geometry_bench.claims.changes import RateChange
from geometry_bench.claims.criteria import Above, SignByAlignment
from geometry_bench.claims.model import Case, Claim
from geometry_bench.claims.safety_compassion import capping, compassion, finetune, panel, safety, validation
from geometry_bench.claims.safety_compassion.axes import BENIGN, PAIRS, SUFFERING, TRADITIONS, MessageSet, final_figure
from geometry_bench.claims.safety_compassion.layers import analysis_layers
from geometry_bench.claims.sources import SAFETY_COMPASSION
from geometry_bench.labs.requirements import Requirements
from geometry_bench.published.subject import PublishedSubject


def pair_figure(messages: MessageSet, *names: str) -> Callable[[PublishedSubject, Case], float | None]:
    """Reads the published cosine of a pair, given here or by the case's parameters."""

    def figure(published: PublishedSubject, case: Case) -> float | None:
        a, b = names or case.parameters
        return final_figure(published, messages, a, b)

    return figure


ON_SUFFERING = Requirements(system_role=True, messages=(SUFFERING,), conditions=("systems", "controls"))
ON_BENIGN = replace(ON_SUFFERING, messages=(BENIGN,), conditions=("systems", "safety_controls"))
CONTROLS_NULL = "axes of unrelated system prompts of matched length against the same reference"

CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="compassion.cross_tradition_cosine",
        version=2,  # 1 took cosines of means that share the reference's noise
        source=SAFETY_COMPASSION,
        where="cross-tradition table, final block",
        statement="Axes of any two contemplative traditions have a positive cosine.",
        measure=compassion.cross_tradition,
        null=CONTROLS_NULL,
        cases=tuple(Case(f"{a}-{b}", (a, b)) for a, b in PAIRS),
        reported=pair_figure(SUFFERING),
        requires=ON_SUFFERING,
    ),
    Claim(
        id="compassion.secular_divergence",
        version=2,  # 1 took cosines of means that share the reference's noise
        source=SAFETY_COMPASSION,
        where="cross-tradition table, secular column",
        statement="Secular empathy stands apart from the contemplative cluster: its axis is farther from the traditions "
        "than they are from each other.",
        measure=compassion.secular_divergence,
        null="one of five unrelated system prompts set apart from the other four",
        reported=compassion.figure_secular_divergence,
        requires=ON_SUFFERING,
    ),
    Claim(
        id="compassion.tightest_pair",
        version=2,  # 1 took cosines of means that share the reference's noise
        source=SAFETY_COMPASSION,
        where="discussion of the cross-tradition table",
        statement="One pair of traditions is closest, and which one depends on the model.",
        measure=compassion.tightest_pair,
        null="margin of the closest of six pairs of four unrelated system prompts",
        criterion=Above(beyond_null=False),
        reported=compassion.figure_tightest_pair,
        smallest_change=0.03,
        requires=ON_SUFFERING,
    ),
    Claim(
        id="compassion.unified_axis",
        version=2,  # 1 took cosines of means that share the reference's noise
        source=SAFETY_COMPASSION,
        where="unified axis (Apertus)",
        statement="The mean contemplative axis represents each tradition.",
        measure=compassion.unified_axis,
        null="an unrelated system prompt with the mean of three others; for orthonormal axes 0 against the other three and "
        "0.5 against a mean that holds the axis itself",
        cases=tuple(Case(t, (t,)) for t in TRADITIONS),
        requires=ON_SUFFERING,
    ),
    Claim(
        id="safety.compassion_alignment",
        version=2,  # 1 took cosines of means that share the reference's noise, and controls shorter than the safety prompts
        source=SAFETY_COMPASSION,
        where="safety table, safety-compassion column",
        statement="The safety axis is partly aligned with the compassion axis.",
        measure=safety.compassion_alignment,
        null="the compassion axis with axes of unrelated system prompts as long as the safety prompt",
        requires=ON_BENIGN,
        reported=pair_figure(BENIGN, "safety", "chenrezig"),
    ),
    Claim(
        id="safety.tradition_alignment",
        version=2,  # 1 took cosines of means that share the reference's noise, and controls shorter than the safety prompts
        source=SAFETY_COMPASSION,
        where="follows from the safety table for the other traditions",
        statement="The safety axis is partly aligned with the axis of each other tradition and with their mean.",
        measure=safety.tradition_alignment,
        null="that tradition's axis with axes of unrelated system prompts as long as the safety prompt",
        cases=tuple(Case(t, (t,)) for t in (*TRADITIONS[1:], "unified")),
        requires=ON_BENIGN,
    ),
    Claim(
        id="safety.baseline_sign",
        version=2,  # 1 took cosines of means that share the reference's noise, and controls shorter than the safety prompts
        source=SAFETY_COMPASSION,
        where="safety table, safety-baseline column",
        statement="Safety opposes the model's default after DPO or RLHF, and does not after supervised fine-tuning alone.",
        measure=safety.baseline_sign,
        null="the default (no system message) with axes of unrelated system prompts as long as the safety prompt",
        criterion=SignByAlignment(),
        published_criterion=SignByAlignment(beyond_null=False),
        requires=ON_BENIGN,
        reported=pair_figure(BENIGN, "safety", "empty"),
    ),
    Claim(
        id="safety.strict_agreement",
        version=2,  # 1 took cosines of means that share the reference's noise, and controls shorter than the safety prompts
        source=SAFETY_COMPASSION,
        where="safety axes",
        statement="A moderate and a strict safety prompt give one direction.",
        measure=safety.strict_agreement,
        null="either safety axis with axes of unrelated system prompts as long as the safety prompt",
        requires=ON_BENIGN,
        reported=pair_figure(BENIGN, "safety", "safety_strict"),
    ),
    Claim(
        id="safety.layer_profile",
        version=2,  # 1 took cosines of means that share the reference's noise, and controls shorter than the safety prompts
        source=SAFETY_COMPASSION,
        where="safety-baseline by layer",
        statement="The sign of safety-baseline is the same over the analysed blocks; the last block makes the largest step.",
        measure=safety.layer_profile,
        null="the same of unrelated system prompts",
        cases=tuple(Case(kind, (kind,)) for kind in safety.REDUCTIONS),
        criterion=Above(beyond_null=False),
        requires=ON_BENIGN,
        reported=safety.figure_layer_profile,
        window=analysis_layers,
    ),
    Claim(
        id="safety.dimensionality",
        source=SAFETY_COMPASSION,
        where="open question of the discussion",
        statement="Safety is closer to one direction than unrelated instructions are: axes of many safety prompts share a "
        "larger first component.",
        measure=safety.dimensionality,
        null="labels permuted between safety prompts and unrelated ones",
        published_criterion=None,
        metric="share",
        requires=replace(ON_BENIGN, conditions=("systems", "controls", "topics")),
        open_question=True,
    ),
    Claim(
        id="safety.prompt_sensitivity",
        source=SAFETY_COMPASSION,
        where="companion note on mantras",
        statement="The value keeps its sign without any one message, on the other set, and without opening formulas.",
        measure=safety.prompt_sensitivity,
        null="none: the spread over recomputations is itself the answer",
        version=3,  # 1 held for a value that cannot be told from zero, 2 took cosines of means that share noise
        cases=tuple(Case(figure, (figure,)) for figure in safety.SENSITIVE),
        criterion=safety.KeepsItsSign(),
        published_criterion=None,
        requires=replace(ON_BENIGN, messages=(SUFFERING, BENIGN), conditions=("systems", "bare")),
    ),
    Claim(
        id="capping.refusal",
        source=SAFETY_COMPASSION,
        where="capping experiments, 13 conditions on red-team prompts",
        statement="Capping activations along the axis of a system prompt raises refusals of adversarial requests by more "
        "than those of benign ones.",
        measure=capping.refusal,
        null="capping along axes of unrelated system prompts",
        cases=capping.CASES,
        criterion=Above(),
        published_criterion=None,
        metric="accuracy",
        comparison=RateChange(),
        smallest_change=0.1,
        requires=replace(ON_BENIGN, messages=(BENIGN, capping.RED_TEAM), conditions=("systems", "safety_controls")),
        asked_by="answers",
        judged="refusals",
    ),
    *panel.CLAIMS,
    *validation.CLAIMS,
    *finetune.CLAIMS,
)
