"""Subjects: pinned before loading, refused in one sentence, their blocks found in every architecture."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from models import ARCHITECTURES, random_model, tiny_model, tiny_tokenizer
from safetensors.torch import load_file, save_file

from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects import hashing, settings, spec
from geometry_bench.subjects.blocks import find_backbone, find_blocks
from geometry_bench.subjects.load import load
from geometry_bench.subjects.selfcheck import self_check
from geometry_bench.subjects.spec import SubjectSpec, resolve
from geometry_bench.subjects.streams import block_output

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOMETRY_BENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


def refused(folder: Path | str, **options: Any) -> str:
    """The sentence with which loading is refused."""
    with pytest.raises(GeometryBenchError) as caught:
        load(SubjectSpec(str(folder), **options))
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert len(sentence) < 600
    return sentence


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# Architectures


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_every_architecture_loads_and_its_blocks_are_the_residual_stream(arch: str, tmp_path: Path) -> None:
    subject = load(SubjectSpec(str(tiny_model(arch, tmp_path))))
    assert (subject.n_layers, subject.width, len(subject.blocks)) == (4, 32, 4)
    assert not any("head" in name for name, _ in subject.backbone.named_modules())
    assert not any("vision" in type(block).__name__.lower() for block in subject.blocks)
    assert not subject.model.training
    assert not any(p.requires_grad for p in subject.model.parameters())
    # against the whole model, by another road than the self-check's: the last block, then the final norm
    kept: dict[int, torch.Tensor] = {}
    for index, block in enumerate(subject.blocks):
        block.register_forward_hook(lambda m, a, out, index=index: kept.update({index: block_output(out)}))
    ids = torch.tensor([subject.chat.encode("Be kind.", "Hello there").ids])
    with torch.no_grad():
        whole = subject.model(input_ids=ids, output_hidden_states=True)
        states = whole.hidden_states
        last = subject.backbone(input_ids=ids, use_cache=False).last_hidden_state
    assert sorted(kept) == [0, 1, 2, 3]
    for index in range(3):
        torch.testing.assert_close(kept[index], states[index + 1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(states[-1], last, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(kept[3], last, rtol=1e-2), "the last block's output is before the final norm"


def test_expert_lists_and_vision_towers_of_the_same_length_are_no_decoder() -> None:
    from torch import nn

    mixtral = random_model("mixtral")
    for block in find_blocks(mixtral):  # older layout: experts as a list of as many modules as there are blocks
        block.extra_experts = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))  # type: ignore[assignment]
    assert [type(block).__name__ for block in find_blocks(mixtral)] == ["MixtralDecoderLayer"] * 4
    llava = random_model("llava")
    assert {type(block).__name__ for block in find_blocks(llava)} == {"LlamaDecoderLayer"}
    assert type(find_backbone(llava)).__name__ == "LlamaModel"


def test_no_or_two_block_lists_are_refused() -> None:
    from torch import nn

    model = random_model("llama")
    model.model.norms = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
    assert len(find_blocks(model)) == 4, "plain layers are no blocks"
    model.model.second = nn.ModuleList(nn.Sequential(nn.Linear(32, 32)) for _ in range(4))
    with pytest.raises(GeometryBenchError, match=r"several lists of 4 blocks \(model.layers, model.second\)"):
        find_blocks(model)
    model.config.num_hidden_layers = 7
    with pytest.raises(GeometryBenchError, match="no list of 7 decoder blocks"):
        find_blocks(model)


def test_attention_kernel_in_effect_is_recorded(llama: Path, tmp_path: Path) -> None:
    assert load(SubjectSpec(str(llama))).attention == "sdpa"
    assert load(SubjectSpec(str(llama), attention="eager")).attention == "eager"
    assert load(SubjectSpec(str(tiny_model("gemma2", tmp_path)))).attention == "eager"  # soft-capped scores
    assert "attention kernel 'flash_attention_9' is unknown" in refused(llama, attention="flash_attention_9")


# Self-check


def test_self_check_tells_wrong_blocks_from_right_ones() -> None:
    model = random_model("llama")
    backbone, blocks, ids = find_backbone(model), find_blocks(model), (1, 40, 41, 42)
    self_check(backbone, blocks, ids, layers=4, width=32)
    with pytest.raises(GeometryBenchError, match="not the model's hidden state 1"):
        self_check(backbone, [blocks[1], blocks[0], *blocks[2:]], ids, layers=4, width=32)
    with pytest.raises(GeometryBenchError, match="3 decoder blocks, but its configuration says 4"):
        self_check(backbone, blocks[:3], ids, layers=4, width=32)
    with pytest.raises(GeometryBenchError, match=r"gives shape \(1, 4, 32\) instead of \(1, 4, 64\)"):
        self_check(backbone, blocks, ids, layers=4, width=64)
    with pytest.raises(GeometryBenchError, match="token 999, but LlamaModel has only 320"):
        self_check(backbone, blocks, (1, 999), layers=4, width=32)
    with pytest.raises(GeometryBenchError, match=r"Blocks \[0\] of LlamaModel did not run"):
        self_check(backbone, [torch.nn.Identity(), *blocks[1:]], ids, layers=4, width=32)


def test_self_check_refuses_a_model_that_looks_ahead() -> None:
    model = random_model("llama")
    for block in find_blocks(model):
        block.self_attn.is_causal = False  # type: ignore[union-attr]
    with pytest.raises(GeometryBenchError, match="lets a token see those after it"):
        self_check(find_backbone(model), find_blocks(model), (1, 40, 41, 42), layers=4, width=32)


def test_self_check_refuses_overflow() -> None:
    model = random_model("llama")
    model.model.layers[1].mlp.down_proj.weight.data.fill_(3e38)
    with pytest.raises(GeometryBenchError, match="Block 1 of LlamaModel gives NaN or infinite activations in float32"):
        self_check(find_backbone(model), find_blocks(model), (1, 40, 41), layers=4, width=32)


# Local folders


def test_identity_of_a_folder(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = resolve(SubjectSpec(str(llama)))
    assert (identity.name, identity.origin, identity.path) == ("llama", "local", llama)
    assert (identity.architecture, identity.layers, identity.width) == ("LlamaForCausalLM", 4, 32)
    assert identity.revision.startswith("sha256:")
    assert len(identity.revision) == 7 + 64
    monkeypatch.chdir(llama)
    assert resolve(SubjectSpec(".")) == replace(identity, path=Path("."))
    assert load(SubjectSpec(str(llama)), identity).facts()["revision"] == identity.revision


def test_resolving_imports_neither_torch_nor_transformers(llama: Path) -> None:
    code = (
        "import sys; from geometry_bench.subjects.spec import SubjectSpec, resolve; import geometry_bench.prompts.render; "
        f"resolve(SubjectSpec({str(llama)!r})); print(sorted({{'torch', 'transformers'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_revision_follows_the_content(own: Path) -> None:
    def revision() -> str:
        return resolve(SubjectSpec(str(own))).revision

    first = revision()
    (own / "README.md").write_text("about")
    (own / "generation_config.json").unlink(missing_ok=True)
    assert revision() == first, "files that do not decide activations do not count"
    moved = own.rename(own.parent / "moved")
    own = moved
    assert revision() == first, "nor does the place"
    weights = load_file(own / "model.safetensors")
    weights["model.norm.weight"][3] += 1e-3
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    second = revision()
    (own / "tokenizer_config.json").write_text((own / "tokenizer_config.json").read_text() + " ")
    assert len({first, second, revision()}) == 3


def test_file_hashes_are_remembered_only_once_settled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    path = tmp_path / "weights"
    path.write_bytes(b"one")
    digest = hashing.file_hash(path)
    assert digest == hashlib.sha256(b"one").hexdigest()
    assert not list(hashing.cache_folder("file-hashes").rglob("*")), (
        "a file changed just now may change again unnoticed"
    )
    monkeypatch.setattr(hashing, "_SETTLED_NS", -1)
    assert hashing.file_hash(path) == digest
    (memo,) = (entry for entry in hashing.cache_folder("file-hashes").rglob("*") if entry.is_file())
    memo.write_text("f" * 64)
    assert hashing.file_hash(path) == "f" * 64, "the remembered hash is used"
    memo.write_text("torn")
    assert hashing.file_hash(path) == digest, "a damaged one is not"
    path.write_bytes(b"two")
    assert hashing.file_hash(path) == hashlib.sha256(b"two").hexdigest()
    monkeypatch.setenv("GEOMETRY_BENCH_CACHE", str(path))  # a file where a folder should be
    assert hashing.file_hash(path) == hashlib.sha256(b"two").hexdigest()


def test_sharded_weights_give_the_same_numbers(llama: Path, tmp_path: Path) -> None:
    sharded = tiny_model("llama", tmp_path, max_shard_size="40KB")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    ids = torch.tensor([[1, 50, 60, 70]])
    outputs = [load(SubjectSpec(str(path))).backbone(input_ids=ids).last_hidden_state for path in (llama, sharded)]
    assert torch.equal(*outputs)
    shards[0].unlink()
    assert f"lacks the weight shard {shards[0].name}" in refused(sharded)


def test_bad_folders_are_refused_in_one_sentence(llama: Path, own: Path, tmp_path: Path) -> None:
    assert "There is no folder" in refused(tmp_path / "nowhere")
    assert "There is no folder nowhere/at/all" in refused("nowhere/at/all")
    assert "There is no folder" in refused("./nowhere")
    assert "is a file" in refused(llama / "config.json")
    assert "has no config.json" in refused(tmp_path)
    assert "applies to Hub models" in refused(llama, revision="main")
    for name, sentence in [
        ("tokenizer.json", "has no tokenizer"),
        ("model.safetensors", "holds no weights"),
    ]:
        (own / name).rename(own / "aside")
        assert sentence in refused(own)
        (own / "aside").rename(own / name)
    (own / "config.json").write_text('{"model_type": ')
    assert "not readable JSON" in refused(own)
    (own / "config.json").write_text("[]")
    assert "instead of a JSON object" in refused(own)
    (own / "config.json").write_text("{}")
    assert "names no number of layers" in refused(own)


def test_broken_files_are_refused_in_one_sentence(own: Path) -> None:
    whole = (own / "tokenizer.json").read_text()
    (own / "tokenizer.json").write_text(whole[:500])
    assert "tokenizer of own cannot be loaded" in refused(own)
    (own / "tokenizer.json").write_text(whole)
    size = (own / "model.safetensors").stat().st_size
    with (own / "model.safetensors").open("r+b") as handle:
        handle.truncate(size - 4000)
    assert "ends within the tensor" in refused(own)
    with (own / "model.safetensors").open("r+b") as handle:
        handle.truncate(100)
    assert "it ends within its header" in refused(own)


def test_encoders_and_encoder_decoders_are_refused(tmp_path: Path) -> None:
    from transformers import BertConfig, BertModel, LlamaForSequenceClassification, T5Config, T5ForConditionalGeneration

    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    models = {
        "bert": BertModel(BertConfig(**small, intermediate_size=32)),
        "t5": T5ForConditionalGeneration(
            T5Config(vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
        ),
        "reward": LlamaForSequenceClassification(random_model("llama").config),
    }
    for name, model in models.items():
        model.save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    assert "not a generating language model (BertModel" in refused(tmp_path / "bert")
    assert "an encoder-decoder model (T5ForConditionalGeneration)" in refused(tmp_path / "t5")
    assert "LlamaForSequenceClassification" in refused(tmp_path / "reward")


def test_pickle_weights_only_when_allowed(llama: Path, own: Path) -> None:
    state = load_file(own / "model.safetensors")
    (own / "model.safetensors").unlink()
    torch.save(state, own / "pytorch_model.bin")
    assert "pass --allow-pickle" in refused(own)
    subject = load(SubjectSpec(str(own), allow_pickle=True))
    assert subject.facts()["allow_pickle"] is True
    ids = torch.tensor([[1, 50, 60, 70]])
    expected = load(SubjectSpec(str(llama))).backbone(input_ids=ids).last_hidden_state
    assert torch.equal(subject.backbone(input_ids=ids).last_hidden_state, expected)
    state["model.norm.weight"][0] = float("nan")
    torch.save(state, own / "pytorch_model.bin")
    assert "model.norm.weight in" in refused(own, allow_pickle=True)


def test_safetensors_are_taken_where_both_kinds_exist(own: Path) -> None:
    before = resolve(SubjectSpec(str(own))).revision
    (own / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert resolve(SubjectSpec(str(own))).revision == before
    assert load(SubjectSpec(str(own))).identity.revision == before


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_bad_values_name_their_tensor_and_file(own: Path, value: float) -> None:
    weights = load_file(own / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][5, 7] = value
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    sentence = refused(own)
    assert "model.layers.2.mlp.up_proj.weight" in sentence
    assert str(own / "model.safetensors") in sentence


def test_values_that_only_the_wanted_dtype_cannot_hold(own: Path) -> None:
    weights = load_file(own / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][5, 7] = 1e6
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    assert "too large for torch.float16; load with --dtype float32" in refused(own, dtype="float16")


def test_missing_and_reshaped_weights_are_refused(own: Path) -> None:
    weights = load_file(own / "model.safetensors")
    kept = dict(weights)
    del kept["model.layers.1.self_attn.q_proj.weight"]
    save_file(kept, own / "model.safetensors", metadata={"format": "pt"})
    assert "lacks the weights model.layers.1.self_attn.q_proj.weight" in refused(own)
    save_file(weights | {"stray.weight": torch.ones(2)}, own / "model.safetensors", metadata={"format": "pt"})
    assert load(SubjectSpec(str(own))).unused_tensors == ("stray.weight",)
    edit_config(own, intermediate_size=64)
    assert "holds model.layers.0.mlp.down_proj.weight in another shape" in refused(own)


def test_a_tied_head_is_not_missing(tmp_path: Path) -> None:
    folder = tiny_model("llama", tmp_path, tie_word_embeddings=True)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    assert load(SubjectSpec(str(folder))).n_layers == 4


def test_custom_code_is_not_run_unasked(own: Path) -> None:
    (own / "code.py").write_text("raise SystemExit('custom code ran')\n")
    edit_config(
        own, model_type="homemade", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    )
    assert "pass --trust-remote-code" in refused(own)


# Settings


def test_auto_dtype_and_explicit_dtypes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    half = tiny_model("llama", tmp_path, dtype="bfloat16")
    assert load(SubjectSpec(str(half))).dtype == "float32"
    assert load(SubjectSpec(str(half), dtype="bf16")).dtype == "bfloat16"
    assert load(SubjectSpec(str(half), dtype="float64")).dtype == "float64"
    monkeypatch.setattr(settings, "FLOAT32_LIMIT", 1000)
    assert load(SubjectSpec(str(half))).dtype == "bfloat16"
    assert "Unknown dtype 'int3'" in refused(half, dtype="int3")


def test_devices(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(SubjectSpec(str(llama), device="cpu")).facts()["device"] == "cpu"
    assert load(SubjectSpec(str(llama), device="map")).n_layers == 4
    assert "Unknown device 'abacus'" in refused(llama, device="abacus")
    assert "is not available on this machine" in refused(llama, device="cuda:77")
    monkeypatch.setattr(settings, "has_accelerate", lambda: False)
    assert "needs accelerate" in refused(llama, device="map")


def test_max_length_comes_from_the_model(tmp_path: Path) -> None:
    subject = load(SubjectSpec(str(tiny_model("gpt2", tmp_path, n_positions=96, chat_template=None))))
    assert subject.chat.max_length == 96
    encoded = subject.chat.encode("word " * 80, "Hello")
    assert encoded.truncated
    assert len(encoded.ids) <= 96
    assert subject.facts()["template"] == "plain-1"


def test_facts_are_plain_json_and_closing_frees_the_model(llama: Path) -> None:
    subject = load(SubjectSpec(str(llama), alignment="DPO"))
    facts = json.loads(json.dumps(subject.facts()))
    assert facts == subject.facts()
    assert (facts["name"], facts["layers"], facts["width"], facts["alignment"]) == ("llama", 4, 32, "DPO")
    assert facts["tokenizer_hash"] == hashing.tokenizer_hash(llama)
    assert facts["quantisation"] is None
    subject.close()
    assert not list(subject.model.parameters())
    assert subject.blocks == []
    assert subject.facts() == facts


# Adapters


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    from peft import LoraConfig, get_peft_model

    adapted = get_peft_model(random_model("llama"), LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    adapted.save_pretrained(tmp_path / "lora")
    return tmp_path / "lora"


def test_an_adapter_changes_outputs_and_identity(llama: Path, adapter: Path) -> None:
    plain, adapted = load(SubjectSpec(str(llama))), load(SubjectSpec(str(llama), adapter=str(adapter)))
    assert adapted.id == "llama+lora"
    assert adapted.identity.revision == plain.identity.revision
    assert str(adapted.identity.adapter_hash).startswith("sha256:")
    assert plain.identity.adapter_hash is None
    assert len(adapted.blocks) == 4
    assert type(adapted.backbone).__name__ == "LlamaModel"
    ids = torch.tensor([[1, 50, 60, 70]])
    outputs = [subject.backbone(input_ids=ids).last_hidden_state for subject in (plain, adapted)]
    assert not torch.allclose(*outputs, rtol=1e-2)
    # by hand: W + (alpha / r) B A in every block
    lora = load_file(adapter / "adapter_model.safetensors")
    config = json.loads((adapter / "adapter_config.json").read_text())
    for index, block in enumerate(plain.blocks):
        key = f"base_model.model.model.layers.{index}.self_attn.q_proj.lora_{{}}.weight"
        delta = config["lora_alpha"] / config["r"] * lora[key.format("B")] @ lora[key.format("A")]
        block.self_attn.q_proj.weight.data += delta  # type: ignore[union-attr, operator]
    torch.testing.assert_close(plain.backbone(input_ids=ids).last_hidden_state, outputs[1], rtol=1e-4, atol=1e-5)


def test_bad_adapters_are_refused(llama: Path, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "There is no adapter folder" in refused(llama, adapter=str(tmp_path / "nowhere"))
    assert "is not a PEFT adapter" in refused(llama, adapter=str(llama))
    assert "pass it as --adapter" in refused(adapter)
    file = adapter / "adapter_model.safetensors"
    weights = load_file(file)
    name = sorted(weights)[0]
    save_file({key: value for key, value in weights.items() if key != name}, file)
    assert "lacks weights that its configuration names" in refused(llama, adapter=str(adapter))
    save_file(weights | {name: torch.full_like(weights[name], float("nan"))}, file)
    sentence = refused(llama, adapter=str(adapter))
    assert name in sentence
    assert str(file) in sentence
    save_file({key: value[..., :1].contiguous() for key, value in weights.items()}, file)
    assert "size mismatch for" in refused(llama, adapter=str(adapter))
    file.unlink()
    assert "holds no adapter weights" in refused(llama, adapter=str(adapter))
    save_file(weights, file)
    monkeypatch.setitem(sys.modules, "peft", None)
    assert "needs peft" in refused(llama, adapter=str(adapter))


def test_prompt_learning_adapters_are_refused(llama: Path, tmp_path: Path) -> None:
    from peft import PromptTuningConfig, get_peft_model

    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    get_peft_model(random_model("llama"), config).save_pretrained(tmp_path / "prompt")
    assert "learns a prompt" in refused(llama, adapter=str(tmp_path / "prompt"))


def test_a_wrapper_that_leaves_sizes_to_its_text_family(tmp_path: Path) -> None:
    folder = tiny_model("llava", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for key in ("num_hidden_layers", "hidden_size"):
        del config["text_config"][key]
    (folder / "config.json").write_text(json.dumps(config))
    identity = resolve(SubjectSpec(str(folder)))
    assert (identity.layers, identity.width) == (32, 4096), "the defaults of the Llama family"


# The embedded zoo


def test_embedded_models_are_named_by_their_place(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(llama, tmp_path / "fixtures" / "zoo" / "llama-d80" / "aligned")
    monkeypatch.setattr(spec, "data_root", lambda: tmp_path)
    identity = resolve(SubjectSpec("zoo/llama-d80/aligned"))
    assert (identity.name, identity.origin) == ("zoo/llama-d80/aligned", "local")
    assert identity.revision == resolve(SubjectSpec(str(llama))).revision
    assert "there are: zoo/llama-d80/aligned" in refused("zoo/llama-d80/other")
    assert "there are: zoo/llama-d80/aligned" in refused("zoo/../zoo/llama-d80/aligned")


# The Hub


def hub_error(kind: str) -> Exception:
    from huggingface_hub import errors

    response = SimpleNamespace(headers={}, request=None)
    return getattr(errors, kind)("refused\nwith details", response=response)


def answer(monkeypatch: pytest.MonkeyPatch, result: Any) -> list[tuple[str, str | None]]:
    """Let the Hub answer with ``result`` (raised when it is an exception); returns the questions asked."""
    from huggingface_hub import HfApi

    asked: list[tuple[str, str | None]] = []

    def model_info(self: Any, name: str, *, revision: str | None = None, timeout: float | None = None) -> Any:
        asked.append((name, revision))
        if isinstance(result, Exception):
            raise result
        return result

    monkeypatch.setattr(HfApi, "model_info", model_info)
    return asked


def info(*files: str, sha: str | None = COMMIT) -> Any:
    return SimpleNamespace(sha=sha, siblings=[SimpleNamespace(rfilename=name) for name in files])


@pytest.fixture
def hub_cache(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A Hub cache that holds the tiny model as org/tiny at COMMIT, branch main."""
    repository = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(llama, repository / "snapshots" / COMMIT)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.mark.parametrize("model", ["org/tiny", "gpt2"])
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        ("RevisionNotFoundError", "has no revision 'v9' on the Hub"),
        ("GatedRepoError", "is gated on the Hub"),
        ("RepositoryNotFoundError", "There is no folder and no Hub repository"),
        ("HfHubHTTPError", "The Hub cannot be reached (HfHubHTTPError)"),
    ],
)
def test_refusals_of_the_hub(model: str, error: str, sentence: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, hub_error(error))
    assert sentence in refused(model, revision="v9")
    assert asked == [(model, "v9")]


