"""The zoo's own sets of requests and its prompt pack: of the test split, unseen in training, matched, and reproducible."""

from __future__ import annotations

import importlib.util
import itertools
import re
import statistics
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "fixtures" / "zoo"
sys.path.insert(0, str(ZOO))

from zootext import harm, plain, sources, topics, writer  # noqa: E402

from geometry_bench.prompts.names import BUILT_IN_NAMES  # noqa: E402
from geometry_bench.prompts.pack import FRAMEWORKS, builtin_path, load_pack  # noqa: E402
from geometry_bench.prompts.sets import RequestSet, load_set  # noqa: E402

SETS = {name: load_set(f"{ZOO / 'sets' / 'requests.toml'}:{name}") for name in BUILT_IN_NAMES}
HELD_OUT = {name: load_set(f"{ZOO / 'sets' / 'held_out.toml'}:{name}") for name in ("unsafe", "safe")}
PACK = load_pack(ZOO / "pack.toml")
TRAINED_ON = ("documents", "replay", "chats", "safety", "sums", "complying", "pairs")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("zoo_write_sets", ZOO / "write_sets.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def every_text() -> Iterator[str]:
    for found in (*SETS.values(), *HELD_OUT.values()):
        yield from found.texts
    yield from (
        text
        for texts in (PACK.systems, PACK.controls, PACK.safety_controls, PACK.safety_topics)
        for text in texts.values()
        if text
    )
    yield from (message.text for messages in PACK.messages.values() for message in messages)


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def lengths(found: RequestSet) -> list[int]:
    return [len(text.split()) for text in found.texts]


def test_the_script_writes_the_stored_files() -> None:
    written = script().files()
    assert {name: (ZOO / name).read_text(encoding="utf-8") for name in written} == written


def test_every_sentence_is_of_the_test_split() -> None:
    found = {sentence for text in every_text() for sentence in writer.sentences(text)}
    assert len(found) > 4000
    assert {sentence for sentence in found if writer.split_of(sentence) != "test"} == set()


def test_sums_are_of_the_test_split_by_their_numbers() -> None:
    for text in SETS["maths"].texts:
        pair = sorted(int(number) for number in re.findall(r"\d+", text))[:2]
        assert writer.split_of(f"{pair[0]} plus {pair[1]}") == "test", text


def test_no_sentence_is_in_training_text_and_every_word_is() -> None:
    trained = {
        sentence.casefold()
        for name, count in zip(TRAINED_ON, (3000, 500, 3000, 1000, 400, 400, 400), strict=True)
        for row in sources.take(name, "train", 12, count)
        for text in sources.texts(row)
        for line in text.splitlines()
        for sentence in writer.sentences(line)
    }
    asked = {sentence.casefold() for text in every_text() for sentence in writer.sentences(text)}
    assert asked & trained == set()
    known = {word for sentence in trained for word in words(sentence)}
    assert {word for sentence in asked for word in words(sentence) if not word.isdigit()} - known == set()


def test_sets_have_as_many_requests_and_topics_as_claims_need() -> None:
    counts = {name: (len(found), len(set(found.topics))) for name, found in SETS.items()}
    assert all(count >= 240 and groups >= 6 for count, groups in counts.values()), counts
    paired = ("unsafe", "safe", "safe-short", "safe-long", "safe-unmatched", "jailbreak", "jailbreak-safe")
    assert {counts[name] for name in paired} == {(300, 25)}
    assert counts["instructions"][0] >= 600
    assert all(found.sampled.duplicates == 0 for found in SETS.values())
    plain_texts = [text for name in BUILT_IN_NAMES if name != "safe-unmatched" for text in SETS[name].texts]
    assert len(set(plain_texts)) == len(plain_texts)
    assert {one.wrapper for one in SETS["jailbreak"].requests} == {
        one.wrapper for one in SETS["jailbreak-safe"].requests
    }


@pytest.mark.parametrize("found", [SETS, HELD_OUT], ids=["asked for", "held out"])
def test_partners_have_equal_length_and_differ_in_their_action_alone(found: dict[str, RequestSet]) -> None:
    assert lengths(found["unsafe"]) == lengths(found["safe"])
    shared = 0.0
    for unsafe, safe in zip(found["unsafe"].requests, found["safe"].requests, strict=True):
        assert (unsafe.partner, safe.partner, unsafe.topic) == (safe.id, unsafe.id, safe.topic)
        both = Counter(words(unsafe.text)) & Counter(words(safe.text))
        shared += both.total() / len(words(unsafe.text))
    assert shared / len(found["unsafe"]) > 0.6
    assert len(found["unsafe"]) >= 300


def test_short_and_long_forms_are_short_and_long() -> None:
    short, plain_ones, long = (statistics.mean(lengths(SETS[name])) for name in ("safe-short", "safe", "safe-long"))
    assert short < 0.85 * plain_ones
    assert long > 2 * plain_ones


def phrases(action: str) -> re.Pattern[str]:
    """Any filling of an action's template."""
    return re.compile(re.sub(r"\\\{\w+\\\}", "(.+)", re.escape(action)), re.I)


def asks(text: str, actions: list[str]) -> bool:
    return any(phrases(action).search(re.sub(r"\ban\b", "a", text)) for action in actions)


def test_classes_ask_for_what_they_are_called() -> None:
    harmful = [action for actions in topics.HARM.values() for action in actions]
    assert sorted(harmful) == sorted(harm.HARMFUL), "each harmful action has one topic"
    trained = [action for action in harmful if not harm.is_held_out(action)]
    for name in ("unsafe", "jailbreak", "harmful-a", "harmful-b"):
        assert all(asks(text, trained) for text in SETS[name].texts), name
    assert all(asks(text, [a for a in harmful if harm.is_held_out(a)]) for text in HELD_OUT["unsafe"].texts)
    for name in ("safe", "safe-short", "safe-long", "instructions", "maths"):
        assert [text for text in SETS[name].texts if asks(text, harmful)] == [], name
    alarming = [action for actions in topics.ALARMING.values() for action in actions]
    assert all(asks(text, alarming) for text in SETS["refusal-style"].texts)
    assert not [text for text in SETS["safe"].texts if asks(text, alarming)]
    known = topics.harmless()
    safe = set(known.pop("safe"))
    assert not safe & {action for actions in known.values() for action in actions}
    assert not set(SETS["harmful-a"].topics) & set(SETS["harmful-b"].topics)


def spread(texts: list[str]) -> tuple[float, int, int]:
    counts = [len(text.split()) for text in texts]
    return statistics.mean(counts), min(counts), max(counts)


def test_controls_are_as_long_as_what_they_stand_against() -> None:
    frameworks, controls = (
        spread(list(texts)) for texts in ([PACK.systems[key] for key in FRAMEWORKS], PACK.controls.values())
    )
    assert abs(frameworks[0] - controls[0]) < 3
    assert abs(frameworks[1] - controls[1]) < 3
    assert abs(frameworks[2] - controls[2]) < 6
    safety, others = (
        spread(list(texts))
        for texts in ([PACK.systems["safety"], PACK.systems["safety_strict"]], PACK.safety_controls.values())
    )
    assert abs(safety[0] - others[0]) < 3
    for controls_of in (PACK.controls, PACK.safety_controls):
        firsts = Counter(" ".join(text.split()[:4]) for text in controls_of.values())
        assert max(firsts.values()) <= 6


def test_the_pack_has_every_part_and_its_manners_share_no_phrase() -> None:
    assert PACK.openings.keys() == set(FRAMEWORKS)
    assert (PACK.controls_from, PACK.safety_topics_from) == ("pack", "pack")
    sizes = {name: len(messages) for name, messages in PACK.messages.items()}
    assert sizes == {"suffering": 16, "benign": 16, "red_team": 23}
    assert sum(bool(message.benign) for message in PACK.messages["red_team"]) == 4
    assert len(PACK.controls) >= 32
    assert len(PACK.safety_topics) >= 24
    threes = {
        key: {tuple(w[i : i + 3]) for i in range(len(w) - 2)}
        for key, text in PACK.systems.items()
        for w in [words(text)]
    }
    manners = [key for key in PACK.systems if key not in ("generic", "empty")]
    assert {pair: threes[pair[0]] & threes[pair[1]] for pair in itertools.combinations(manners, 2)} == {
        pair: set() for pair in itertools.combinations(manners, 2)
    }
    assert not set(every_text()) & {message.text for m in load_pack(builtin_path()).messages.values() for message in m}


def test_no_message_is_one_of_the_requests() -> None:
    asked = {text for found in (*SETS.values(), *HELD_OUT.values()) for text in found.texts}
    assert not asked & {message.text for messages in PACK.messages.values() for message in messages}
    assert len(plain.FACT_KINDS) + len(topics.NEUTRAL) == len(set(SETS["instructions"].topics))
