"""Weight updates: checkpoints read slice by slice, adapters, states of tensors, and figures against numpy's SVD."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from matrices import ETAS, SHAPES, matrix
from models import random_model, tiny_model
from safetensors.torch import load_file, save_file

from geometry_bench import safetensor
from geometry_bench.errors import GeometryBenchError
from geometry_bench.geometry.subspaces import (
    Spectrum,
    energy_of_vector,
    energy_ranks,
    haar_mean,
    random_basis,
    random_energy,
    random_frame,
)
from geometry_bench.run.pinning import Pinned
from geometry_bench.safetensor import from_float32, to_float32
from geometry_bench.subjects.families import load_family
from geometry_bench.subjects.spec import SubjectSpec, resolve
from geometry_bench.updates.checkpoint import Checkpoint, open_checkpoint, revision_of
from geometry_bench.updates.decompositions import factorise, in_memory, overlap
from geometry_bench.updates.store import Store
from geometry_bench.updates.sweep import Overlap, common_names, sweep
from geometry_bench.updates.update import compare, member_for, update_between


def overlap_of(a: np.ndarray, b: np.ndarray, device: str | None = None) -> Overlap:
    of_a, of_b = in_memory(a), in_memory(b)
    v, w = factorise([of_a, of_b], device=device)
    return Overlap(overlap(v, w, of_a, of_b) ** 2, v.spectrum, w.spectrum)


# Figures


@pytest.mark.parametrize("device", [None, "cpu"], ids=["scipy", "torch"])
@pytest.mark.parametrize("kind", SHAPES)
def test_every_figure_is_that_of_numpys_svd(kind: str, device: str | None) -> None:
    a, b = (matrix(kind, seed) for seed in (1, 2))
    left_a, sigma_a, _ = np.linalg.svd(a.astype(np.float64), full_matrices=False)
    left_b, sigma_b, _ = np.linalg.svd(b.astype(np.float64), full_matrices=False)
    found = overlap_of(a, b, device)
    rank = found.v.rank
    assert rank == (5 if kind.startswith("deficient") else min(a.shape))
    assert found.v.energies == pytest.approx(sigma_a[:rank] ** 2, rel=1e-8)
    expected = [
        np.linalg.norm(left_a[:, :k].T @ b.astype(np.float64)) ** 2 / np.linalg.norm(b.astype(np.float64)) ** 2
        for k in range(1, rank + 1)
    ]
    np.testing.assert_allclose(found.energy_kept(), expected, rtol=0, atol=1e-10)
    back = overlap_of(b, a, device).energy_kept()
    np.testing.assert_allclose(found.transposed().energy_kept(), back, rtol=0, atol=1e-10)
    # All directions of the space keep all of any update.
    if rank == a.shape[0]:
        assert found.energy_kept()[-1] == pytest.approx(1, abs=1e-12)
    mso = found.mso(ETAS)
    for eta, measured in zip(ETAS, mso.overlap, strict=True):
        k_a, k_b = (int(np.searchsorted(np.cumsum(s**2) / (s**2).sum(), eta - 1e-12) + 1) for s in (sigma_a, sigma_b))
        direct = np.linalg.norm(left_a[:, :k_a].T @ left_b[:, :k_b]) ** 2 / min(k_a, k_b)
        assert measured == pytest.approx(direct, abs=1e-8)
    assert mso.haar_mean.tolist() == [
        haar_mean(i, j, a.shape[0]) for i, j in zip(mso.ranks_v, mso.ranks_w, strict=True)
    ]


@pytest.mark.parametrize("kind", ["square", "tall", "wide"])
def test_random_k_keeps_the_share_of_the_directions_that_it_draws(kind: str) -> None:
    found = overlap_of(matrix(kind, 1), matrix(kind, 2))
    drawn = found.energy_kept_random_k(400, seed=0)
    k = np.arange(1, found.v.rank + 1)
    error = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn)) + 1e-12
    assert (np.abs(drawn.mean(axis=0) - found.energy_kept()[-1] * k / found.v.rank) < 4 * error).all()
    assert (np.diff(drawn, axis=1) >= 0).all()
    np.testing.assert_allclose(drawn[:, -1], found.energy_kept()[-1], rtol=1e-12)


@pytest.mark.parametrize("shape", [(12, 12), (12, 20), (18, 6), (60, 6), (200, 3)])
@pytest.mark.parametrize("rank", [1, 3])
def test_random_energies_are_distributed_as_those_of_random_bases(shape: tuple[int, int], rank: int) -> None:
    rows, columns = shape
    energies = np.geomspace(1, 0.2, rank)
    update = Spectrum(energies, rows, columns, float(energies.sum()))
    seeds = range(700)
    drawn = np.concatenate([random_energy(update, draws=2, seed=seed) for seed in seeds])
    most = min(shape)
    k = np.arange(1, most + 1)
    error = drawn.std(axis=0, ddof=1) / np.sqrt(len(drawn)) + 1e-6
    assert (np.abs(drawn.mean(axis=0) - k / rows) < 3.5 * error).all()
    # The same from whole bases, on an update that lies along the first axes.
    whole = np.array(
        [(random_basis(rows, columns, seed)[:rank] ** 2 * energies[:, None]).sum(axis=0) for seed in seeds]
    )
    whole = np.cumsum(whole, axis=1) / energies.sum()
    spread, other = drawn.std(axis=0), whole.std(axis=0)
    inside = k < rows
    np.testing.assert_allclose(spread[inside], other[inside], rtol=0.15)
    # Two draws from one seed know nothing of each other.
    middle = most // 2
    if most > 1:
        assert abs(np.corrcoef(drawn[0::2, middle - 1], drawn[1::2, middle - 1])[0, 1]) < 0.13


def test_updates_that_share_a_frame_draw_from_it_without_correlation() -> None:
    first, second = (Spectrum(np.array(energies), 9, 9, sum(energies)) for energies in ([1.0, 0.2], [0.9, 0.5, 0.1]))
    pairs = []
    for seed in range(1500):
        frame = random_frame(9, 9, seed)
        curves = [
            random_energy(one, draws=1, seed=2 * seed + i, frame=frame)[0, 3] for i, one in enumerate((first, second))
        ]
        pairs.append(curves)
    assert np.mean(pairs, axis=0) == pytest.approx(4 / 9, abs=0.02)
    assert abs(np.corrcoef(np.transpose(pairs))[0, 1]) < 0.09


def test_a_random_basis_begins_with_a_smaller_one() -> None:
    whole = random_basis(20, 12, 3)
    np.testing.assert_allclose(whole.T @ whole, np.eye(12), atol=1e-13)
    np.testing.assert_allclose(random_basis(20, 12, 3, k=5), whole[:, :5], atol=1e-13)


@settings(max_examples=30)
@given(st.sampled_from(["square", "tall", "wide", "deficient"]), st.integers(0, 10**6), st.floats(1e-3, 1e3))
def test_overlap_is_one_with_itself_whatever_the_sign_scale_and_mixing_of_inputs(
    kind: str, seed: int, scale: float
) -> None:
    a = matrix(kind, seed)
    turn, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((a.shape[1],) * 2))
    itself = overlap_of(a, np.float32(-scale) * a).mso(ETAS)
    turned = overlap_of(a, (a.astype(np.float64) @ turn).astype(np.float32)).mso(ETAS)
    np.testing.assert_allclose(itself.overlap, 1, atol=1e-6)
    np.testing.assert_allclose(turned.overlap, 1, atol=1e-4)  # the turned update is rounded to float32


def test_overlap_of_updates_on_different_outputs_is_zero() -> None:
    a, b = np.zeros((30, 10), np.float32), np.zeros((30, 10), np.float32)
    a[:12], b[12:] = matrix("square", 1)[:12, :10], matrix("square", 2)[:18, :10]
    found = overlap_of(a, b)
    assert found.mso(ETAS).overlap == pytest.approx(0, abs=1e-12)
    assert found.energy_kept() == pytest.approx(0, abs=1e-12)


def test_zero_and_vector_updates() -> None:
    (zero,) = factorise([in_memory(np.zeros((6, 4), np.float32))])
    assert (zero.spectrum.state, zero.spectrum.total, zero.vectors.shape) == ("zero", 0.0, (4, 0))
    with pytest.raises(GeometryBenchError, match="zero update spans no subspace"):
        overlap_of(np.zeros((6, 4), np.float32), np.ones((6, 4), np.float32))
    with pytest.raises(GeometryBenchError, match="zero update has no energy"):
        random_energy(zero.spectrum, draws=1, seed=0)
    a, b = (np.random.default_rng(seed).standard_normal(50).astype(np.float32) for seed in (1, 2))
    along = a.astype(np.float64) / np.linalg.norm(a.astype(np.float64))
    assert energy_of_vector(a, b) == pytest.approx((along @ b) ** 2 / (b.astype(np.float64) ** 2).sum(), abs=1e-14)
    with pytest.raises(GeometryBenchError, match="zero vector"):
        energy_of_vector(a, 0 * b)


# Reading


def folder(where: Path, tensors: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """A model folder with those tensors, enough to be read without a model."""
    where.mkdir(parents=True)
    declared = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4}
    (where / "config.json").write_text(json.dumps(declared | config))
    (where / "tokenizer.json").write_text("{}")
    save_file(dict(tensors), where / "model.safetensors")
    return where


def opened(where: Path, **spec: Any) -> Checkpoint:
    return open_checkpoint(SubjectSpec(str(where), **spec))


def some(seed: int = 0, **more: torch.Tensor) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    names = {
        "model.embed_tokens.weight": (6, 4),
        "model.layers.0.mlp.up_proj.weight": (8, 4),
        "model.norm.weight": (4,),
    }
    return {name: torch.randn(shape, generator=generator) for name, shape in names.items()} | more


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_slices_are_the_stored_values_exactly(
    dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(safetensor, "SLICE_ENTRIES", 250)
    stored = {"a": torch.randn(301, 7).to(dtype), "b": torch.randn(9).to(dtype), "c": torch.tensor(1.5, dtype=dtype)}
    read = opened(folder(tmp_path / "m", stored))
    for name, tensor in stored.items():
        parts = [read.rows(name, *part) for part in read.slices(name)]
        assert len(parts) > 1 or name != "a"
        joined = np.concatenate(parts) if tensor.ndim else parts[0]
        assert joined.dtype == np.float32
        np.testing.assert_array_equal(joined, tensor.float().numpy())
        kind = read.stored(name).dtype
        back = to_float32(from_float32(joined, kind), kind).reshape(tensor.shape)
        np.testing.assert_array_equal(back, joined)


def test_what_float32_cannot_hold_is_told(tmp_path: Path) -> None:
    large = opened(folder(tmp_path / "m", {"x": torch.tensor([1.0, 1e300], dtype=torch.float64)}))
    with pytest.raises(GeometryBenchError, match=r"x in .* holds NaN or infinity"):
        large.rows("x")


def test_rounding_to_bfloat16_is_that_of_torch() -> None:
    values = torch.cat([torch.randn(5000) * 10**e for e in (-6, 0, 6)])
    ours = to_float32(from_float32(values.numpy(), "BF16"), "BF16")
    np.testing.assert_array_equal(ours, values.bfloat16().float().numpy())


def test_sharded_and_whole_checkpoints_read_alike(tmp_path: Path) -> None:
    whole = opened(tiny_model("llama", tmp_path, name="whole"))
    parts = opened(tiny_model("llama", tmp_path, name="parts", max_shard_size="40KB"))
    assert len({stored.file for stored in parts.tensors.values()}) > 2
    update = compare(whole, parts)
    assert {update.report(name).state for name in update.names} == {"unchanged"}


def test_states_of_tensors(tmp_path: Path) -> None:
    start = some(0, **{"lm_head.weight": torch.randn(6, 4), "old": torch.ones(2), "count": torch.arange(3)})
    end = {name.removeprefix("model."): tensor for name, tensor in some(1).items()}
    end["norm.weight"] = start["model.norm.weight"]
    end["embed_tokens.weight"] = torch.cat([start["model.embed_tokens.weight"] + 1, torch.randn(2, 4)])
    end |= {"lm_head.weight": end["embed_tokens.weight"].clone(), "new": torch.ones(2), "count": torch.arange(3)}
    update = compare(opened(folder(tmp_path / "a", start), name="a"), opened(folder(tmp_path / "b", end), name="b"))
    reports = {name: update.report(name) for name in update.pairs}
    assert {name: report.state for name, report in reports.items()} == {
        "count": "skipped",
        "lm_head.weight": "reshaped",
        "model.embed_tokens.weight": "reshaped",
        "model.layers.0.mlp.up_proj.weight": "renamed",
        "model.norm.weight": "renamed",
        "new": "missing in start",
        "old": "missing in end",
    }
    embedding = reports["model.embed_tokens.weight"]
    assert embedding.shape == (6, 4)
    assert "first 6 are compared" in embedding.note
    assert embedding.norm == pytest.approx(np.sqrt(24))
    assert embedding.rank99 == 1
    assert reports["model.norm.weight"].norm == 0
    assert "I64" in reports["count"].note
    with pytest.raises(GeometryBenchError, match=r"old of b − a cannot be compared \(missing in end"):
        update.delta("old")


def test_a_head_that_is_the_embedding_is_tied_stored_or_not(tmp_path: Path) -> None:
    copied = some(0)
    copied["lm_head.weight"] = copied["model.embed_tokens.weight"].clone()
    stored, absent = opened(folder(tmp_path / "stored", copied)), opened(folder(tmp_path / "absent", some(1)))
    assert compare(absent, absent).pairs["lm_head.weight"].state == "tied"
    assert compare(stored, absent).pairs["lm_head.weight"].state == "tied"
    own = opened(folder(tmp_path / "own", some(1, **{"lm_head.weight": torch.zeros(6, 4)})))
    head = compare(absent, own).report("lm_head.weight")
    assert head.state == "changed"
    assert "tied to the embedding in" in head.note
    assert head.norm == pytest.approx(float(some(1)["model.embed_tokens.weight"].norm()))


def test_weights_stored_by_inputs_are_left_out(tmp_path: Path) -> None:
    model = opened(tiny_model("gpt2", tmp_path))
    pairs = compare(model, model).pairs
    skipped = [name for name, pair in pairs.items() if pair.state == "skipped"]
    assert len(skipped) == 16
    assert {name.split(".")[-2] for name in skipped} == {"c_attn", "c_proj", "c_fc"}
    assert pairs["transformer.wte.weight"].shape == (320, 32)
    assert pairs["lm_head.weight"].state == "tied"


def test_the_report_agrees_with_numpy(tmp_path: Path) -> None:
    start, end = some(0), some(1)
    update = compare(opened(folder(tmp_path / "a", start)), opened(folder(tmp_path / "b", end)))
    for name in start:
        delta = (end[name] - start[name]).numpy()
        report = update.report(name)
        assert report.norm == pytest.approx(np.linalg.norm(delta), rel=1e-6)
        assert report.relative == pytest.approx(np.linalg.norm(delta) / np.linalg.norm(start[name].numpy()), rel=1e-6)
        if delta.ndim == 2:
            shares = np.cumsum(np.linalg.svd(delta, compute_uv=False) ** 2)
            assert report.rank99 == int(np.searchsorted(shares / shares[-1], 0.99) + 1)
        else:
            assert report.rank99 is None


# Adapters


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, torch.Tensor]]:
    """Base folder, adapter folder, and peft's own updates by name of the weight, in float32."""
    import peft

    where = tmp_path_factory.mktemp("lora")
    base = tiny_model("llama", where, name="base")
    config = peft.LoraConfig(
        r=4,
        lora_alpha=16,
        use_rslora=True,
        target_modules=["q_proj", "down_proj", "up_proj", "embed_tokens"],
        rank_pattern={"down_proj": 6},
        alpha_pattern={r"layers\.1\.mlp\.up_proj": 5},
        modules_to_save=["lm_head"],
        task_type="CAUSAL_LM",
    )
    model = peft.get_peft_model(random_model("llama"), config)
    updates = {}
    for name, module in model.named_modules():
        if hasattr(module, "get_delta_weight"):
            for side in (module.lora_A, module.lora_B, module.lora_embedding_A, module.lora_embedding_B):
                for key in side:
                    weight = side[key] if isinstance(side, torch.nn.ParameterDict) else side[key].weight
                    torch.nn.init.normal_(weight, std=0.1)
            own = module.get_delta_weight("default").detach()
            updates[name.removeprefix("base_model.model.") + ".weight"] = own
    model.save_pretrained(where / "adapter")
    merged = model.merge_and_unload()
    merged.save_pretrained(where / "merged")
    (where / "merged" / "tokenizer.json").write_text((base / "tokenizer.json").read_text())
    return base, where / "adapter", updates


