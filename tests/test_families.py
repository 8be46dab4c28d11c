"""Family manifests, and runs of a family's members."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL
from models import tiny_model

from geometry_bench.asked import request_of
from geometry_bench.errors import GeometryBenchError
from geometry_bench.options import OPTIONS
from geometry_bench.records.facts import ModelFacts
from geometry_bench.records.measurement import Measurement
from geometry_bench.resources import data_root
from geometry_bench.run.bench import Bench, Output
from geometry_bench.run.describe import opening
from geometry_bench.run.execute import execute
from geometry_bench.run.pinning import Pinned
from geometry_bench.run.request import Request, chosen_claims
from geometry_bench.subjects.families import Family, Member, dump_family, embedded_specs, load_family
from geometry_bench.subjects.spec import Identity, SubjectSpec

BASE = {"role": "base", "model": "base"}
ALIGNED = {"role": "aligned", "model": "org/name@v1", "parent": "base", "alignment": "DPO"}


def manifest(folder: Path, *members: dict[str, Any], **top: Any) -> Path:
    """``family.toml`` in a folder where the folder ``base`` exists."""
    (folder / "base").mkdir(parents=True, exist_ok=True)
    lines = [f"{key} = {json.dumps(value)}" for key, value in ({"schema": 1, "name": "fam"} | top).items()]
    for member in members:
        lines += ["[[members]]", *(f"{key} = {json.dumps(value)}" for key, value in member.items())]
    (folder / "family.toml").write_text("\n".join(lines))
    return folder / "family.toml"


def refused(path: Path) -> str:
    with pytest.raises(GeometryBenchError) as caught:
        load_family(path)
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text, "the sentence names the file"
    return text.replace(str(path), "FILE")


@pytest.mark.parametrize(
    ("members", "top", "sentence"),
    [
        ([BASE, ALIGNED | {"role": "wise"}], {}, "gives wise the unknown role 'wise'; roles are base, aligned, "),
        ([BASE, BASE | {"name": "other", "model": "o/r"}], {}, "has base and other as its base; it needs exactly one"),
        ([ALIGNED | {"parent": "aligned"}], {}, "has no member as its base"),
        ([BASE | {"parent": "base"}], {}, "gives the base base the parent 'base'"),
        ([BASE, {"role": "useful", "model": "o/r"}], {}, "gives useful no parent"),
        ([BASE, ALIGNED | {"parent": "bose"}], {}, "gives aligned the parent 'bose', which is no member"),
        (
            [BASE, ALIGNED | {"parent": "useful"}, {"role": "useful", "model": "o/u", "parent": "aligned"}],
            {},
            "has parents in a circle (aligned from useful from aligned)",
        ),
        ([BASE, ALIGNED, ALIGNED | {"model": "o/r"}], {}, "has two members called 'aligned'"),
        ([BASE, ALIGNED, ALIGNED | {"name": "b", "model": "o/r"}], {}, "two members of role aligned from base"),
        ([BASE, ALIGNED | {"model": "./base"}], {}, "names ./base twice, as base and as aligned"),
        (
            [BASE, ALIGNED | {"model": "gone"}],
            {},
            "Member aligned of the family manifest FILE names the model 'gone', but",
        ),
        ([BASE, ALIGNED | {"model": "base/gone"}], {}, "there is no folder"),
        ([BASE, ALIGNED | {"model": "/gone/away"}], {}, "there is no folder /gone/away"),
        ([BASE | {"revision": "main"}], {}, "has a revision, but its model is the folder"),
        ([BASE, ALIGNED | {"revision": "v2"}], {}, "has two revisions, v1 in its model and v2 as key"),
        (
            [BASE, ALIGNED | {"parents": "base"}],
            {},
            "Member aligned of the family manifest FILE has an unknown key 'parents'",
        ),
        ([BASE | {"folder": "base"}], {}, "has an unknown key 'folder'; known are name, role, model"),
        ([BASE], {"receipt": "x"}, "The family manifest FILE has an unknown key 'receipt' (did you mean recipe?)"),
        (
            [BASE | {"role": 3}],
            {},
            "Member 3 of the family manifest FILE has a number where a text belongs",
        ),
        ([{"role": "base"}], {}, "has no key 'model'; add it"),
        ([], {}, "lists no members"),
        ([BASE], {"schema": 2}, "has schema 2; this geometry-bench reads schema = 1"),
        ([BASE], {"name": "a/b"}, "has 'a/b' at 'name'; use letters"),
        ([BASE], {"name": "zoo"}, "a name kept for the embedded models"),
    ],
)
def test_a_faulty_manifest_is_told_in_one_sentence(
    tmp_path: Path, members: list[dict[str, Any]], top: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(manifest(tmp_path, *members, **top))


def test_files_that_are_no_manifest(tmp_path: Path) -> None:
    assert "holds no family.toml" in refused(tmp_path)
    assert "There is no family manifest" in refused(tmp_path / "gone.toml")


def test_a_manifest_as_subjects(tmp_path: Path) -> None:
    useful = [{"name": f"{p}-useful", "role": "useful", "model": f"o/{p}", "parent": p} for p in ("base", "aligned")]
    family = load_family(manifest(tmp_path, BASE, ALIGNED, *useful).parent)
    assert [member.name for member in family.by_role("useful")] == ["base-useful", "aligned-useful"]
    assert family.by_role("harmful") == ()
    assert family.spec(family.member("base")) == SubjectSpec(
        str(tmp_path / "base"), name="fam/base", family="fam", role="base"
    )
    assert family.spec(family.member("aligned")) == SubjectSpec(
        "org/name@v1", alignment="DPO", name="fam/aligned", family="fam", role="aligned", parent="fam/base"
    )
    for wrong in (lambda: family.member("gone"), lambda: family.by_role("wise")):
        with pytest.raises(GeometryBenchError, match="aligned"):
            wrong()


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    (tmp_path / 'odd "folder" \\ ä').mkdir()
    members = (
        Member("base", "base", 'odd "folder" \\ ä'),
        Member("a", "aligned", "org/name", "v1", "base", "SFT,\tthen \x7f", "sft", "sha256:1", "sha256:2", "sha256:3"),
    )
    family = Family("fam", tmp_path / "family.toml", members, recipe="small", recipe_hash="sha256:0")
    family.path.write_text(dump_family(family), encoding="utf-8")
    assert load_family(tmp_path) == family


def pinned(*specs: SubjectSpec) -> Pinned:
    return Pinned(specs, [], [], [])


def test_embedded_members_go_by_one_name_however_they_are_asked_for(tmp_path: Path) -> None:
    for spec in embedded_specs():
        assert spec.model == spec.name
    folder = data_root() / "fixtures" / "zoo" / "llama-d80"
    family = load_family(folder)
    assert family == load_family(Path("zoo/llama-d80"))
    aligned = family.spec(family.member("aligned"))
    assert aligned in embedded_specs()
    by_name = SubjectSpec("zoo/llama-d80/aligned")
    assert list(pinned(by_name).models) == ["zoo/llama-d80/aligned"]
    assert pinned(by_name).models == pinned(aligned, by_name).models
    base = load_family(manifest(tmp_path, {"role": "base", "model": str(folder / "base")})).members[0]
    assert Family("mine", tmp_path / "family.toml", (base,)).spec(base).model == "zoo/llama-d80/base"


# --- on models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def myfam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of a base, another model aligned from it, and a copy of that one, called useful."""
    folder = tmp_path_factory.mktemp("families") / "somewhere"
    folder.mkdir()
    for seed, name in enumerate(("base", "aligned")):
        tiny_model("llama", folder, name=name, seed=seed, **SMALL)
    shutil.copytree(folder / "aligned", folder / "copy")
    members = (
        BASE,
        {"role": "aligned", "model": "aligned", "parent": "base", "alignment": "DPO"},
        {"name": "aligned-useful", "role": "useful", "model": "copy", "parent": "aligned"},
    )
    return manifest(folder, *members, name="myfam").parent


