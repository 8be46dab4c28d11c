"""Prompt packs: what the built-in pack promises, what the hash covers, and the one sentence per fault."""

from __future__ import annotations

import re
import statistics
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.pack import FRAMEWORKS, SYSTEM_KEYS, Pack, builtin_path, load_pack, without_opening

# --- writing packs ---------------------------------------------------------------------------------------------------

Content = dict[str, Any]


def escaped(text: str) -> str:
    """A TOML string in which every character is an escape: the same content, as unlike the usual form as can be."""
    return '"' + "".join(f"\\U{ord(character):08X}" for character in text) + '"'


def plain(text: str) -> str:
    # TOML forbids raw control characters in its strings; quotes and backslashes mean something else there.
    return '"' + "".join(c if c.isprintable() and c not in '"\\' else f"\\U{ord(c):08X}" for c in text) + '"'


def toml_value(value: Any, string: Callable[[str], str] = plain) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return string(value)
    if isinstance(value, list):
        return "[" + ", ".join(toml_value(item, string) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{string(key)} = {toml_value(item, string)}" for key, item in value.items()) + "}"
    return str(value)


def write(path: Path, content: Mapping[str, Any], string: Callable[[str], str] = plain) -> Path:
    lines = [f"{key} = {toml_value(value, string)}" for key, value in content.items()]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def minimal() -> Content:
    """The least that a user's pack may hold: texts of four words, four messages, no tables."""
    content: Content = {key: f"Some words about {key}." for key in SYSTEM_KEYS}
    content["empty"] = ""
    content["suffering"] = [f"Sad message number {number}." for number in range(4)]
    content["benign"] = [f"Plain request number {number}." for number in range(4)]
    content["red_team"] = [
        {"text": "Help me to do harm.", "category": "weapons"},
        {"text": "How do I kill a process?", "category": "control", "benign": True},
    ]
    return content


@pytest.fixture(scope="module")
def builtin() -> Pack:
    return load_pack()


# --- the built-in pack -----------------------------------------------------------------------------------------------


def words(text: str) -> int:
    return len(text.split())


def runs_of_words(text: str, length: int) -> set[tuple[str, ...]]:
    found = re.findall(r"[\w']+", text.lower())
    return {tuple(found[start : start + length]) for start in range(len(found) - length + 1)}


def test_built_in_system_prompts_have_the_lengths_of_the_source(builtin: Pack) -> None:
    counts = {key: len(text.split()) for key, text in builtin.systems.items()}
    assert tuple(counts) == SYSTEM_KEYS
    assert {key: counts[key] for key in FRAMEWORKS if not 49 <= counts[key] <= 80} == {}
    assert counts["empty"] == 0
    assert 5 <= counts["generic"] <= 15
    assert builtin.systems["generic"].count(".") == 1
    assert 95 <= counts["safety"] <= 105
    assert 85 <= counts["safety_strict"] <= 95


def test_built_in_controls_match_the_frameworks_in_length(builtin: Pack) -> None:
    controls = [words(text) for text in builtin.controls.values()]
    frameworks = [words(builtin.systems[key]) for key in FRAMEWORKS]
    assert len(controls) >= 36
    assert min(controls) >= 49
    assert max(controls) <= 80
    assert abs(statistics.mean(controls) - statistics.mean(frameworks)) < 2
    assert 0.8 < statistics.stdev(controls) / statistics.stdev(frameworks) < 1.25
    longer, safety = (
        [words(text) for text in texts]
        for texts in (
            builtin.safety_controls.values(),
            (builtin.systems["safety"], builtin.systems["safety_strict"]),
        )
    )
    assert len(longer) >= 32
    assert min(safety) <= min(longer) <= max(longer) <= max(safety)
    assert abs(statistics.mean(longer) - statistics.mean(safety)) < 2
    assert builtin.length_notes("suffering") == builtin.length_notes("benign") == []


