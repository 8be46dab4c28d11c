"""Checkpoints that went wrong for users: each is measured rightly and said, or refused in one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import TEMPLATES, random_model, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file

from geometry_bench.cli.app import app
from geometry_bench.errors import GeometryBenchError
from geometry_bench.labs.family import FamilyLab
from geometry_bench.records.estimates import Null
from geometry_bench.subjects.families import load_family
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec, resolve
from geometry_bench.subjects.subject import Subject
from geometry_bench.subjects.tokenizers import refuse_mute
from geometry_bench.updates.checkpoint import open_checkpoint
from geometry_bench.updates.places import Place, places
from geometry_bench.updates.update import compare


def loaded(folder: Path, **options: Any) -> Subject:
    return load(SubjectSpec(str(folder), device="cpu", **options))


def refused(folder: Path, **options: Any) -> str:
    with pytest.raises(GeometryBenchError) as caught:
        loaded(folder, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def said(subject: Subject, words: str) -> bool:
    return any(words in note for note in subject.notes)


# Number formats

FP8 = torch.float8_e4m3fn


def in_fp8(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.to(FP8) if ".mlp." in name else value for name, value in weights.items()}


def test_block_scaled_fp8_is_taken_back_to_floats_and_recorded(own: Path) -> None:
    plain = load_file(own / "model.safetensors")

    def scaled(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {}
        for name, value in weights.items():
            if not name.endswith("_proj.weight"):
                found[name] = value.to(torch.bfloat16)
                continue
            found[name] = (value * 4).to(FP8)
            found[f"{name}_scale_inv"] = torch.full(tuple(-(-size // 16) for size in value.shape), 0.25)
        return found

    edit_weights(own, scaled)
    edit_config(own, quantization_config={"quant_method": "fp8", "weight_block_size": [16, 16], "fmt": "e4m3"})
    subject = loaded(own)
    assert (subject.dtype, subject.quantisation) == ("float32", "fp8")
    assert said(subject, "the weights are stored as fp8 and are taken back to floats")
    assert {value.dtype for value in subject.model.parameters()} == {torch.float32}
    weight = dict(subject.model.named_parameters())["model.layers.1.mlp.up_proj.weight"]
    torch.testing.assert_close(weight, plain["model.layers.1.mlp.up_proj.weight"], rtol=0.07, atol=0.01)


def test_bare_fp8_is_cast_and_recorded_and_scales_without_words_are_refused(own: Path) -> None:
    edit_weights(own, in_fp8)
    subject = loaded(own)
    assert (subject.dtype, subject.quantisation) == ("float32", "fp8")
    assert said(subject, "stored as fp8")
    edit_weights(own, lambda weights: weights | {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)})
    assert "model.layers.0.mlp.up_proj.weight_scale), but its config.json has no quantization_config" in refused(own)
    edit_weights(
        own,
        lambda weights: {
            **{name: value for name, value in weights.items() if not name.endswith("_scale")},
            "model.layers.0.exponents": torch.ones(3).to(torch.float8_e8m0fnu),
        },
    )
    assert "eight-bit weights with scales (model.layers.0.exponents)" in refused(own)


def test_scales_that_transformers_does_not_apply_are_refused(own: Path) -> None:
    scale = {"model.layers.0.mlp.up_proj.weight_scale": torch.ones(1)}
    edit_weights(own, lambda weights: in_fp8(weights) | scale)
    edit_config(own, quantization_config={"quant_method": "modelopt", "quant_algo": "FP8"})
    assert "is quantised by modelopt, and transformers applies none of its scales" in refused(own)


def test_mxfp4_is_taken_back_to_floats_and_recorded(tmp_path: Path) -> None:
    from test_architectures import random_model as of_type

    model = of_type("gpt_oss")
    model.save_pretrained(tmp_path)
    tiny_tokenizer(chat_template="native").save_pretrained(tmp_path)

    def packed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        found = {name: value.to(torch.bfloat16) for name, value in weights.items()}
        for name in [name for name in weights if name.endswith(("gate_up_proj", "down_proj"))]:
            experts, inputs, outputs = found.pop(name).shape
            found[f"{name}_blocks"] = torch.full((experts, outputs, inputs // 32, 16), 0x21, dtype=torch.uint8)
            found[f"{name}_scales"] = torch.full((experts, outputs, inputs // 32), 125, dtype=torch.uint8)
        return found

    edit_weights(tmp_path, packed)
    edit_config(tmp_path, quantization_config={"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]})
    subject = loaded(tmp_path)
    assert (subject.dtype, subject.quantisation) == ("float32", "mxfp4")


# Blocks and shards


def test_blocks_that_the_configuration_leaves_out_are_said_with_their_count(own: Path) -> None:
    edit_config(own, num_hidden_layers=3)
    subject = loaded(own)
    assert subject.n_layers == 3
    assert said(subject, "config.json names 3 blocks and the checkpoint stores 1 more, which are not run (9 tensors)")


def test_other_tensors_without_a_place_are_said(own: Path) -> None:
    edit_weights(own, lambda weights: weights | {"stray.weight": torch.ones(2)})
    assert said(loaded(own), "1 stored tensor has no place in the model and is not used (stray.weight)")


def test_a_tensor_in_two_shards_is_refused_for_models_and_updates(tmp_path: Path) -> None:
    folder = tiny_model("llama", tmp_path, max_shard_size="40KB")
    first, second = sorted(folder.glob("model-*.safetensors"))[:2]
    name = next(iter(load_file(first)))
    save_file(load_file(second) | {name: load_file(first)[name]}, second, metadata={"format": "pt"})
    sentence = f"The tensor {name} lies in {first} and in {second.name}"
    assert sentence in refused(folder)
    with pytest.raises(GeometryBenchError, match=name):
        open_checkpoint(SubjectSpec(str(folder)))


# Adapters


def saved_adapter(folder: Path, *, init: bool = False, **model: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=init)
    get_peft_model(random_model("llama", **model), config).save_pretrained(folder)
    return folder


def test_adapter_weights_that_find_no_place_are_refused(llama: Path, tmp_path: Path) -> None:
    deeper = saved_adapter(tmp_path / "deeper", num_hidden_layers=6)
    sentence = refused(llama, adapter=str(deeper))
    assert "holds 4 weights that" in sentence
    assert "layers.4.self_attn.q_proj.lora_A.weight the first" in sentence


def test_an_adapter_that_changes_nothing_is_said(llama: Path, tmp_path: Path) -> None:
    words = "the adapter changes nothing"
    assert said(loaded(llama, adapter=str(saved_adapter(tmp_path / "untrained", init=True))), words)
    assert not said(loaded(llama, adapter=str(saved_adapter(tmp_path / "trained"))), words)


def test_an_adapters_own_template_and_tokenizer_are_used_and_said(llama: Path, tmp_path: Path) -> None:
    adapter = saved_adapter(tmp_path / "lora")
    plain = loaded(llama, adapter=str(adapter))
    tiny_tokenizer(chat_template="native").save_pretrained(adapter)
    assert loaded(llama, adapter=str(adapter)).notes == plain.notes, "the same tokenizer again is no news"
    (adapter / "chat_template.jinja").write_text(TEMPLATES["no_bos"])
    own = loaded(llama, adapter=str(adapter))
    assert said(own, "the adapter's own chat template is used")
    assert own.chat.template_hash != plain.chat.template_hash
    assert own.tokenizer_hash != plain.tokenizer_hash
    tokenizer = tiny_tokenizer(chat_template="native")
    tokenizer.add_tokens(["hello"])
    tokenizer.save_pretrained(adapter)
    assert said(loaded(llama, adapter=str(adapter)), "the adapter's own tokenizer is used")


def test_an_adapter_without_peft_is_refused_before_anything_is_loaded(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = saved_adapter(tmp_path / "lora")
    monkeypatch.setitem(__import__("sys").modules, "peft", None)
    with pytest.raises(GeometryBenchError, match=r"install geometry-bench\[adapters\]"):
        resolve(SubjectSpec(str(llama), adapter=str(adapter)))


# Tokenizers, lengths, dead models


def test_tokenizers_that_make_no_tokens_are_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    with pytest.raises(GeometryBenchError, match="makes only unknown tokens of a plain English sentence"):
        refuse_mute(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]"), "it")
    content = json.loads((own / "tokenizer.json").read_text())
    content["model"] |= {"vocab": {}, "merges": []}
    content |= {"added_tokens": [], "post_processor": None}
    (own / "tokenizer.json").write_text(json.dumps(content))
    (own / "tokenizer_config.json").write_text("{}")
    assert "makes no token of a plain English sentence" in refused(own)
    (own / "tokenizer.json").unlink()
    (own / "tokenizer.model").write_bytes(b"not a model")
    monkeypatch.setitem(__import__("sys").modules, "sentencepiece", None)
    assert "is a sentencepiece model, and sentencepiece is not installed" in refused(own)


def test_positions_go_by_every_name_that_configurations_have_for_them() -> None:
    from test_architectures import random_model as of_type

    assert Subject.wrap(of_type("mpt"), tiny_tokenizer(model_max_length=10**30)).chat.max_length == 512


def test_dead_models_are_refused(own: Path) -> None:
    edit_weights(own, lambda weights: {name: torch.zeros_like(value) for name, value in weights.items()})
    assert "Every activation of LlamaModel is zero on a short prompt" in refused(own)


def test_a_null_without_defined_draws_is_none() -> None:
    assert Null.of("n", [float("nan")] * 3, 0.5) is None
    assert Null.of("n", [], 0.5) is None
    assert Null.of("n", [0.0, 1.0], 0.5) is not None


# Weights: what counts as a block


def test_places_of_tensors() -> None:
    text = [f"language_model.model.layers.{i}.mlp.up_proj.weight" for i in range(3)]
    tower = [f"vision_tower.encoder.layers.{i}.mlp.fc1.weight" for i in range(8)]
    extra = ["mtp.layers.0.mlp.up_proj.weight", "multi_modal_projector.linear.weight", "model.norm.weight"]
    found = places([*text, *tower, *extra], 2)
    assert [found[name] for name in text[:2]] == [Place(0), Place(1)]
    assert found[text[2]] == Place(part="blocks beyond the 2 that are run"), "a block for multi-token prediction"
    assert {found[name] for name in tower} == {Place(part="vision_tower")}
    assert [found[name].part for name in extra] == ["mtp", "multi_modal_projector", ""]
    for name in ("transformer.h.3.attn.weight", "rwkv.blocks.3.att.weight", "gpt_neox.layers.3.a.weight"):
        assert places([name], None)[name] == Place(3)


def family_of(tmp_path: Path, tensors: dict[str, tuple[int, ...]]) -> Path:
    lines = ['schema = 1\nname = "f"']
    for number, (role, parent) in enumerate(
        [("base", ""), ("aligned", "base"), ("useful", "aligned"), ("harmful", "aligned")]
    ):
        folder = tmp_path / role
        folder.mkdir()
        config = {"architectures": ["X"], "model_type": "x", "num_hidden_layers": 2, "hidden_size": 6}
        (folder / "config.json").write_text(json.dumps(config))
        generator = torch.Generator().manual_seed(number)
        weights = {name: torch.randn(shape, generator=generator) for name, shape in tensors.items()}
        save_file(weights, folder / "model.safetensors")
        lines.append(f'[[members]]\nrole = "{role}"\nmodel = "{role}"' + (f'\nparent = "{parent}"' if parent else ""))
    (tmp_path / "family.toml").write_text("\n".join(lines))
    return tmp_path


TENSORS = {
    "model.layers.0.mlp.up_proj.weight": (6, 6),
    "model.layers.1.mlp.up_proj.weight": (6, 6),
    "model.layers.1.mlp.experts.up_proj": (2, 6, 6),
    "model.layers.2.mlp.up_proj.weight": (6, 6),
    "visual.blocks.0.mlp.weight": (6, 6),
    "visual.blocks.5.norm.weight": (6,),
}


def test_what_claims_on_weights_leave_out_is_said_with_its_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = family_of(tmp_path, TENSORS)
    lab = FamilyLab(load_family(folder), progress=False)
    update = lab.updates("aligned")["alignment"]
    assert update.layers == {0, 1}
    energies = {name: update.energy(name) or 0.0 for name in TENSORS}
    out = sum(energies[name] for name in list(TENSORS)[2:]) / sum(energies.values())
    assert update.left_out == (
        f"4 of 6 tensors with {out:.1%} of ‖Δ‖² are left out of claims on weights (2 × visual, 1 × 3 dimensions)"
    )
    assert {reading.name: reading.layer for reading in lab.readings("aligned")} == {
        name: block for block, name in enumerate(list(TENSORS)[:2])
    }
    assert lab.notes()[0].partition(": ")[2] == update.left_out
    app(["updates", "--family", str(folder), "--no-rank"], standalone_mode=False)
    assert update.left_out in capsys.readouterr().out
    arguments = ["--task", "harmful", "--scheme", "parallel", "--layers", "5", "--out", str(tmp_path / "out")]
    with pytest.raises(GeometryBenchError, match="has no layer 5; it has layers 0 to 1"):
        app(["project", "--family", str(folder), *arguments], standalone_mode=False)


def test_nothing_is_said_where_nothing_is_left_out(own: Path) -> None:
    start = open_checkpoint(SubjectSpec(str(own)))
    assert compare(start, start).left_out == ""