def asked_for(pack: Path, *families: Path, **values: Any) -> Request:
    """What options ask for, of one claim of single models."""
    given = {f"gb_{name}": value for name, value in values.items()}
    defaults = {option.dest: option.for_argparse()["default"] for option in OPTIONS}
    named = {"gb_family": list(map(str, families)), "gb_prompts": pack}
    request = request_of(defaults | named | given, progress=False)
    return replace(request, claims=chosen_claims(("compassion.tightest_pair",)))


def test_members_are_measured_resumed_and_kept_apart(pack: Path, myfam: Path, tmp_path: Path) -> None:
    request, base = asked_for(pack, myfam), tmp_path / "base"
    output = Output(results=tmp_path / "results", resume=True, baselines=base, update=("new",))
    first = Bench(request, output)
    told = list(opening(first))
    for line in (
        "family myfam: base, aligned (from base), aligned-useful (useful, from aligned)",
        "one checkpoint under several names: myfam/aligned, myfam/aligned-useful",
    ):
        assert line in told
    assert told[0].endswith("alignment not declared")
    assert told[1].endswith("alignment DPO")
    # A member whose weights another has too is neither passed over nor overwritten.
    for one in execute(first.session):
        assert isinstance(one, Measurement)
        first.write(one)
        facts = one.subject
        assert isinstance(facts, ModelFacts)
        parent = {"base": None, "aligned": "myfam/base", "useful": "myfam/aligned"}[str(facts.role)]
        assert (facts.id, facts.family, facts.parent) == (facts.name, "myfam", parent)
    first.update_baselines()
    assert {path.name for path in base.iterdir()} == {"myfam__base", "myfam__aligned", "myfam__aligned-useful"}
    again = Bench(request, output)
    assert all(again.session.is_resumed(one) for one in execute(again.session) if isinstance(one, Measurement))
    against = Bench(request, Output(baselines=base, against="myfam/aligned")).baselines.against
    assert [found.path.parent.parent for found in against or ()] == [base / "myfam__aligned"]