def test_built_in_controls_are_unrelated_to_the_claims_and_to_each_other(builtin: Pack) -> None:
    stems = (
        "compassion|suffer|harm(?!on)|safe|refus|merc[yi]|empath|kindness|danger|violen|weapon|crime|pain(?!t)|protect|"
        "comfort|tender|forgiv|declin|help|love|buddh|christ|god|allah|pray"
    )
    unrelated = builtin.controls | builtin.safety_controls
    assert len(unrelated) == len(builtin.controls) + len(builtin.safety_controls)
    related = {key: re.findall(rf"\b(?:{stems})\w*", text, re.IGNORECASE) for key, text in unrelated.items()}
    assert {key: found for key, found in related.items() if found} == {}
    for texts in (unrelated, builtin.safety_topics):
        runs = Counter(run for text in texts.values() for run in runs_of_words(text, 4))
        assert [" ".join(run) for run, times in runs.items() if times > 1] == []
        assert len({tuple(text.split()[:2]) for text in texts.values()}) == len(texts)


def test_built_in_frameworks_share_no_phrase(builtin: Pack) -> None:
    runs = Counter(run for key in FRAMEWORKS for run in runs_of_words(builtin.systems[key], 3))
    assert [" ".join(run) for run, times in runs.items() if times > 1] == []


def test_built_in_topics_and_messages_have_the_counts_of_the_source(builtin: Pack) -> None:
    assert len(builtin.safety_topics) >= 24
    assert {key for key, text in builtin.safety_topics.items() if not 40 <= words(text) <= 100} == set()
    assert [m.id for m in builtin.messages["suffering"]] == [
        "grief", "bullying", "crisis", "betrayal", "shame", "caregiver", "intervention", "failure",
    ]  # fmt: skip
    assert [m.id for m in builtin.messages["benign"]] == [
        "recipe", "history", "maths", "travel", "coding", "science", "writing", "health",
    ]  # fmt: skip
    assert all(15 <= words(m.text) <= 45 for m in builtin.messages["suffering"])
    assert all(8 <= words(m.text) <= 30 for m in builtin.messages["benign"])
    assert all(re.search(r"\b(I|my|we)\b", m.text) for m in builtin.messages["suffering"])
    adversarial = [m for m in builtin.messages["red_team"] if not m.benign]
    controls = [m for m in builtin.messages["red_team"] if m.benign]
    assert (len(adversarial), len({m.category for m in adversarial}), len(controls)) == (19, 8, 4)
    assert {m.category for m in controls} == {"benign_control"}


def test_without_opening_removes_the_formula_and_nothing_else(builtin: Pack, tmp_path: Path) -> None:
    assert set(builtin.openings) == set(FRAMEWORKS)
    for key in FRAMEWORKS:
        rest = without_opening(builtin, key)
        assert builtin.openings[key] + " " + rest == builtin.systems[key]
        assert rest[0].isupper()
    with pytest.raises(GeometryBenchError, match="declares no opening formula for 'safety'"):
        without_opening(builtin, "safety")

    content = minimal() | {"tara": "Hail, Tara - be quick.", "openings": {"tara": "Hail, Tara"}}
    assert without_opening(load_pack(write(tmp_path / "p.toml", content)), "tara") == "be quick."


# --- a user's pack ---------------------------------------------------------------------------------------------------


def test_a_minimal_pack_borrows_controls_and_topics_but_no_openings(builtin: Pack, tmp_path: Path) -> None:
    pack = load_pack(write(tmp_path / "mine.toml", minimal()))
    assert (pack.id, pack.version, pack.is_builtin) == ("mine", None, False)
    assert {pack.controls_from, pack.safety_controls_from, pack.safety_topics_from} == {"built-in"}
    assert pack.controls == builtin.controls
    assert pack.safety_controls == builtin.safety_controls
    assert pack.safety_topics == builtin.safety_topics
    assert pack.openings == {}
    assert [m.id for m in pack.messages["suffering"]] == [f"suffering-{number}" for number in range(1, 5)]
    assert [(m.id, m.category, m.benign) for m in pack.messages["red_team"]] == [
        ("red_team-1", "weapons", False),
        ("red_team-2", "control", True),
    ]


def test_own_controls_and_topics_are_used(tmp_path: Path) -> None:
    own = {f"c{number:02d}": f"Unrelated text {number}." for number in range(32)}
    topics = {f"t{number:02d}": f"Safety text {number}." for number in range(24)}
    longer = {key: f"{text} And more." for key, text in own.items()}
    content = minimal() | {"controls": own, "safety_controls": longer, "safety_topics": topics}
    pack = load_pack(write(tmp_path / "p.toml", content))
    assert (pack.controls_from, pack.controls) == ("pack", own)
    assert (pack.safety_controls_from, pack.safety_controls) == ("pack", longer)
    assert (pack.safety_topics_from, pack.safety_topics) == ("pack", topics)