def test_the_commit_is_resolved_before_loading(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, info("config.json", "model.safetensors", "tokenizer.json"))
    identity = resolve(SubjectSpec("org/tiny@main"))
    assert asked == [("org/tiny", "main")]
    assert (identity.name, identity.origin, identity.revision, identity.path) == ("org/tiny", "hub", COMMIT, None)
    assert (identity.layers, identity.width) == (4, 32)


def test_what_the_hub_lists_is_checked_before_downloading(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, sentence in [
        (("config.json", "tokenizer.json", "pytorch_model.bin"), "offers pickle weights only (pytorch_model.bin)"),
        (("config.json", "tokenizer.json"), "offers no weights"),
        (("config.json", "model.safetensors"), "has no tokenizer"),
    ]:
        answer(monkeypatch, info(*files))
        assert sentence in refused("org/tiny")
    answer(monkeypatch, info("model.safetensors", sha=None))
    assert "returned no commit" in refused("org/tiny")


def test_names_that_are_neither_path_nor_id() -> None:
    for name in ("org/tiny name", "", "-x", "org/a--b"):
        assert "neither an existing folder nor a Hub id" in refused(name)
    assert "without a revision" in refused("org/tiny@")
    assert "Two revisions are given" in refused("org/tiny@v1", revision="v2")


def test_an_unreachable_hub_falls_back_to_the_cache(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answer(monkeypatch, ConnectionError("no route"))
    assert resolve(SubjectSpec("org/tiny")).revision == COMMIT
    assert resolve(SubjectSpec("org/tiny", revision=COMMIT)).revision == COMMIT
    assert asked == [("org/tiny", None), ("org/tiny", COMMIT)]
    assert "org/tiny at revision 'v9' is not in the local cache" in refused("org/tiny@v9")
    assert "org/other is not in the local cache" in refused("org/other")


def test_offline_mode_loads_from_the_cache(hub_cache: Path) -> None:
    code = (
        "from geometry_bench.errors import GeometryBenchError\n"
        "from geometry_bench.subjects.spec import SubjectSpec, resolve\n"
        "try:\n    resolve(SubjectSpec('org/absent'))\n"
        "except GeometryBenchError as error:\n    print(error)\n"
        "identity = resolve(SubjectSpec('org/tiny'))\n"
        "import sys; print('torch' in sys.modules)\n"
        "from geometry_bench.subjects.load import load\n"
        "subject = load(SubjectSpec('org/tiny'), identity)\n"
        "print(subject.id, subject.identity.revision, subject.identity.path.name)\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(hub_cache)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    absent, torch_imported, loaded = done.stdout.strip().splitlines()
    assert "The Hub cannot be reached (OfflineModeIsEnabled) and org/absent is not in the local cache" in absent
    assert torch_imported == "False"
    assert loaded == f"org/tiny {COMMIT} {COMMIT}"
    assert done.stderr == "", "loading is quiet"


# Real small models, where they lie next to the repository


@pytest.mark.parametrize("name", ["stories260K", "llama2xs-279K"])
def test_small_published_models(name: str) -> None:
    folder = ROOT.parent / "shared" / "data" / "models" / name
    if not folder.is_dir():
        pytest.skip(f"the optional model folder {name} is not here")
    subject = load(SubjectSpec(str(folder)))
    assert (subject.n_layers, subject.width, subject.chat.name, subject.dtype) == (5, 64, "plain-1", "float32")
    assert subject.chat.encode("", "Hello").ids[0] == subject.tokenizer.bos_token_id