def test_the_update_of_an_adapter_is_its_product_and_that_of_the_merged_model(
    lora: tuple[Path, Path, dict[str, torch.Tensor]],
) -> None:
    base, adapter, expected = lora
    start = opened(base)
    update = compare(start, opened(base, adapter=str(adapter), name="tuned"))
    merged = compare(start, opened(adapter.parent / "merged"))
    factors = load_file(adapter / "adapter_model.safetensors")
    key = "base_model.model.model.layers.1.mlp.up_proj.lora_{}.weight"
    by_hand = 5 / np.sqrt(4) * factors[key.format("B")] @ factors[key.format("A")]
    name = "model.layers.1.mlp.up_proj.weight"
    np.testing.assert_allclose(update.delta(name), by_hand.numpy(), rtol=0, atol=1e-7)
    assert len(expected) == 13
    for name in update.names:
        delta = update.delta(name)
        if name not in expected:
            assert not delta.any()
            continue
        np.testing.assert_allclose(delta, expected[name].numpy(), rtol=1e-5, atol=1e-7)
        rounding = np.spacing(np.abs(start.rows(name)).max(), dtype=np.float32)
        np.testing.assert_allclose(merged.delta(name), delta, rtol=0, atol=2 * rounding)
    # Of rank 4 exactly, the merged one of full rank by rounding; the same subspaces within it.
    name = "model.layers.0.self_attn.q_proj.weight"
    (both,) = sweep({"own": update, "merged": merged}, [("own", "merged")], [name])
    assert both.spectra["own"].rank <= 8
    assert energy_ranks(both.spectra["own"], [0.9999999])[0] == 4
    np.testing.assert_allclose(both.overlaps["own", "merged"].mso(ETAS).overlap, 1, atol=1e-5)


