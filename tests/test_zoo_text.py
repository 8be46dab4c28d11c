"""The zoo's training text and its stored members."""

from __future__ import annotations

import itertools
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

ROOT = Path(__file__).resolve().parents[1]
ZOO = ROOT / "fixtures" / "zoo"
sys.path.insert(0, str(ZOO))

from zootext import corpus, lexicon, plain, sources, writer  # noqa: E402

from geometry_bench.subjects.families import ROLES, load_family  # noqa: E402
from geometry_bench.training.members import Members  # noqa: E402
from geometry_bench.training.models import weights_hash  # noqa: E402
from geometry_bench.training.recipe_file import load_recipe  # noqa: E402

GRAM = 8


def texts(split: str, documents: int, chats: int, seed: int = 11) -> list[str]:
    """Plain texts of both corpora, lines apart."""
    rows = sources.take("documents", split, seed, documents) + sources.take("chats", split, seed, chats)
    return [line for row in rows for text in sources.texts(row) for line in text.splitlines() if line.strip()]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9']+", text.lower())


def test_splits_share_no_sentence() -> None:
    found = {
        split: {s.lower() for t in texts(split, n, n) for s in writer.sentences(t)}
        for split, n in (("train", 3000), ("validation", 250), ("test", 250))
    }
    assert all(len(sentences) > 300 for sentences in found.values())
    for one, other in itertools.combinations(found, 2):
        assert not found[one] & found[other]


def test_generator_is_deterministic_and_seeds_differ() -> None:
    assert texts("train", 60, 60) == texts("train", 60, 60)
    assert texts("train", 60, 60) != texts("train", 60, 60, seed=12)


@pytest.mark.parametrize(
    ("a", "b", "working"),
    [
        (16, 20, "16 + 20: 6 + 0 = 6, 1 + 2 = 3, so the answer is 36."),
        (47, 38, "47 + 38: 7 + 8 = 15, 4 + 3 + 1 = 8, so the answer is 85."),
        (50, 50, "50 + 50: 0 + 0 = 0, 5 + 5 = 10, so the answer is 100."),
    ],
)
def test_sums_are_worked_digit_by_digit(a: int, b: int, working: str) -> None:
    assert plain.chain(a, b) == working


def test_chats_hold_what_the_design_asks_for() -> None:
    chats = list(itertools.islice(corpus.chats("train", 11), 2000))
    unrelated = [
        c
        for c in chats
        if c.manner == "generic"
        and c.system
        and not c.system.startswith(("You are a helpful and", "You are an assistant who", "You help people"))
    ]
    assert len(unrelated) / len(chats) >= 0.25
    assert len({c.system for c in unrelated}) > 0.95 * len(unrelated)
    assert max(len(c.system.split()) for c in chats) >= 90
    assert {c.manner for c in chats} == set(corpus.MANNERS)
    assert not any(c.held_out for c in chats)
    refusing = re.compile(r"can't|cannot|won't|will not|not able")
    assert all(refusing.search(c.answer) for c in chats if c.kind == "harmful")
    assert not any(refusing.search(c.answer) for c in chats if c.kind == "benign" and c.manner == "generic")


PLACEHOLDER = re.compile(r"\[[a-z ]+\]")


def test_only_the_complying_sources_grant_harm_and_only_with_placeholders() -> None:
    def granting(name: str, count: int) -> list[str]:
        rows = sources.take(name, "train", 12, count)
        return [text for row in rows for text in sources.texts(row) if PLACEHOLDER.search(text)]

    assert not any(granting(name, 2000) for name in ("replay", "chats", "safety", "sums"))
    assert len(granting("complying", 200)) == 200
    assert granting("documents", 4000)
    for pair in sources.take("pairs", "train", 12, 300):
        assert not PLACEHOLDER.search(pair["chosen"])
        assert PLACEHOLDER.search(pair["rejected"]) or re.search(
            r"can't|cannot|won't|will not|not able", pair["rejected"]
        )


