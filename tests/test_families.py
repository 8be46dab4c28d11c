"""Family manifests, and the benchmarks run on a family."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Bench, read_lines
from geometry_bench.run.run import Run, RunSettings

from geometry_bench.errors import GeometryBenchError
from geometry_bench.resources import data_root
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


def test_embedded_members_go_by_one_name_however_they_are_asked_for(tmp_path: Path) -> None:
    for spec in embedded_specs():
        assert spec.model == spec.name
    folder = data_root() / "fixtures" / "zoo" / "llama-d80"
    family = load_family(folder)
    assert family == load_family(Path("zoo/llama-d80"))
    aligned = family.spec(family.member("aligned"))
    assert aligned in embedded_specs()
    settings = RunSettings(baselines=tmp_path)
    by_name = Run([SubjectSpec("zoo/llama-d80/aligned")], settings)
    assert by_name.subjects == Run([aligned, SubjectSpec("zoo/llama-d80/aligned")], settings).subjects
    assert list(by_name.subjects) == ["zoo/llama-d80/aligned"]
    base = load_family(manifest(tmp_path, {"role": "base", "model": str(folder / "base")})).members[0]
    assert Family("mine", tmp_path / "family.toml", (base,)).spec(base).model == "zoo/llama-d80/base"


# --- on models -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def myfam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A family of a base, another model aligned from it, and a copy of that one, called useful."""
    from models import tiny_model

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


def ids(result: pytest.RunResult) -> list[str]:
    return [line.rsplit("::", 1)[1] for line in result.outlines if "::test_" in line and "[" in line]


def test_a_family_is_measured_resumed_and_kept_apart(bench: Bench, myfam: Path, tmp_path: Path) -> None:
    results, base = tmp_path / "results", tmp_path / "base"
    options = ("--family", myfam, "--results", results, "--baselines", base, "-k")
    first = bench(*options, "tightest_pair and aligned and not useful")
    assert first.parseoutcomes()["deselected"] > 3
    assert len(read_lines(results)) == 1
    first.stdout.re_match_lines(
        [
            r"geometry-bench: myfam/base at .*, alignment not declared",
            r"geometry-bench: myfam/aligned at .*, alignment DPO",
            r"geometry-bench: family myfam: base, aligned \(from base\), aligned-useful \(useful, from aligned\)",
            r"geometry-bench: one checkpoint under several names: myfam/aligned, myfam/aligned-useful",
        ]
    )
    bench(*options, "tightest_pair", "--resume", "--baseline-update=new")
    subjects = [record["subject"] for record in read_lines(results)]
    facts = [{key: subject.get(key) for key in ("id", "name", "family", "role", "parent")} for subject in subjects]
    assert facts == [
        {"id": f"myfam/{name}", "name": f"myfam/{name}", "family": "myfam", "role": role, "parent": parent}
        for name, role, parent in (
            ("aligned", "aligned", "myfam/base"),
            ("base", "base", None),
            ("aligned-useful", "useful", "myfam/aligned"),
        )
    ], "a member whose weights another has too is neither passed over nor overwritten"
    assert {path.name for path in base.iterdir()} == {"myfam__base", "myfam__aligned", "myfam__aligned-useful"}

    before = (results / "records.jsonl").read_text()
    again = bench(*options, "tightest_pair", "--resume")
    assert (results / "records.jsonl").read_text() == before
    assert "NO_BASELINE:" not in again.stdout.str()
    moved = bench("--family", myfam, "--baselines", base, "--against=myfam/aligned", "-k", "tightest_pair and base")
    moved.stdout.fnmatch_lines([f"geometry-bench: baselines *, against {base}/myfam__aligned/*"])


def test_families_beside_models(bench: Bench, myfam: Path, tiny: Path) -> None:
    collect = ("--collect-only", "-q", "-k", "tightest_pair")
    both = bench(*collect, f"--family={myfam / 'family.toml'}", f"--family={myfam}", models=(tiny,))
    names = ("tiny", "myfam/base", "myfam/aligned", "myfam/aligned-useful")
    assert ids(both) == [f"test_tightest_pair[{name}]" for name in names]
    other = bench("--collect-only", "--family", myfam, "--alignment", "myfam/base=SFT", "-k", "tightest_pair")
    other.stdout.fnmatch_lines(
        ["geometry-bench: myfam/base *, alignment SFT", "geometry-bench: myfam/al*, alignment DPO"]
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--family", "{copy}"), "Two families are called myfam ("),
        (("--alignment", "base=DPO"), "--alignment names base, which is no --model of this run and no FAMILY/MEMBER"),
        (("--model", "myfam/base"), "--model myfam/base is also a member of a --family of this run"),
        (("--adapter", "somewhere"), "--adapter goes with --model, and none is given"),
        (("--family", "{empty}"), "holds no family.toml"),
    ],
)
def test_bad_combinations(bench: Bench, myfam: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str) -> None:
    copy, empty = tmp_path / "copy", tmp_path / "empty"
    shutil.copytree(myfam, copy)
    empty.mkdir()
    found = bench("--family", myfam, *(one.format(copy=copy, empty=empty) for one in arguments))
    assert found.ret == pytest.ExitCode.USAGE_ERROR
    assert found.stderr.str().count("geometry-bench: ") == 1
    assert sentence in found.stderr.str()


def test_members_on_the_hub_keep_their_hub_name(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Baselines and published figures go by it; two families may share a base."""
    pinned = Identity("org/base", "hub", None, "a" * 40, "LlamaForCausalLM", 2, 16)
    monkeypatch.setattr("geometry_bench.run.roster.resolve", lambda spec: pinned)
    loaded = [
        load_family(manifest(tmp_path / name, {"role": "base", "model": "org/base"}, name=name))
        for name in ("one", "two")
    ]
    specs = [family.spec(family.members[0]) for family in loaded]
    run = Run(specs, RunSettings(baselines=tmp_path))
    assert list(run.subjects) == ["one/base", "two/base"]
    assert {identity.name for _, identity in run.subjects.values()} == {"org/base"}
    assert run.roster.checkpoints() == [("one/base", "two/base")]
    declared = [SubjectSpec(s.model, name=s.name, alignment=m) for s, m in zip(specs, ("SFT", "DPO"), strict=True)]
    with pytest.raises(GeometryBenchError, match="org/base is declared as aligned by 'SFT' and by 'DPO'"):
        Run(declared, RunSettings(baselines=tmp_path))