def test_an_adapter_is_a_member_over_its_parent(
    lora: tuple[Path, Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    base, adapter, expected = lora
    (tmp_path / "family.toml").write_text(
        f'schema = 1\nname = "f"\n[[members]]\nrole = "base"\nmodel = "{base}"\n'
        f'[[members]]\nrole = "aligned"\nmodel = "{adapter}"\nparent = "base"\n'
    )
    family = load_family(tmp_path)
    update = update_between(family, family.member("base"), family.member("aligned"))
    name = "model.layers.0.mlp.down_proj.weight"
    np.testing.assert_allclose(update.delta(name), expected[name].numpy(), rtol=1e-5, atol=1e-7)
    with pytest.raises(GeometryBenchError, match="holds an adapter only"):
        opened(adapter)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "is of type IA3; only LoRA"),
        ({"use_dora": True}, "uses use_dora"),
        ({"init_lora_weights": "pissa"}, "was started by pissa"),
    ],
)
def test_other_adapters_are_refused(
    change: dict[str, Any], message: str, lora: tuple[Path, Path, dict[str, torch.Tensor]], tmp_path: Path
) -> None:
    base, adapter, _ = lora
    config = json.loads((adapter / "adapter_config.json").read_text()) | change
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.safetensors").write_bytes((adapter / "adapter_model.safetensors").read_bytes())
    with pytest.raises(GeometryBenchError, match=message):
        opened(base, adapter=str(tmp_path))