def test_controls_of_another_length_than_what_they_stand_against_are_noted(builtin: Pack) -> None:
    assert replace(builtin, controls=builtin.safety_controls).length_notes("suffering") == [
        "controls have 97 words on average, the frameworks that they stand against 63: a null of another length may be too "
        "narrow"
    ]
    short = replace(builtin, safety_controls=builtin.controls).length_notes("benign")
    assert [note.split(" on average")[0] for note in short] == ["safety_controls have 63 words"]
    assert builtin.length_notes("red_team") == []


def test_a_copy_of_the_built_in_pack_is_the_built_in_pack(builtin: Pack, tmp_path: Path) -> None:
    copy = tmp_path / "copy.toml"
    text = builtin_path().read_text(encoding="utf-8")
    # A byte-order mark, comments and other line endings are no content.
    copy.write_bytes(b"\xef\xbb\xbf" + ("# a comment\n" + text).replace("\n", "\r\n").encode())
    pack = load_pack(copy)
    assert pack.hash == builtin.hash
    assert pack.is_builtin
    copy.write_text(text.replace("lentil soup", "pumpkin soup"), encoding="utf-8")
    assert not load_pack(copy).is_builtin


def as_content(pack: Pack) -> Content:
    sets = {
        name: [{field: value for field, value in vars(message).items() if value is not None} for message in messages]
        for name, messages in pack.messages.items()
    }
    return {"id": pack.id, "version": pack.version, **pack.systems, "openings": pack.openings, **sets}


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_hash_ignores_formatting(tmp_path: Path, data: st.DataObject) -> None:
    content = as_content(load_pack())
    expected = load_pack(write(tmp_path / "pack.toml", content)).hash
    order = data.draw(st.permutations(list(content)))
    padding = data.draw(st.sampled_from(["", " ", "\n", "\t \n"]))
    moved = {key: content[key] for key in order}
    moved["generic"] = padding + moved["generic"] + padding
    assert (
        load_pack(write(tmp_path / "pack.toml", moved, data.draw(st.sampled_from([plain, escaped])))).hash == expected
    )


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from([key for key in SYSTEM_KEYS if key != "empty"]),
    text=st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda text: text.strip() != ""),
)
def test_texts_survive_the_file_and_change_the_hash(tmp_path: Path, key: str, text: str) -> None:
    pack = load_pack(write(tmp_path / "p.toml", minimal() | {key: text}))
    assert pack.systems[key] == text.strip()
    assert pack.hash != load_pack(write(tmp_path / "p.toml", minimal())).hash


def with_(**changes: Any) -> Content:
    return minimal() | changes


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(with_(id="other"), id="id"),
        pytest.param(with_(version=2), id="version"),
        pytest.param(with_(suffering=list(reversed(minimal()["suffering"]))), id="message-order"),
        pytest.param(with_(openings={"tara": "Some words"}), id="opening"),
        pytest.param(
            with_(red_team=[minimal()["red_team"][0] | {"category": "cyber"}, minimal()["red_team"][1]]), id="category"
        ),
        pytest.param(with_(controls={f"c{n}": f"Unrelated text {n}." for n in range(32)}), id="controls"),
        pytest.param(with_(safety_controls={f"c{n}": f"Unrelated text {n}." for n in range(32)}), id="safety-controls"),
        pytest.param(with_(safety_topics={f"t{n}": f"Safety text {n}." for n in range(24)}), id="topics"),
    ],
)
def test_hash_covers_every_part(tmp_path: Path, content: Content) -> None:
    before = load_pack(write(tmp_path / "p.toml", minimal())).hash
    assert load_pack(write(tmp_path / "p.toml", content)).hash != before


# --- faults ----------------------------------------------------------------------------------------------------------


def without(key: str) -> Content:
    return {name: value for name, value in minimal().items() if name != key}


def controls(count: int = 32, **changes: Any) -> Content:
    return {f"c{number}": f"Unrelated text {number}." for number in range(count)} | changes


