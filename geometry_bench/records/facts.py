"""What a measurement says of its subject and of its inputs. An unknown is ``None``, never a word that stands for it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from geometry_bench.records.estimates import Frozen
from geometry_bench.storage import digest, digest_lines
from geometry_bench.subjects.spec import SubjectSpec

if TYPE_CHECKING:
    from geometry_bench.behavior.judges.verdict import JudgeFacts


class Requested(Frozen):
    """What was asked of the loader."""

    dtype: str = "auto"
    device: str = "auto"
    attention: str | None = None
    template_arguments: tuple[str, ...] = Field((), description="KEY=VALUE each, for the chat template")

    @classmethod
    def of(cls, spec: SubjectSpec) -> Requested:
        """What a spec asks for."""
        return cls(**{name: getattr(spec, name) for name in cls.model_fields})


class _Settings(Frozen):
    """What decides, beside prompts and weights, whether two values can be compared."""

    id: str = Field(description="as in test ids")
    name: str = Field(description="under which baselines are kept")
    revision: str = Field(description="commit, or content hash")
    dtype: str | None = None
    attention: str | None = None
    quantisation: str | None = None

    def comparability(self) -> dict[str, Any]:
        """Facts that must be the same in two measurements that are compared."""
        return {
            "dtype": self.dtype,
            "attention": self.attention,
            "quantisation": self.quantisation,
            "template_arguments": " ".join(self.template_arguments) or None,
        }

    @property
    def template_arguments(self) -> tuple[str, ...]:
        """What the chat template was given beside the messages."""
        requested = getattr(self, "requested", None)
        return requested.template_arguments if requested is not None else ()

    @property
    def settings(self) -> str:
        """What a baseline file is named after."""
        arguments = (re.sub(r"[^\w.=]+", "_", text) for text in self.template_arguments)
        parts = (self.dtype or "mixed", self.attention, self.quantisation, *arguments)
        return "-".join(str(part) for part in parts if part)

    @property
    def is_joint(self) -> bool:
        """Whether the subject is several checkpoints together."""
        return True


class ModelFacts(_Settings):
    """One checkpoint as it was loaded."""

    kind: Literal["model"] = "model"
    origin: str
    architecture: str
    layers: int
    width: int
    device: str
    adapter: str | None = None
    adapter_hash: str | None = None
    alignment: str | None = Field(None, description="declared alignment method, in free text")
    template: str | None = None
    template_hash: str | None = None
    system_policy: str | None = None
    injected_text: str | None = None
    prompt_tail: str | None = Field(None, description="what follows the user's text; its last token is read")
    tokenizer_hash: str | None = None
    trust_remote_code: bool = False
    allow_pickle: bool = False
    unused_tensors: int = 0
    notes: list[str] = Field(default_factory=list, description="what was skipped, guessed or substituted")
    requested: Requested = Requested()
    family: str | None = None
    role: str | None = None
    parent: str | None = None

    def comparability(self) -> dict[str, Any]:
        """Number format, kernel, quantisation, and how many blocks are run."""
        return {**super().comparability(), "layers": self.layers, "width": self.width}

    @property
    def settings(self) -> str:
        """What a baseline file is named after: dtype, attention kernel, quantisation, adapter."""
        adapter = [f"adapter-{self.adapter_hash.split(':')[-1][:12]}"] if self.adapter_hash else []
        return "-".join([super().settings, *adapter])

    @property
    def is_joint(self) -> bool:
        """A single checkpoint."""
        return False


class MemberFacts(Frozen):
    """One checkpoint of several."""

    name: str | None = None
    revision: str
    adapter_hash: str | None = None
    dtype: str | None = None
    layers: int | None = None
    width: int | None = None
    block: int | None = Field(None, description="0-based block that was read")
    alignment: str | None = None
    role: str | None = None
    parent: str | None = None

    @classmethod
    def of(cls, facts: ModelFacts, block: int | None = None) -> MemberFacts:
        """What a joint subject's record keeps of a model."""
        kept = {name: getattr(facts, name) for name in cls.model_fields if name != "block"}
        return cls(**kept, block=block)


class _JointFacts(_Settings):
    members: dict[str, MemberFacts]


class GroupFacts(_JointFacts):
    """Models about a reference model."""

    kind: Literal["group"] = "group"
    reference: str
    requested: Requested = Requested()


class FamilyFacts(_JointFacts):
    """The weights of checkpoints that share an ancestor."""

    kind: Literal["family"] = "family"


class PanelFacts(_JointFacts):
    """All models of a run."""

    kind: Literal["panel"] = "panel"


class PairFacts(_JointFacts):
    """A model and the one that it was made from."""

    kind: Literal["pair"] = "pair"
    child: str
    parent: str


class TrajectoryFacts(_JointFacts):
    """Checkpoints of one training run, in the order of their steps."""

    kind: Literal["trajectory"] = "trajectory"
    steps: list[float]


class PublicationFacts(_Settings):
    """A publication, whose reported values are the subject."""

    kind: Literal["publication"] = "publication"

    @property
    def settings(self) -> str:
        """What a baseline file is named after."""
        return "reported"


class OtherFacts(_JointFacts):
    """A subject of a further kind, which ``what`` names; of several checkpoints, or of none."""

    kind: Literal["other"] = "other"
    what: str
    members: dict[str, MemberFacts] = Field(default_factory=dict)


Facts = Annotated[
    ModelFacts | GroupFacts | FamilyFacts | PanelFacts | PairFacts | TrajectoryFacts | PublicationFacts | OtherFacts,
    Field(discriminator="kind"),
]