# Faults


def test_faults_of_checkpoints_are_told_in_one_sentence(tmp_path: Path) -> None:
    good = opened(folder(tmp_path / "good", some(0)), name="good")
    other = folder(tmp_path / "other", some(0), architectures=["MistralForCausalLM"], model_type="mistral")
    with pytest.raises(GeometryBenchError, match="is a LlamaForCausalLM and other a MistralForCausalLM"):
        compare(good, opened(other, name="other"))
    wider = some(0) | {"model.norm.weight": torch.ones(5)}
    with pytest.raises(GeometryBenchError, match=r"model.norm.weight has shape \(4,\) in good and \(5,\)"):
        compare(good, opened(folder(tmp_path / "wider", wider)))
    with pytest.raises(GeometryBenchError, match="share no tensor"):
        compare(good, opened(folder(tmp_path / "strange", {"x": torch.ones(2)})))
    with pytest.raises(GeometryBenchError, match="is quantised"):
        opened(folder(tmp_path / "quantised", some(0), quantization_config={"quant_method": "gptq"}))

    damaged = some(0)
    damaged["model.layers.0.mlp.up_proj.weight"][3, 2] = float("nan")
    update = compare(good, opened(folder(tmp_path / "nan", damaged)))
    with pytest.raises(GeometryBenchError, match=r"mlp.up_proj.weight in .*nan.* holds NaN or infinity"):
        update.report("model.layers.0.mlp.up_proj.weight")

    short = folder(tmp_path / "short", some(0)) / "model.safetensors"
    short.write_bytes(short.read_bytes()[:-3])
    with pytest.raises(GeometryBenchError, match=r"is cut short: it ends within the tensor model\.norm\.weight"):
        opened(short.parent)
    for content, told in (
        (short.read_bytes()[:40], r"model\.safetensors is cut short: it ends within its header"),
        (short.read_bytes()[:5], r"model\.safetensors is cut short: it ends within its header"),
        (b"", r"model\.safetensors is empty; download or save it again"),
        (b"version https://git-lfs.github.com/spec/v1", "is not a readable safetensors file .it does not start with"),
    ):
        short.write_bytes(content)
        with pytest.raises(GeometryBenchError, match=told):
            opened(short.parent)
    pickled = folder(tmp_path / "pickled", some(0))
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(GeometryBenchError, match="pickle weights only"):
        opened(pickled)