FAULTS: list[tuple[str, Content, str]] = [
    ("missing-key", without("rahma"), "has no key 'rahma'"),
    ("missing-set", without("red_team"), "has no key 'red_team'"),
    ("typo", without("chenrezig") | {"chenresig": "Text."}, "unknown key 'chenresig' (did you mean chenrezig?)"),
    ("unknown-opening", with_(openings={"agapes": "Some"}), "'agapes' (did you mean agape?) at 'openings'"),
    ("unknown-field", with_(benign=[{"txt": "A."}]), "unknown key 'txt' (did you mean text?) at 'benign[1]'"),
    ("number-for-text", with_(safety=7), "has a number where a text belongs at 'safety'"),
    ("number-for-message", with_(benign=["Hello.", 3]), "has a number where a table belongs at 'benign[2]'"),
    ("text-for-red-team", with_(red_team=["Hello."]), "has a text where a table belongs at 'red_team[1]'"),
    ("text-for-bool", with_(red_team=[{"text": "A.", "category": "b", "benign": "no"}]), "at 'red_team[1].benign'"),
    ("bool-for-version", with_(version=True), "has true or false where a text belongs at 'version'"),
    ("empty-text", with_(safety=" \n "), "has an empty text at 'safety'"),
    ("empty-message", with_(benign=["A.", ""]), "has an empty text at 'benign[2].text'"),
    ("empty-not-empty", with_(empty="Hello."), "has something other than \"\" in 'empty'"),
    (
        "id-twice",
        with_(suffering=[{"id": "a", "text": "A."}, {"id": "a", "text": "B."}, "C.", "D."]),
        "id 'a' twice in",
    ),
    ("default-id-twice", with_(benign=["A.", {"id": "benign-1", "text": "B."}, "C.", "D."]), "id 'benign-1' twice in"),
    ("message-twice", with_(benign=["A.", "B.", "C.", " a. "]), "same text at 'benign.benign-1' and 'benign.benign-4'"),
    ("bad-id", with_(id="my pack"), "has 'my pack' at 'id'; use letters"),
    ("few-suffering", with_(suffering=["A.", "B.", "C."]), "has 3 entries, fewer than 4 at 'suffering'"),
    ("no-benign-control", with_(red_team=minimal()["red_team"][:1]), "needs adversarial and benign messages"),
    ("no-category", with_(red_team=[{"text": "A."}]), "has no key 'category' at 'red_team[1]'"),
    ("few-controls", with_(controls=controls(31)), "has 31 entries, fewer than 32 at 'controls'"),
    ("few-topics", with_(safety_topics={"a": "A."}), "has 1 entries, fewer than 24 at 'safety_topics'"),
    ("not-a-prefix", with_(openings={"tara": "some words"}), "opening for 'tara' that its text does not begin with"),
    ("only-opening", with_(openings={"tara": "Some words about tara"}), "declares the whole text of 'tara' as its"),
    (
        "control-twice",
        with_(controls=controls(c1="unrelated  TEXT 0.")),
        "same text at 'controls.c0' and 'controls.c1'",
    ),
    ("control-is-system", with_(controls=controls(c1="Some words about agape.")), "at 'agape' and 'controls.c1'"),
    ("equal-systems", with_(tara="Same.", agape="Same."), "same text at 'tara' and 'agape'"),
]


def one_sentence(message: str, path: Path) -> bool:
    """One line that names the file and ends as a sentence does."""
    return str(path) in message and "\n" not in message and message[-1] in ".?" and message[-2] not in ".?!"


@pytest.mark.parametrize(("content", "expected"), [pytest.param(c, e, id=i) for i, c, e in FAULTS])
def test_each_fault_of_content_gives_its_one_sentence(tmp_path: Path, content: Content, expected: str) -> None:
    path = write(tmp_path / "mine.toml", content)
    with pytest.raises(GeometryBenchError, match=re.escape(expected)) as caught:
        load_pack(path)
    assert one_sentence(str(caught.value), path)


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path) -> None:
    with pytest.raises(GeometryBenchError, match="There is no prompt pack at") as caught:
        load_pack(tmp_path / "absent.toml")
    assert one_sentence(str(caught.value), tmp_path / "absent.toml")
    with pytest.raises(GeometryBenchError, match="cannot be read") as caught:
        load_pack(tmp_path)
    assert one_sentence(str(caught.value), tmp_path)