def test_families_beside_models(pack: Path, myfam: Path, tiny: Path) -> None:
    declared = {"model": [str(tiny)], "alignment": ["myfam/base=SFT"]}
    models = Bench(asked_for(pack, myfam / "family.toml", myfam, **declared)).plan.pinned.models
    assert {name: target.spec.alignment for name, target in models.items()} == {
        "tiny": None,
        "myfam/base": "SFT",
        "myfam/aligned": "DPO",
        "myfam/aligned-useful": None,
    }


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"family": ["{myfam}", "{copy}"]}, "Two families are called myfam ("),
        (
            {"alignment": ["base=DPO"]},
            "--alignment names base, which is no --model of this run and no FAMILY/MEMBER",
        ),
        ({"model": ["myfam/base"]}, "--model myfam/base is also a member of a --family of this run"),
        ({"adapter": "somewhere"}, "--adapter goes with --model, and none is given"),
        ({"family": ["{empty}"]}, "holds no family.toml"),
    ],
)
def test_bad_combinations(pack: Path, myfam: Path, tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    places = {"myfam": myfam, "copy": tmp_path / "copy", "empty": tmp_path / "empty"}
    shutil.copytree(myfam, places["copy"])
    places["empty"].mkdir()
    families = [one.format(**places) for one in options.pop("family", ["{myfam}"])]
    with pytest.raises(GeometryBenchError) as caught:
        asked_for(pack, *map(Path, families), **options)
    assert sentence in str(caught.value)


def test_members_on_the_hub_keep_their_hub_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines and published values go by it; two families may share a base."""
    hub = Identity("org/base", "hub", None, "a" * 40, "LlamaForCausalLM", 2, 16)
    monkeypatch.setattr("geometry_bench.run.pinning.resolve", lambda spec: hub)
    loaded = [
        load_family(manifest(tmp_path / name, {"role": "base", "model": "org/base"}, name=name))
        for name in ("one", "two")
    ]
    specs = [family.spec(family.members[0]) for family in loaded]
    found = pinned(*specs)
    assert {id: target.name for id, target in found.models.items()} == {"one/base": "org/base", "two/base": "org/base"}
    assert found.checkpoints() == [tuple(found.models.values())]
    declared = [SubjectSpec(s.model, name=s.name, alignment=m) for s, m in zip(specs, ("SFT", "DPO"), strict=True)]
    with pytest.raises(GeometryBenchError, match="org/base is declared as aligned by 'SFT' and by 'DPO'"):
        pinned(*declared)
