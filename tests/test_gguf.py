"""A GGUF file is a model like any other: pinned by its content, dequantised, and said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import SPECIALS, TEMPLATES, random_model

from geometry_bench.activations.capture import capture
from geometry_bench.activations.pooling import LAST
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects import gguf as own
from geometry_bench.subjects.load import load
from geometry_bench.subjects.spec import SubjectSpec, resolve

gguf = pytest.importorskip("gguf")

_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_HEADS = {"attn_q": 4, "attn_k": 2}


def write_gguf(path: Path, model: Any, *, quantise: bool = True) -> None:
    """A Llama as llama.cpp writes it, quantised to Q8_0 (but for vectors); the model's weights become what was written."""
    config, writer = model.config, gguf.GGUFWriter(path, "llama")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(config.vocab_size)
    if quantise:
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_tokenizer(writer, config.vocab_size)
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    for block in range(config.num_hidden_layers):
        names |= {f"blk.{block}.{short}": f"model.layers.{block}.{long}" for short, long in _NAMES.items()}
    state = model.state_dict()
    for short, long in names.items():
        weight = state[f"{long}.weight"].numpy()
        kind = gguf.GGMLQuantizationType.Q8_0 if quantise and weight.ndim == 2 else gguf.GGMLQuantizationType.F32
        stored = gguf.quants.quantize(_permuted(weight, _HEADS.get(short.rpartition(".")[2])), kind)
        writer.add_tensor(f"{short}.weight", stored, raw_dtype=kind)
        state[f"{long}.weight"].copy_(
            torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(weight, kind), kind))
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _permuted(weight: np.ndarray, heads: int | None) -> np.ndarray:
    """Rows of queries and keys in the order in which llama.cpp rotates them."""
    if heads is None:
        return weight
    rows = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return np.ascontiguousarray(rows.swapaxes(1, 2).reshape(weight.shape))


def _add_tokenizer(writer: Any, size: int) -> None:
    from tokenizers import pre_tokenizers

    tokens = SPECIALS + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens += ["ab", *(f"<unused{number}>" for number in range(size - len(tokens) - 1))]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and len(token) > 1 else 1 for token in tokens])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATES["no_bos"])


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """A GGUF file, and the model of the same weights."""
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    model = random_model("llama", num_hidden_layers=2, intermediate_size=64)
    write_gguf(path, model)
    return path, model


def test_a_gguf_file_is_measured_as_the_folder_of_its_weights(packed: tuple[Path, Any], tmp_path: Path) -> None:
    path, model = packed
    identity = resolve(SubjectSpec(str(path)))
    assert (identity.name, identity.layers, identity.width) == ("tiny.gguf", 2, 32)
    assert identity.revision.startswith("sha256:")
    subject = load(SubjectSpec(str(path), device="cpu"))
    facts = subject.facts()
    assert (facts["architecture"], facts["dtype"], facts["template"]) == (
        "LlamaForCausalLM",
        "float32",
        "chat_template",
    )
    assert facts["quantisation"] == "gguf-Q8_0"
    assert any("gguf-Q8_0 and are taken back to floats" in note for note in facts["notes"])
    model.save_pretrained(tmp_path / "folder")
    subject.tokenizer.save_pretrained(tmp_path / "folder")
    folder = load(SubjectSpec(str(tmp_path / "folder"), device="cpu"))
    prompts = [one.chat.encode("Be kind.", "Hello there").ids for one in (subject, folder)]
    assert prompts[0] == prompts[1]
    values = [capture(one, prompts[:1], (LAST,), progress=False)[LAST] for one in (subject, folder)]
    np.testing.assert_allclose(*values, rtol=1e-4, atol=1e-5)
    assert folder.quantisation is None


def test_the_file_decides_the_revision_and_floats_are_no_quantisation(packed: tuple[Path, Any], tmp_path: Path) -> None:
    write_gguf(tmp_path / "floats.gguf", random_model("llama", num_hidden_layers=2), quantise=False)
    assert own.read(tmp_path / "floats.gguf").quantisation is None
    revisions = {resolve(SubjectSpec(str(path))).revision for path in (packed[0], tmp_path / "floats.gguf")}
    assert len(revisions) == 2


def test_files_that_are_no_model_are_refused(
    packed: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in (("empty", b""), ("short", packed[0].read_bytes()[:200])):
        broken = tmp_path / f"{name}.gguf"
        broken.write_bytes(content)
        with pytest.raises(GeometryBenchError, match="is not a readable GGUF language model"):
            resolve(SubjectSpec(str(broken)))
    with pytest.raises(GeometryBenchError, match=f"but a GGUF file; name that: {packed[0]}"):
        resolve(SubjectSpec(str(packed[0].parent)))
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    own.read.cache_clear()
    with pytest.raises(GeometryBenchError, match=r"install geometry-bench\[gguf\]"):
        resolve(SubjectSpec(str(packed[0])))
