"""The smallest family of the zoo made anew from nothing, on a small share of its text: the same signs come out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import torch
import transformers

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.records.baselines import read_baseline
from geometry_bench.records.measurement import Measurement
from geometry_bench.resources import data_root
from geometry_bench.run.execute import Session, execute
from geometry_bench.run.plan import plan
from geometry_bench.run.request import Request, Settings
from geometry_bench.subjects.families import load_family
from geometry_bench.training import sources
from geometry_bench.training.build import build

ZOO = data_root() / "fixtures" / "zoo"
SHARE = 0.03
SIGNED = (
    "compassion.cross_tradition_cosine",
    "safety.compassion_alignment",
    "safety.tradition_alignment",
    "safety.strict_agreement",
)


def smallest() -> Path:
    """The family whose base has the fewest bytes of weights."""
    return min(
        (m.parent for m in ZOO.glob("*/family.toml")), key=lambda f: (f / "base/model.safetensors").stat().st_size
    )


def signs(measured: Iterable[Measurement | object]) -> dict[str, int]:
    """Case -> +1 or −1 where the value's 95 % interval lies on one side of zero, else 0."""
    found = {one.key: one.estimate for one in measured if isinstance(one, Measurement) and one.claim in SIGNED}
    ends = {key: (one.low or 0.0, one.high or 0.0) for key, one in found.items() if one is not None}
    return {key: (low > 0) - (high < 0) for key, (low, high) in ends.items()}


@torch.inference_mode()
def answer_loss(folder: Path) -> float:
    """Mean loss per answer token over some chats of the validation split."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    losses = []
    for row in itertools.islice(sources.generator("chats")("validation", 5), 40):
        *before, _ = messages = row["messages"]
        prompt = tokenizer.apply_chat_template(before, add_generation_prompt=True, return_dict=False)
        ids = torch.tensor([tokenizer.apply_chat_template(messages, return_dict=False)])
        logits = model(ids).logits[0, len(prompt) - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :]).item())
    return sum(losses) / len(losses)


def test_the_smallest_family_rebuilt_at_reduced_steps_has_the_same_signs(tmp_path: Path) -> None:
    family = smallest()
    out = tmp_path / family.name
    build(ZOO / "recipes" / f"{family.name}.toml", out, scale=SHARE, threads=1, tell=lambda _: None)
    made = load_family(out)
    assert [member.role for member in made.members] == ["base", "aligned"]
    claims = {name: CLAIMS[name] for name in SIGNED}
    request = Request((made.spec(made.member("aligned")),), claims=claims, settings=Settings(cache=False))
    rebuilt = signs(execute(Session(plan(request))))
    place = data_root() / "baselines" / "measured" / f"zoo__{family.name}__aligned"
    (stored,) = (signs(read_baseline(file).measurements()) for file in place.glob("*/*.json"))
    assert rebuilt.keys() == stored.keys()
    assert {key: sign for key, sign in rebuilt.items() if sign * stored[key] < 0} == {}, "a value has changed its sign"
    sure = sum(sign * stored[key] for key, sign in rebuilt.items())
    assert sure >= 1, "no value is sure of its sign in both, so this says nothing"
    assert answer_loss(out / "aligned") < answer_loss(out / "base") - 0.05
    assert answer_loss(family / "aligned") < answer_loss(family / "base") - 0.05
