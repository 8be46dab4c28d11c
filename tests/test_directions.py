"""Directions on disk: written and read, in our format and in those of steering libraries; and what is refused."""

from __future__ import annotations

import importlib
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from geometry_bench.behavior.directions import Directions, Provenance, export_gguf, imported, load, save
from geometry_bench.behavior.interventions import Steer, applied
from geometry_bench.errors import GeometryBenchError
from geometry_bench.subjects.load import load as load_subject
from geometry_bench.subjects.spec import SubjectSpec

VECTORS = {3: np.arange(1, 9, dtype=np.float32), 5: -np.ones(8, dtype=np.float32)}
FROM = Provenance("org/name", "a" * 40, "last", "block_output", "p" * 64, "difference of class means")


def same(found: Directions, expected: dict[int, Any] = VECTORS) -> bool:
    return list(found.vectors) == list(expected) and all(
        np.array_equal(found.at(key), expected[key]) for key in expected
    )


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "new" / "refusal.safetensors"
    save(path, Directions(VECTORS, FROM))
    found = load(path, width=8)
    assert same(found)
    assert found.provenance == FROM
    with pytest.raises(GeometryBenchError, match="no direction for block 4: there are those of 3, 5"):
        found.at(4)


def test_a_gguf_control_vector_is_what_llama_cpp_expects(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf")
    path = tmp_path / "refusal.gguf"
    export_gguf(path, Directions(VECTORS, FROM), "qwen2")
    reader = gguf.GGUFReader(path)
    assert reader.fields["general.architecture"].contents() == "controlvector"
    assert reader.fields["controlvector.model_hint"].contents() == "qwen2"
    assert reader.fields["controlvector.layer_count"].contents() == 2
    assert {tensor.name: tensor.tensor_type.name for tensor in reader.tensors} == {
        "direction.3": "F32",
        "direction.5": "F32",
    }
    found = load(path)
    assert same(found)
    assert found.provenance == FROM
    with pytest.raises(GeometryBenchError, match="cannot hold block 0"):
        export_gguf(tmp_path / "zero.gguf", Directions({0: VECTORS[3]}), "llama")


@dataclass
class ControlVector:
    """As repeng 0.4 declares it."""

    model_type: str
    directions: dict[int, np.ndarray]


@dataclass
class SteeringVector:
    """As steering-vectors 0.12 declares it."""

    layer_activations: dict[int, torch.Tensor]
    layer_type: str = "decoder_block"


def of_library(name: str, stand_in: type, real: bool) -> Any:
    """A class of a library, where that is installed and can be imported (repeng 0.4 cannot beside numpy 2)."""
    if not real:
        return stand_in
    try:
        return getattr(importlib.import_module(name), stand_in.__name__)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"{name}: {error}")


@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "library"])
def test_steering_vectors_takes_our_directions_and_steers_as_we_do(real: bool) -> None:
    """The lines of docs/behavior.md; the library adds the vector to a block's output, as our Steer does."""
    subject = load_subject(SubjectSpec("zoo/llama-d64/aligned"))
    generator = np.random.default_rng(0)
    found = Directions({block: generator.standard_normal(subject.width) for block in (1, 4)}, FROM)
    theirs = of_library("steering_vectors", SteeringVector, real)(
        {block: torch.from_numpy(v) for block, v in found.vectors.items()}
    )
    assert same(imported(theirs), dict(found.vectors))
    if real:
        ids = torch.arange(12)[None] + 5
        ours = [Steer(vector, 0.7, [block], scale="direction") for block, vector in found.vectors.items()]
        with torch.no_grad(), applied(subject, *ours):
            expected = subject.model(ids).logits
        with torch.no_grad(), theirs.apply(subject.model, multiplier=0.7):
            assert (subject.model(ids).logits - expected).abs().max() < 1e-4


@pytest.mark.parametrize("real", [False, True], ids=["stand-in", "library"])
def test_repeng_takes_our_directions_as_object_and_as_file(real: bool, tmp_path: Path) -> None:
    found = Directions(VECTORS, FROM)
    theirs = of_library("repeng", ControlVector, real)("qwen2", dict(found.vectors))
    assert same(imported(theirs))
    if real:
        pytest.importorskip("gguf")
        export_gguf(tmp_path / "ours.gguf", found, "qwen2")
        read = type(theirs).import_gguf(tmp_path / "ours.gguf")
        assert read.model_type == "qwen2"
        assert same(imported(read))
        theirs.export_gguf(tmp_path / "theirs.gguf")
        assert same(load(tmp_path / "theirs.gguf"))


def test_objects_of_steering_libraries_are_read(tmp_path: Path) -> None:
    tensors = {key: torch.tensor(vector, dtype=torch.bfloat16) for key, vector in VECTORS.items()}
    for value in (VECTORS, ControlVector("qwen2", VECTORS), SteeringVector(tensors), tensors):
        assert same(imported(value))
    with pytest.raises(GeometryBenchError, match="vectors are for mlp"):
        imported(SteeringVector(tensors, "mlp"))
    with pytest.raises(GeometryBenchError, match="A list holds no directions"):
        imported([1.0])


@pytest.mark.parametrize("suffix", [".pt", ".pkl"])
def test_a_pickle_is_read_only_where_that_is_allowed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vector{suffix}"
    value = ControlVector("qwen2", VECTORS)
    if suffix == ".pt":
        torch.save(value, path)
    else:
        path.write_bytes(pickle.dumps(value))
    with pytest.raises(GeometryBenchError, match="is a pickle, which can run code"):
        load(path)
    found = load(path, allow_pickle=True)
    assert same(found)
    assert found.provenance.made == f"imported from the pickle vector{suffix}"


def spoil(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change arrays, and leave the checksum of before."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        facts = file.metadata()
    arrays = load_file(path)
    change(arrays)
    save_file(arrays, path, metadata=facts)


def test_files_that_are_not_what_they_should_be_get_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "refusal.safetensors"
    save(path, Directions(VECTORS))
    with pytest.raises(GeometryBenchError, match="have width 8, and the model has 9"):
        load(path, width=9)
    spoil(path, lambda arrays: arrays.update({"block.3": arrays["block.3"] + 1}))
    with pytest.raises(GeometryBenchError, match="is damaged"):
        load(path)
    save_file({"weight": VECTORS[3]}, path)
    with pytest.raises(GeometryBenchError, match="no directions of the format"):
        load(path)
    path.write_bytes(b"none")
    with pytest.raises(GeometryBenchError, match="not a readable safetensors"):
        load(path)
    with pytest.raises(GeometryBenchError, match="is no file"):
        load(tmp_path / "absent.safetensors")
    for name, sentence in (("a.gguf", "not a readable GGUF"), ("a.pt", "cannot be unpickled")):
        (tmp_path / name).write_bytes(b"none")
        with pytest.raises(GeometryBenchError, match=sentence):
            load(tmp_path / name, allow_pickle=True)


@pytest.mark.parametrize(
    ("vectors", "sentence"),
    [
        ({}, "no directions"),
        ({1: np.zeros(4)}, "direction of block 1 is zero"),
        ({1: np.array([1, np.nan])}, "direction of block 1 holds NaN"),
        ({1: np.ones((2, 2))}, "one vector"),
        ({1: np.ones(2), 2: np.ones(3)}, r"widths \[2, 3\]"),
        ({-1: np.ones(2)}, "block -1"),
        ({"a": np.ones(2)}, "block 'a'"),
    ],
)
def test_bad_directions_get_a_sentence(vectors: dict[Any, Any], sentence: str) -> None:
    with pytest.raises(GeometryBenchError, match=sentence):
        Directions(vectors)
