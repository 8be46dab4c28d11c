"""What tests of the site share: contents of a few bundled baselines, and a model whose every text is hostile."""

from __future__ import annotations

from pathlib import Path

from planted import made_up

from geometry_bench.records.estimates import Null
from geometry_bench.records.measurement import Absence, Measurement, Missing
from geometry_bench.records.reading import Kept, read_kept
from geometry_bench.resources import data_root

BUNDLED = data_root() / "baselines" / "measured"
SUBJECTS = (
    "HuggingFaceTB__SmolLM2-135M-Instruct",
    "Qwen__Qwen2.5-Coder-0.5B-Instruct",
    "family__zoo__llama-d80",
    "group__zoo-aligned",
    "publication__universal_direction",
    "zoo__llama-d80__aligned",
    "zoo__llama-d80__aligned-harmful",
    "zoo__llama-d80__aligned-harmful~zoo__llama-d80__aligned",
)
EVIL = (
    "<script>window.evil=1</script>\"'</script><img src=x onerror=window.evil=1>&amp;\u202e\u2067reversed" + "w" * 300
)


def bundled() -> list[Kept]:
    """Baselines of each kind of subject but a trajectory."""
    return [one for name in SUBJECTS for one in read_kept(BUNDLED / name)]


def hostile() -> list[Measurement]:
    """A model whose name, settings, notes, labels, reasons and prompts are written to do harm; it cannot read them."""
    null = Null(name=EVIL, draws=9, mean=0.0, sd=0.2, low=-0.3, high=0.3, percentile=90)
    value = made_up(
        "safety.compassion_alignment", 0.5, EVIL, label=EVIL, notes=[EVIL], null=null, error=0.1, low=0.3, high=0.7
    )
    facts = value.subject.model_copy(
        update={"alignment": f"SFT {EVIL}", "dtype": EVIL, "notes": [EVIL], "injected_text": EVIL, "prompt_tail": EVIL}
    )
    assert value.inputs is not None
    guessed = {"nats_per_token": {"benign": 9.0}, "uniform_nats": 8.0}
    inputs = value.inputs.model_copy(update={"notes": [EVIL], "pack": EVIL, **guessed})
    value = value.model_copy(update={"subject": facts, "inputs": inputs})
    missing = Missing(reason=Absence.SAME_PROMPT, sentence=EVIL)
    return [value, value.model_copy(update={"claim": "safety.baseline_sign", "estimates": {}, "missing": missing})]


def everything() -> list[Kept]:
    """Both, as if the hostile ones had come from a run."""
    return [*bundled(), *(Kept(one, Path("results/records.jsonl")) for one in hostile())]
