"""Directions on disk: one safetensors file with where they come from; and the formats of steering libraries.

Read are also GGUF control vectors (llama.cpp, repeng), repeng's ``ControlVector`` and steering-vectors' ``SteeringVector``
objects, and plain mappings of block to vector. In all of them N is the output of block N, counted from 0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geometry_bench.behavior.interventions import checked_direction
from geometry_bench.errors import GeometryBenchError
from geometry_bench.storage import digest_arrays, replacing

FORMAT = "geometry-bench-directions-1"
_PICKLES = (".pt", ".pth", ".bin", ".pkl", ".pickle")


@dataclass(frozen=True)
class Provenance:
    """Where directions come from; empty where that is not known.

    ``subject`` and ``revision`` of the model, ``pooling`` and ``site`` of the activations, ``prompts`` (hash of their token
    ids), and in words how they were ``made``.
    """

    subject: str = ""
    revision: str = ""
    pooling: str = ""
    site: str = "block_output"
    prompts: str = ""
    made: str = ""


@dataclass(frozen=True, eq=False)
class Directions:
    """Vectors by block, each (width,) in float32, with their provenance.

    Raises GeometryBenchError for none, a vector that is not finite or is zero, vectors of several widths, and a negative
    block.
    """

    vectors: Mapping[int, NDArray[np.float32]]
    provenance: Provenance = Provenance()

    def __post_init__(self) -> None:
        if not self.vectors:
            raise GeometryBenchError("There are no directions: give at least one block's vector.")
        checked = {}
        for block in sorted(self.vectors):
            if isinstance(block, bool) or not isinstance(block, int | np.integer) or block < 0:
                raise GeometryBenchError(f"Directions are given for block {block!r}: number blocks from 0.")
            vector = checked_direction(np.asarray(self.vectors[block]), f"The direction of block {block}")
            checked[int(block)] = vector.astype(np.float32)
        widths = {len(vector) for vector in checked.values()}
        if len(widths) > 1:
            raise GeometryBenchError(f"Directions have widths {sorted(widths)}: give those of one model.")
        object.__setattr__(self, "vectors", checked)

    @property
    def width(self) -> int:
        """Width of every vector."""
        return len(next(iter(self.vectors.values())))

    def at(self, block: int) -> NDArray[np.float32]:
        """The vector of a block. Raises GeometryBenchError where there is none."""
        if block not in self.vectors:
            known = ", ".join(map(str, self.vectors))
            raise GeometryBenchError(f"There is no direction for block {block}: there are those of {known}.")
        return self.vectors[block]


def save(path: Path, directions: Directions) -> None:
    """Write one safetensors file, whole or not at all. Raises GeometryBenchError where it cannot be written."""
    from safetensors.numpy import save_file

    arrays = {f"block.{block}": vector for block, vector in directions.vectors.items()}
    facts = {
        "format": FORMAT,
        "provenance": json.dumps(asdict(directions.provenance)),
        "sha256": digest_arrays(arrays),
    }
    try:
        with replacing(path) as temporary:
            save_file(arrays, temporary, metadata=facts)
    except OSError as error:
        raise GeometryBenchError(f"{path} cannot be written ({error.strerror}): choose another place.") from None


def load(path: Path, *, width: int | None = None, allow_pickle: bool = False) -> Directions:
    """Directions of a file: our own safetensors, a GGUF control vector, or with ``allow_pickle`` a pickled object.

    ``width``: that of the model they are for. A pickle can run code; that it was read is kept in the provenance.

    Raises GeometryBenchError for a file that cannot be read, is none of these or is damaged, directions of another width,
    and all that `Directions` refuses.
    """
    if not path.is_file():
        raise GeometryBenchError(f"{path} is no file: name a file of directions.")
    if path.suffix == ".gguf":
        found = _from_gguf(path)
    elif path.suffix in _PICKLES:
        if not allow_pickle:
            raise GeometryBenchError(f"{path} is a pickle, which can run code: allow pickle if you trust its author.")
        found = _from_pickle(path)
    else:
        found = _from_safetensors(path)
    if width is not None and found.width != width:
        raise GeometryBenchError(f"The directions of {path} have width {found.width}, and the model has {width}.")
    return found


def imported(value: Any, made: str = "") -> Directions:
    """Directions of an object: a mapping of block to vector, or repeng's or steering-vectors' object.

    Raises GeometryBenchError for anything else, for vectors of another site than block outputs, and as `Directions` does.
    """
    site = getattr(value, "layer_type", "decoder_block")
    if site != "decoder_block":
        raise GeometryBenchError(f"The vectors are for {site}: only those for outputs of decoder blocks can be read.")
    for name in ("directions", "layer_activations"):  # repeng; steering-vectors
        value = getattr(value, name, value)
    if not isinstance(value, Mapping):
        raise GeometryBenchError(
            f"A {type(value).__name__} holds no directions that can be read: give a mapping of block to vector, a "
            "ControlVector of repeng or a SteeringVector of steering-vectors."
        )
    vectors = {block: _as_array(vector) for block, vector in value.items()}
    return Directions(vectors, Provenance(made=made or "imported"))


def export_gguf(path: Path, directions: Directions, architecture: str) -> None:
    """Write a GGUF control vector, as llama.cpp and repeng read it; ``architecture`` is the model's type (llama, qwen2 …).

    Raises GeometryBenchError where gguf is not installed, for block 0, which the format cannot hold, and for a file that
    cannot be written.
    """
    gguf = _gguf(path)
    if 0 in directions.vectors:
        raise GeometryBenchError("A GGUF control vector cannot hold block 0: leave its direction out.")
    try:
        with replacing(path) as temporary:
            writer = gguf.GGUFWriter(temporary, "controlvector")
            writer.add_string("controlvector.model_hint", architecture)
            writer.add_uint32("controlvector.layer_count", len(directions.vectors))
            for key, text in asdict(directions.provenance).items():
                writer.add_string(f"geometry-bench.{key}", text)
            for block, vector in directions.vectors.items():
                writer.add_tensor(f"direction.{block}", vector)
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
    except OSError as error:
        raise GeometryBenchError(f"{path} cannot be written ({error.strerror}): choose another place.") from None


def _from_safetensors(path: Path) -> Directions:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            facts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (OSError, SafetensorError) as error:
        raise GeometryBenchError(f"{path} is not a readable safetensors file ({error}): save it again.") from None
    if facts.get("format") != FORMAT:
        raise GeometryBenchError(f"{path} holds no directions of the format {FORMAT}: save them with this package.")
    if facts.get("sha256") != digest_arrays(arrays):
        raise GeometryBenchError(f"{path} is damaged (its numbers do not match their checksum): save it again.")
    vectors = {int(name.removeprefix("block.")): vector for name, vector in arrays.items()}
    return Directions(vectors, Provenance(**json.loads(facts["provenance"])))


def _from_gguf(path: Path) -> Directions:
    gguf = _gguf(path)
    try:
        reader = gguf.GGUFReader(path)
        kind = str(reader.fields["general.architecture"].contents())
        tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
        said = {
            key: str(reader.fields[f"geometry-bench.{key}"].contents())
            for key in asdict(Provenance())
            if f"geometry-bench.{key}" in reader.fields
        }
    except Exception as error:  # a file that is cut short or damaged fails anywhere in the reader
        raise GeometryBenchError(f"{path} is not a readable GGUF file ({type(error).__name__}: {error}).") from error
    vectors = {name: vector for name, vector in tensors.items() if name.startswith("direction.")}
    if kind != "controlvector" or not vectors:
        raise GeometryBenchError(f"{path} is a GGUF file of kind {kind}, not a control vector: give one.")
    provenance = Provenance(**said) if said else Provenance(made="imported from a GGUF control vector")
    return Directions({int(name.removeprefix("direction.")): vector for name, vector in vectors.items()}, provenance)


def _from_pickle(path: Path) -> Directions:
    import pickle

    import torch

    try:
        value = torch.load(path, map_location="cpu", weights_only=False)
    except Exception:  # not written by torch
        try:
            with path.open("rb") as file:
                value = pickle.load(file)
        except Exception as error:  # whatever the pickled code raises
            raise GeometryBenchError(f"{path} cannot be unpickled ({type(error).__name__}: {error}).") from error
    found = imported(value)
    return replace(found, provenance=Provenance(made=f"imported from the pickle {path.name}"))


def _as_array(vector: Any) -> NDArray[Any]:
    """A vector of numpy, torch or Python."""
    if hasattr(vector, "detach"):
        vector = vector.detach().float().cpu().numpy()
    return np.asarray(vector)


def _gguf(path: Path) -> Any:
    try:
        import gguf
    except ImportError as error:
        raise GeometryBenchError(f"{path} needs gguf; install geometry-bench[gguf].") from error
    return gguf