def shared(members: Mapping[str, ModelFacts]) -> dict[str, str | None]:
    """The settings that all members have in common; None where they differ."""
    names = ("dtype", "attention", "quantisation")
    values = {name: {getattr(facts, name) for facts in members.values()} for name in names}
    return {name: found.pop() if len(found) == 1 else None for name, found in values.items()}


class RequestFacts(Frozen):
    """A set of requests as it was drawn."""

    name: str
    origin: str
    revision: str | None
    hash: str
    column: str | None = None
    where: dict[str, str] = Field(default_factory=dict, description="conditions that its rows had to meet")
    left_out: dict[str, int] = Field(default_factory=dict, description="rows without a request, by reason")
    seed: int | None = None
    count: int
    available: int
    duplicates: int = 0


class JudgeRecord(Frozen):
    """Who judged the answers behind a value."""

    kind: str
    version: str
    hash: str = Field(description="of its rules, or of what it is asked")
    scale: tuple[int, ...] = Field(description="its scores, in ascending order")
    model: str = Field("", description="that reads, with its revision or its endpoint")
    options: dict[str, Any] = Field(default_factory=dict, description="with which it is asked")

    @classmethod
    def of(cls, facts: JudgeFacts) -> JudgeRecord:
        """What a record keeps of a judge."""
        return cls(**facts.as_dict())

    @property
    def name(self) -> str:
        """Who it is, and a digest of all that decides its scores."""
        if not self.model:
            return f"{self.version} {self.hash[:12]}"
        return f"{self.model} {digest(self.model_dump(mode='json'))[:12]}"


BEFORE_JUDGES = "refusal-rules-1 3fe6f090220b"
"""Who judged where a record names nobody: these rules did before there were others."""


def judge_name(judge: JudgeRecord | None) -> str:
    """Who judged."""
    return BEFORE_JUDGES if judge is None else judge.name


class TaskFacts(Frozen):
    """A task of lm-eval's as it was run."""

    name: str
    harness: str = Field(description="lm-eval and its version")
    version: str
    hash: str = Field(description="of configurations, documents and examples")
    documents: int
    shots: str
    rendering: str = Field(description="text, or chat with the subject's template")


class _Inputs(Frozen):
    hash: str = Field(description="content hash of all that a value is measured on, known before any model is loaded")
    judge: JudgeRecord | None = Field(None, description="who judged answers, where the value stands on any")
    tasks: list[TaskFacts] = Field(default_factory=list, description="tasks that stand for the ability of models")

    def comparability(self) -> dict[str, Any]:
        """Facts that must be the same in two measurements that are compared."""
        return {"judge": judge_name(self.judge)}


class PromptInputs(_Inputs):
    """Prompts, as the model was given them."""

    kind: Literal["prompts"] = "prompts"
    pack: str | None = None
    controls: str | None = None
    safety_controls: str | None = None
    wording: dict[str, str] = Field(default_factory=dict, description="digest of the texts by message set")
    messages: list[str] = Field(default_factory=list)
    requests: list[RequestFacts] = Field(default_factory=list)
    tokens_hash: str | None = None
    template: str | None = None
    template_hash: str | None = None
    system_policy: str | None = None
    injected_text: str | None = None
    truncated_prompts: int | None = None
    bos_doubled_in_published: bool | None = None
    pooling: str
    site: str
    depth: float | None = None
    nats_per_token: dict[str, float] = Field(
        default_factory=dict, description="cross-entropy of the next token, by set of texts, without template"
    )
    uniform_nats: float | None = Field(None, description="the same of guessing uniformly among all tokens")
    notes: list[str] = Field(default_factory=list, description="what was skipped, cut or substituted")

    def comparability(self) -> dict[str, Any]:
        """Template, policy for system prompts, pooling, site and the tokens themselves."""
        names = ("template_hash", "system_policy", "pooling", "site", "tokens_hash")
        return {**super().comparability(), **{name: getattr(self, name) for name in names}}

    @property
    def is_guessed(self) -> bool:
        """Whether the model predicts any of the texts no better than by guessing, as the notes say."""
        return self.uniform_nats is not None and max(self.nats_per_token.values(), default=0.0) >= self.uniform_nats

    def in_common(self) -> PromptInputs:
        """What several models' prompts have in common: all but what template and tokenizer make of them."""
        kept = ("hash", "pack", "controls", "messages", "pooling", "site")
        return PromptInputs(**{name: getattr(self, name) for name in kept})


class WeightInputs(_Inputs):
    """Weights: the grids on which they are compared, and between which members."""

    kind: Literal["weights"] = "weights"
    requests: list[RequestFacts] = Field(default_factory=list, description="what projected models were asked")
    notes: list[str] = Field(default_factory=list, description="what claims leave out of the updates")


class PublicationInputs(_Inputs):
    """The file of reported values."""

    kind: Literal["publication"] = "publication"


Inputs = Annotated[PromptInputs | WeightInputs | PublicationInputs, Field(discriminator="kind")]


def panel_revision(revisions: Mapping[str, str]) -> str:
    """Content hash of the members' ids and revisions."""
    return f"sha256:{digest_lines(f'{member} {revision}' for member, revision in sorted(revisions.items()))}"


def panel_facts(members: Mapping[str, ModelFacts]) -> PanelFacts:
    """Facts of a panel from those of its members."""
    return PanelFacts(
        id="panel",
        name="panel",
        revision=panel_revision({member: facts.revision for member, facts in members.items()}),
        members={member: MemberFacts.of(facts) for member, facts in members.items()},
        **shared(members),
    )
