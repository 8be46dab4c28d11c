"""Documents of every schema so far, read as those of the newest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from geometry_bench.errors import GeometryBenchError
from geometry_bench.records.measurement import SCHEMA, Absence

Model = TypeVar("Model", bound=BaseModel)
Data = dict[str, Any]


def parse(model: type[Model], text: str, where: str, complete: Callable[[Data], Data] = lambda data: data) -> Model:
    """Read one JSON document of any supported schema version; ``complete`` adds what is stored beside it.

    Raises:
        GeometryBenchError: it is not JSON, of a newer schema, or lacks what the schema asks for.
    """
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise GeometryBenchError(
            f"{where} is not valid JSON ({error}): restore it from version control or delete it."
        ) from None
    version = data.get("schema_version") if isinstance(data, dict) else None
    if not isinstance(version, int):
        raise GeometryBenchError(
            f"{where} has no schema_version: it was not written by geometry-bench; restore or delete it."
        )
    if version > SCHEMA:
        raise GeometryBenchError(
            f"{where} has schema {version}, newer than this geometry-bench understands ({SCHEMA}): upgrade geometry-bench."
        )
    try:
        for step in range(version, SCHEMA):
            data = _MIGRATIONS[step](data)
        return model.model_validate(complete(data))
    except ValidationError as error:
        first = error.errors()[0]
        place, fault = ".".join(str(part) for part in first["loc"]), first["msg"]
    except KeyError as error:
        place, fault = str(error.args[0]), "missing"
    except (TypeError, AttributeError) as error:
        place, fault = "its outline", str(error)
    raise GeometryBenchError(
        f"{where} is damaged at '{place}' ({fault}): restore it from version control or delete it."
    )


# From schema 1, which kept verdicts beside values, curves as numbered details, and facts as untyped dictionaries


def _from_1(data: Data) -> Data:
    if "cases" in data:
        cases = {key: _case_from_1(case) | {"reason": case["reason"]} for key, case in data["cases"].items()}
        return {"schema_version": 2, "subject": _subject_from_1(data["subject"]), "cases": cases}
    case = _case_from_1(data | {"claim_reason": data["verdicts"]["claim_reason"]})
    return {
        "schema_version": 2,
        "claim": data["claim"],
        "case": data["case"],
        "subject": _subject_from_1(data["subject"]),
        **case,
    }


def _case_from_1(data: Data) -> Data:
    estimates = {variant: _estimate_from_1(one) for variant, one in data["estimates"].items()}
    missing = None if estimates else {"reason": Absence.UNSAID, "sentence": data["claim_reason"]}
    return {
        "claim_version": data["claim_version"],
        "inputs": _inputs_from_1(data["inputs"]),
        "estimates": estimates,
        "missing": missing,
        "environment": data["environment"],
    }


def _subject_from_1(data: Data) -> Data:
    settings = ("dtype", "attention", "quantisation")
    data = data | {key: None for key in settings if data.get(key) in ("mixed", "none")}
    if "members" not in data:
        return {"kind": "model", **data}
    # The first panels named the revisions of their members alone.
    members = {name: {"revision": one} if isinstance(one, str) else one for name, one in data["members"].items()}
    data = data | {"members": members}
    kind = "group" if "reference" in data else "family" if data["id"].startswith("family/") else "panel"
    dropped = {"adapter_hash", *(["requested"] if kind != "group" else [])}
    return {"kind": kind, **{key: value for key, value in data.items() if key not in dropped}}


def _inputs_from_1(data: Data) -> Data | None:
    if not data:
        return None
    if data["site"] == "weights":
        return {"kind": "weights", "hash": data["pack_hash"]}
    return {"kind": "prompts", "hash": data["pack_hash"], **{k: v for k, v in data.items() if k != "pack_hash"}}


_CURVES: Mapping[str, str] = {
    r"(at_depth)_([\d.]+)": "relative depth",
    r"(error)_at_([\d.e+-]+)": "penalty",
    r"(overlap|haar|difference)_at_([\d.]+)": "share of energy",
    r"(mso|haar|lead)_(0\.\d+)": "share of energy",
    r"((?:top|random_k|random|dimensions)(?:_floor)?)_(0\.\d+)": "share of rank",
    r"(block)_(\d+)": "block",
}
"""Numbered details of schema 1 -> the axis of the curve that they were."""


def _estimate_from_1(data: Data) -> Data:
    curves: dict[str, dict[str, Any]] = {}
    if data["profile"] is not None:
        curves["profile"] = {"axis": "block", "x": list(range(len(data["profile"]))), "y": data["profile"]}
    details: Data = {}
    for name, value in data["details"].items():
        found = ((axis, re.fullmatch(pattern, name)) for pattern, axis in _CURVES.items())
        axis, match = next(((axis, match) for axis, match in found if match), (None, None))
        if axis is None or match is None:
            details[name] = value
            continue
        curve = curves.setdefault(match[1], {"axis": axis, "x": [], "y": []})
        curve["x"].append(float(match[2]))
        curve["y"].append(value)
    left_out = data["leave_one_out"]
    kept = {key: data[key] for key in ("value", "error", "low", "high", "n", "null", "label", "arithmetic", "notes")}
    units = None if left_out is None else {"kind": "unit", "ids": None, "values": left_out}
    return {**kept, "block": data["layer"], "units": units, "curves": curves, "details": details}


_MIGRATIONS: Mapping[int, Callable[[Data], Data]] = {1: _from_1}
"""``{n: function from a document of version n to one of version n + 1}``."""