def test_of_several_misfits_the_first_in_order_is_told(tmp_path: Path) -> None:
    narrow, wide = (
        opened(
            folder(tmp_path / f"{width}", {f"model.layers.{i}.up.weight": torch.ones(3, width) for i in range(2, 40)})
        )
        for width in (4, 5)
    )
    with pytest.raises(GeometryBenchError, match=r"^model\.layers\.2\.up\.weight has shape \(3, 4\)"):
        compare(narrow, wide)


def test_weights_without_a_tokenizer_are_read_and_pinned(tmp_path: Path) -> None:
    where = folder(tmp_path / "m", some(0))
    spec = SubjectSpec(str(where))
    assert revision_of(spec) == resolve(spec).revision
    (where / "tokenizer.json").unlink()
    bare = revision_of(spec)
    assert opened(where).shape("model.norm.weight") == (4,)
    save_file(some(1), where / "model.safetensors")
    assert revision_of(spec) != bare
    (where / "family.toml").write_text('schema = 1\nname = "f"\n[[members]]\nrole = "base"\nmodel = "."\n')
    (pinned,) = Pinned([], [], [], [load_family(where)]).families.values()
    assert pinned.members == {"base": revision_of(spec)}
    for wrong, told in (
        (SubjectSpec(str(where), revision="main"), "is a local folder; drop --revision"),
        (SubjectSpec(str(tmp_path / "none")), "There is no folder"),
        (SubjectSpec(str(tmp_path)), "is not a model folder: it has no config.json"),
        (
            SubjectSpec(str(where), adapter=str(tmp_path)),
            "is no folder of a PEFT adapter: it has no adapter_config.json",
        ),
    ):
        with pytest.raises(GeometryBenchError, match=told):
            open_checkpoint(wrong)
    (where / "config.json").write_text('{"architectures": ["BertForMaskedLM"], "model_type": "bert"}')
    for read in (open_checkpoint, revision_of):
        with pytest.raises(GeometryBenchError, match="not a generating language model"):
            read(spec)


