"""The smallest family of the zoo made anew from nothing, on a small share of its text: the same signs come out."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import torch
import transformers

from geometry_bench.claims.registry import CLAIMS
from geometry_bench.resources import data_root
from geometry_bench.run.run import Run, RunSettings
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


def sign(low: float, high: float) -> int:
    """+1 or −1 where a 95 % interval lies on one side of zero, else 0."""
    return (low > 0) - (high < 0)


def stored_signs(member: Path) -> dict[str, int]:
    """Case -> sign of its value in the stored baselines of a zoo member, 0 where the interval holds both."""
    place = data_root() / "baselines" / "measured" / f"zoo__{member.parent.name}__{member.name}"
    (file,) = place.glob("*/*.json")
    cases = json.loads(file.read_text())["cases"]
    found = {key: case["estimates"]["corrected"] for key, case in cases.items() if key.split("[")[0] in SIGNED}
    return {key: sign(estimate["low"], estimate["high"]) for key, estimate in found.items()}


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
    aligned = made.member("aligned")
    run = Run([made.spec(aligned)], RunSettings(cache=False))
    stored = stored_signs(family / "aligned")
    sure = 0
    (subject,) = run.subjects
    for name in SIGNED:
        for case in CLAIMS[name].cases:
            record = run.record(CLAIMS[name], case, subject)
            assert record.estimate is not None
            rebuilt = sign(record.estimate.low or 0.0, record.estimate.high or 0.0)
            assert rebuilt * stored[record.key] >= 0, f"{record.key}: {record.estimate.value:+.2f} has changed its sign"
            sure += abs(rebuilt * stored[record.key])
    run.close()
    assert sure >= 1, "no value is sure of its sign in both, so this says nothing"
    assert answer_loss(out / "aligned") < answer_loss(out / "base") - 0.05
    assert answer_loss(family / "aligned") < answer_loss(family / "base") - 0.05
