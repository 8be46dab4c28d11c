"""The residual stream of many architectures is what the models themselves report; a page lists all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from models import tiny_tokenizer

from geometry_bench.activations.capture import capture
from geometry_bench.activations.pooling import LAST
from geometry_bench.subjects.subject import Subject

sys.path.insert(0, str(Path(__file__).parents[1] / "fixtures"))
from architectures import TOLERANCE, Row, measured, page, random_model

# State spaces, recurrences, blocks of several classes, several streams, latent and sparse attention, wrappers.
SAMPLE = (
    *("mamba", "mamba2", "falcon_mamba", "rwkv", "recurrent_gemma", "xlstm"),
    *("jamba", "bamba", "zamba", "zamba2", "olmo_hybrid", "granitemoehybrid", "falcon_h1", "nemotron_h", "lfm2"),
    *("qwen3_next", "gemma3n_text", "deepseek_v4", "qwen4_exp_text", "longcat_flash", "deepseek_v3", "gpt_oss"),
    *("mllama", "mpt", "bloom", "qwen2_vl", "internvl"),
)


@pytest.mark.parametrize("model_type", SAMPLE)
def test_blocks_are_the_models_own_hidden_states(model_type: str, tmp_path: Path) -> None:
    row = measured(model_type, tmp_path / model_type)
    assert row.difference is not None, row.sentence
    assert row.difference <= TOLERANCE


def last_tokens(model: Any) -> tuple[Subject, Any, Any]:
    """The subject, its captured blocks (blocks, width) and its own hidden states at the last token of one prompt."""
    subject, ids = Subject.wrap(model, tiny_tokenizer(chat_template="native")), (1, 40, 41, 60, 7)
    with subject.measuring():
        whole = subject.backbone(input_ids=torch.tensor([ids]), use_cache=False, output_hidden_states=True)
    return subject, torch.tensor(capture(subject, [ids], (LAST,), progress=False)[LAST][0]), whole.hidden_states


def close(ours: Any, theirs: Any) -> bool:
    return torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_models_that_report_no_embedding() -> None:
    for model_type in ("mamba", "rwkv"):
        _, blocks, states = last_tokens(random_model(model_type))
        assert all(close(blocks[i], states[i][0, -1]) for i in range(4)), "state i is after block i, the last included"


def test_of_several_streams_the_active_one_or_the_mean_is_read_and_said() -> None:
    subject, blocks, states = last_tokens(random_model("gemma3n_text"))
    assert states[1].shape[0] == 4, "the model itself reports all four"
    assert all(close(blocks[i], states[i + 1][0, 0, -1]) for i in range(3))
    assert "4 residual streams (AltUp): the active one, 0, is read" in subject.notes
    subject, blocks, states = last_tokens(random_model("deepseek_v4"))
    assert all(close(blocks[i], states[i + 1][0, -1].mean(dim=0)) for i in range(3))
    assert "4 residual streams (hyper-connections): their mean is read" in subject.notes


def test_blocks_that_text_does_not_run_are_left_out_and_named() -> None:
    subject, blocks, _ = last_tokens(random_model("mllama"))
    assert (subject.n_layers, len(blocks)) == (3, 3)
    assert "the blocks that attend to images alone (1) are left out: text does not run them" in subject.notes


@pytest.mark.parametrize(
    ("model_type", "sentence"),
    [
        ("hrm_text", "has no list of 32 decoder blocks in its text model"),
        ("cpmant", "Block 0 of CpmAntModel gives shape"),
        ("idefics", "cannot run a short prompt: Exactly 1 of pixel_values"),
        ("xlnet", "is not a generating language model"),
    ],
)
def test_the_rest_is_refused_in_one_sentence(model_type: str, sentence: str, tmp_path: Path) -> None:
    row = measured(model_type, tmp_path / model_type)
    assert row.difference is None
    assert sentence in row.sentence
    assert "\n" not in row.sentence


def test_the_page_counts_causal_configurations_alone() -> None:
    rows = [
        Row("a", "AForCausalLM", 1e-7),
        Row("b", "BForCausalLM", 0.5),
        Row("c", "C", sentence="c is an encoder-decoder model (C)"),
        Row("d", "", sentence="cannot be made small"),
    ]
    text = page(rows)
    assert "1 of 2 causal configurations load and are right (50.0%)" in text
    assert "| b | BForCausalLM | differs by 5.0e-01 |" in text
    whole = (Path(__file__).parents[1] / "docs" / "architectures.md").read_text(encoding="utf-8")
    right, causal = (int(whole.split(" causal configurations")[0].split()[i]) for i in (-3, -1))
    assert causal >= 100
    assert right >= 0.98 * causal


def test_rwkv_has_its_weights_back_after_being_measured() -> None:
    model = random_model("rwkv")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    last_tokens(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