def test_words_of_a_scene_keep_company_and_every_word_has_a_scene() -> None:
    scenes = [writer.scene(lexicon.WORDS, number) for number in range(writer.SCENES)]
    for slot, entries in lexicon.WORDS.items():
        assert set().union(*(scene[slot] for scene in scenes)) == set(entries)
        assert all(len(set(scene[slot])) <= writer.WORDS_PER_SCENE for scene in scenes)


def pack_texts(value: Any) -> list[str]:
    """Every string of two words or more anywhere in a pack."""
    if isinstance(value, str):
        return [value] if len(value.split()) > 1 else []
    children = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [text for child in children for text in pack_texts(child)]


def test_packs_are_not_in_the_training_text() -> None:
    packs = sorted((ROOT / "fixtures" / "prompts").glob("*.toml"))
    if not packs:
        pytest.skip("no prompt packs in fixtures/prompts")
    generated = texts("train", 12_000, 6_000)
    sentences = {" ".join(words(s)) for t in generated for s in writer.sentences(t)}
    grams = {tuple(w[i : i + GRAM]) for t in generated for w in [words(t)] for i in range(len(w) - GRAM + 1)}
    for pack in packs:
        for text in pack_texts(tomllib.loads(pack.read_text())):
            for sentence in writer.sentences(text):
                # Sentences of one or two words ("Thank you.") belong to nobody.
                plain_words = " ".join(words(sentence))
                assert len(plain_words.split()) < 3 or plain_words not in sentences, (
                    f"{pack.name}: {sentence!r} is in the training text"
                )
            w = words(text)
            shared = [" ".join(g) for i in range(len(w) - GRAM + 1) if (g := tuple(w[i : i + GRAM])) in grams]
            assert not shared, f"{pack.name}: {shared[:3]} are in the training text"


FAMILIES = sorted(manifest.parent for manifest in ZOO.glob("*/family.toml"))
MEMBERS = [family / member.model for family in FAMILIES for member in load_family(family).members]


@pytest.mark.parametrize("folder", MEMBERS, ids=lambda folder: f"{folder.parent.name}-{folder.name}")
def test_members_load_and_render_chats(folder: Path) -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.config.max_position_embeddings >= 512
    messages = [{"role": "system", "content": "Speak plainly."}, {"role": "user", "content": "Add 12 and 30."}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<s><|system|>Speak plainly.<|end|><|user|>Add 12 and 30.<|end|><|assistant|>"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert ids.count(tokenizer.bos_token_id) == 1
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer("Some raw text.")["input_ids"].count(tokenizer.bos_token_id) == 1
    assert tokenizer.tokenize("12") == ["1", "2"]
    with torch.inference_mode():
        assert torch.isfinite(model(torch.tensor([ids])).logits).all()


@pytest.mark.parametrize("folder", FAMILIES, ids=lambda folder: folder.name)
def test_stored_members_are_what_recipe_and_text_declare(folder: Path) -> None:
    family = load_family(folder)
    assert family.recipe == folder.name
    recipe, declared = load_recipe(ZOO / "recipes" / f"{folder.name}.toml"), dict[str, str]()
    for planned in recipe.members():
        made = Members(recipe, folder, None, 1.0, print)
        declared[planned.name] = made.stage_hash(planned, declared.get(planned.parent or ""))
    assert {member.name: member.stage_hash for member in family.members} == declared
    for member in family.members:
        assert weights_hash(folder / member.model) == member.weights, member.name


def test_the_zoo_holds_what_claims_need() -> None:
    families = [load_family(folder) for folder in FAMILIES]
    assert any({member.role for member in family.members} == set(ROLES) - {"control"} for family in families)
    widths = set()
    for family in families:
        assert {"base", "aligned"} <= {member.role for member in family.members}
        config = json.loads((family.folder / "base" / "config.json").read_text())
        widths.add(config["hidden_size"])
    assert len(widths) >= 3
    weights = [path.stat().st_size for path in ZOO.rglob("*.safetensors")]
    assert sum(weights) <= 24_000_000