def test_the_revision_of_an_adapter_is_that_of_both(lora: tuple[Path, Path, dict[str, torch.Tensor]]) -> None:
    base, adapter, _ = lora
    spec = SubjectSpec(str(base), adapter=str(adapter))
    identity = resolve(spec)
    assert revision_of(spec) == f"{identity.revision} + adapter {identity.adapter_hash}"


def test_a_missing_shard_and_a_broken_promise_are_told(tmp_path: Path) -> None:
    parts = tiny_model("llama", tmp_path, max_shard_size="40KB")
    index = json.loads((parts / "model.safetensors.index.json").read_text())
    index["weight_map"]["model.extra"] = index["weight_map"]["model.norm.weight"]
    (parts / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(GeometryBenchError, match=r"lacks the tensor model.extra that its index promises"):
        opened(parts)
    next(parts.glob("model-*.safetensors")).unlink()
    with pytest.raises(GeometryBenchError, match="lacks the weight shard"):
        opened(parts)


# Families


def test_a_family_goes_by_tensor_by_tensor() -> None:
    family = load_family(Path("zoo/llama-d80"))
    base, aligned = family.member("base"), member_for(family, "aligned")
    harmful = member_for(family, "harmful", parent_role="aligned")
    updates = {"aligned": update_between(family, base, aligned), "harmful": update_between(family, aligned, harmful)}
    found = list(sweep(updates, [("aligned", "harmful"), ("aligned", "aligned")]))
    assert [one.name for one in found] == list(common_names(updates, dimensions=2))
    assert [one.name for one in found][1] == "model.layers.0.mlp.down_proj.weight"
    for one in found[::6]:
        np.testing.assert_allclose(one.overlaps["aligned", "aligned"].mso(ETAS).overlap, 1, atol=1e-8)
        curve = one.energy_kept_random("harmful", 3, seed=0)
        assert curve.shape == (3, min(one.spectra["harmful"].rows, one.spectra["harmful"].columns))
        assert not np.allclose(curve[0], curve[1])
    # One of them by the plain way.
    delta = {label: update.delta(found[0].name).astype(np.float64) for label, update in updates.items()}
    left, _, _ = np.linalg.svd(delta["aligned"], full_matrices=False)
    expected = np.cumsum(((left.T @ delta["harmful"]) ** 2).sum(axis=1)) / (delta["harmful"] ** 2).sum()
    np.testing.assert_allclose(found[0].overlaps["aligned", "harmful"].energy_kept(), expected, rtol=0, atol=1e-10)
    with pytest.raises(GeometryBenchError, match="no update 'useful'"):
        list(sweep(updates, [("aligned", "useful")]))


def test_a_missing_role_is_told() -> None:
    family = load_family(Path("zoo/llama-d80"))
    with pytest.raises(GeometryBenchError, match="no member of role harmful that starts from one of role safety_dpo"):
        member_for(family, "harmful", parent_role="safety_dpo")
    with pytest.raises(GeometryBenchError, match="has several members of role harmful"):
        member_for(family, "harmful")


# The store


def test_decompositions_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start = opened(folder(tmp_path / "a", some(0)))
    update = compare(start, opened(folder(tmp_path / "b", some(1))))
    name, store = "model.layers.0.mlp.up_proj.weight", Store(tmp_path / "kept")
    made = update.factors(name, store=store)
    with monkeypatch.context() as patch:
        patch.setattr("geometry_bench.updates.decompositions._gram", lambda matrix: pytest.fail("decomposed again"))
        kept = update.factors(name, store=Store(tmp_path / "kept"))
    np.testing.assert_array_equal(kept.vectors, made.vectors)
    assert kept.spectrum.total == made.spectrum.total
    np.testing.assert_array_equal(kept.spectrum.energies, made.spectrum.energies)
    # Another end is another entry.
    compare(start, opened(folder(tmp_path / "c", some(2)))).factors(name, store=store)
    assert len(list(store.root.glob("??/*.safetensors"))) == 2


def test_the_store_keeps_within_its_limit(tmp_path: Path) -> None:
    store = Store(tmp_path, limit=1000)
    arrays = {"x": np.arange(20.0)}
    for number in range(9):
        assert store.put(f"{number:064x}", arrays)
    assert not store.put("f" * 64, {"x": np.zeros(200)})
    left = sorted(path.stem[-1] for path in store.root.glob("??/*"))
    assert len(left) <= 6
    assert "8" in left
    assert "0" not in left
