"""Rendering: one BOS, a frozen date, the template's tail kept, and what templates do on their own made known."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import TEMPLATES, tiny_tokenizer

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.render import ChatFormat, Encoded
from geometry_bench.prompts.template import FIXED_DATE

BOS, EOS = 1, 2
SYSTEM, USER = "Weigh harm first.", "How do tides work?"


def chat(
    template: str | None, *, bos: bool = True, max_length: int | None = None, role: str | None = None
) -> ChatFormat:
    return ChatFormat(tiny_tokenizer(bos=bos, chat_template=template), max_length=max_length, system_role=role)


@pytest.mark.parametrize(
    ("template", "policy", "injected"),
    [
        (None, "native", None),
        ("native", "native", None),
        ("no_bos", "native", None),
        ("brackets", "native", None),
        ("parts", "native", None),
        ("refuses_system", "prepend_to_user", None),
        ("drops_system", "prepend_to_user", None),
        ("default_system", "native", "You are Pebble, a kind helper."),
        ("dated", "native", "Today Date: 15 Jan 2025"),
        ("clock", "native", "It is 2025-01-15."),
    ],
)
def test_policy_and_injected_text_are_found_by_probing(template: str | None, policy: str, injected: str | None) -> None:
    format_ = chat(template)
    assert (format_.system_policy, format_.injected_text) == (policy, injected)
    assert format_.name == ("plain-1" if template is None else "chat_template")
    text = format_.text(SYSTEM, USER)
    assert text.count(SYSTEM) == 1
    assert text.count(USER) == 1
    assert text.index(SYSTEM) < text.index(USER)


def test_role_names_and_markers_are_no_injected_text() -> None:
    """Role headers in the manner of several families, none of which adds words of its own."""
    frames = {
        "<|im_start|>{role}\n{content}<|im_end|>\n": "",
        "<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>": "",
        "<start_of_turn>{role}\n{content}<end_of_turn>\n": "",
        "### {role}:\n{content}\n\n": "",
        "{role}: {content}\n": "A chat with a patient helper.\n",
    }
    for frame, opening in frames.items():
        before, between, after = frame.replace("{role}", "\0").replace("{content}", "\0").split("\0")
        template = (
            f"{{{{ bos_token }}}}{opening}{{% for m in messages %}}{before}{{{{ m['role'] }}}}{between}"
            f"{{{{ m['content'] }}}}{after}{{% endfor %}}{before}assistant{between}"
        )
        assert chat(template).injected_text == (opening.strip() or None), frame


def test_default_system_text_behind_a_header_with_the_role_name() -> None:
    template = (
        "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nYou are Pebble.<|im_end|>\n{% endif %}"
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "<|im_start|>assistant\n"
    )
    assert chat(template).injected_text == "You are Pebble."


def test_plain_format_to_the_letter() -> None:
    format_ = chat(None)
    assert format_.text("Be kind.", "Hi") == "Be kind.\n\nUser: Hi\n\nAssistant:"
    assert format_.text("", "Hi") == "User: Hi\n\nAssistant:"
    # braces in content are content
    assert "{user}" in format_.text("Say {user}", "Hi")
    assert format_.text("Say {user}", "Hi").count("Hi") == 1


def test_prepended_system_text_stands_before_the_user_text() -> None:
    text = chat("refuses_system").text(SYSTEM, USER)
    assert f"<|user|>\n{SYSTEM}\n\n{USER}</s>" in text
    assert "<|system|>" not in text


def test_stated_policy_is_obeyed_or_refused() -> None:
    assert chat("native", role="prepend_to_user").text(SYSTEM, USER) == chat("refuses_system").text(SYSTEM, USER)
    with pytest.raises(GeometryBenchError, match="refuses or drops"):
        chat("refuses_system", role="native")
    with pytest.raises(GeometryBenchError, match="Unknown system role policy 'polite'"):
        chat("native", role="polite")
    none = chat("native", role="not_applicable")
    assert USER in none.text("", USER)
    with pytest.raises(GeometryBenchError, match="takes no system text"):
        none.text(SYSTEM, USER)


def test_template_hash_tells_templates_and_policies_apart() -> None:
    hashes = [chat(name).template_hash for name in (None, *TEMPLATES)]
    hashes.append(chat("native", role="prepend_to_user").template_hash)
    assert len(set(hashes)) == len(hashes)
    assert chat("native").template_hash == chat("native", bos=False, max_length=300).template_hash


@pytest.mark.parametrize("template", [None, *TEMPLATES])
@pytest.mark.parametrize("bos", [True, False])
def test_exactly_one_bos_where_the_tokenizer_uses_one(template: str | None, bos: bool) -> None:
    format_ = chat(template, bos=bos)
    ids = format_.encode(SYSTEM, USER).ids
    written = template is not None and "bos_token" in TEMPLATES[template]
    assert ids.count(BOS) == (1 if bos or written else 0)
    assert (ids[0] == BOS) == (bos or written)


def test_doubled_bos_is_the_only_difference_of_the_published_rendering() -> None:
    for template, bos, doubles in [
        ("native", True, True),
        ("no_bos", True, False),
        ("native", False, False),
        (None, True, False),
    ]:
        format_ = chat(template, bos=bos)
        once, twice = format_.encode(SYSTEM, USER).ids, format_.encode(SYSTEM, USER, doubled_bos=True).ids
        assert twice == ((BOS, *once) if doubles else once), (template, bos)


def test_a_tokenizer_without_bos_gets_none() -> None:
    tokenizer = tiny_tokenizer(bos=False, bos_token=None, chat_template="no_bos")
    format_ = ChatFormat(tokenizer, max_length=None)
    assert not format_.uses_bos
    assert format_.encode(SYSTEM, USER).ids == format_.encode(SYSTEM, USER, doubled_bos=True).ids
    assert BOS not in format_.encode(SYSTEM, USER).ids


def test_an_appended_eos_does_not_move_the_last_token() -> None:
    """Some tokenizers close every text; the last token of a prompt must still be the generation prompt's."""
    from tokenizers import processors

    tokenizer = tiny_tokenizer(chat_template="native")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    format_ = ChatFormat(tokenizer, max_length=None)
    assert format_.uses_bos
    assert format_.encode(SYSTEM, USER).ids == chat("native").encode(SYSTEM, USER).ids
    assert format_.encode_text("rain").ids == chat("native").encode_text("rain").ids


def test_raw_text_gets_one_bos_and_is_cut_at_its_end() -> None:
    format_ = chat("native", max_length=6)
    assert format_.encode_text("rain").ids[0] == BOS
    assert format_.encode_text("rain").ids.count(BOS) == 1
    assert format_.encode_text("<s>rain").ids.count(BOS) == 1, "a control token in a text stays text"
    assert not format_.encode_text("rain!").truncated
    long = format_.encode_text("rain and sun")
    assert long.truncated
    assert long.ids == (*format_.encode_text("rain!").ids[:5], long.ids[5])
    assert len(long.ids) == 6


def test_the_date_does_not_change_from_day_to_day(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.utils import chat_template_utils

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Later:
            return cls(2031, 7, 4)

    today = {name: chat(name).text(SYSTEM, USER) for name in ("dated", "clock")}
    monkeypatch.setattr(chat_template_utils, "datetime", Later)
    later = {name: chat(name).text(SYSTEM, USER) for name in ("dated", "clock")}
    assert today == later
    assert "15 Jan 2025" in later["dated"]
    assert FIXED_DATE.strftime("%Y-%m-%d") in later["clock"]
    # outside a rendering the module's clock is the one that stood there before
    assert chat_template_utils.datetime is Later


def test_broken_templates_are_refused_in_one_sentence() -> None:
    for broken in ("{% for m in messages %}", "{{ raise_exception('never') }}", "a template without content"):
        with pytest.raises(GeometryBenchError, match="cannot render a single user message"):
            chat(broken)


def test_named_templates_use_the_default_one() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = {"default": TEMPLATES["native"], "tool_use": TEMPLATES["no_bos"]}
    assert ChatFormat(tokenizer, max_length=None).template_hash == chat("native").template_hash


WORDS = st.lists(st.text(alphabet="abcdefgh", min_size=1, max_size=9), max_size=14).map(" ".join)


@settings(max_examples=60)
@given(
    system=WORDS,
    user=WORDS.filter(bool),
    limit=st.integers(min_value=30, max_value=140),
    template=st.sampled_from([None, "native", "refuses_system", "brackets"]),
)
def test_truncation_cuts_content_and_never_the_tail(system: str, user: str, limit: int, template: str | None) -> None:
    free, bound = chat(template), chat(template, max_length=limit)
    full = free.encode(system, user)
    cut = bound.encode(system, user)
    assert len(cut.ids) <= limit
    assert cut.truncated == (len(full.ids) > limit)
    if not cut.truncated:
        assert cut.ids == full.ids
    # whatever follows the user's text is the template's tail and survives whole
    reference = free.text("", "\N{SNOWMAN}")
    tail = tuple(free._plain_ids(reference.partition("\N{SNOWMAN}")[2]))
    assert cut.ids[-len(tail) :] == tail
    assert cut.ids[0] == BOS
    assert cut.ids.count(BOS) == 1


def test_the_system_text_is_cut_before_the_user_text_and_between_words() -> None:
    system, user = "alpha beta gamma delta", "one two three"
    for template in ("native", None):
        size = len(chat(template).encode(system, user).ids)
        shorter = chat(template, max_length=size - 8).encode(system, user)
        assert shorter == Encoded(chat(template).encode("alpha beta", user).ids, truncated=True)
    alone = chat("native", max_length=len(chat("native").encode("", user).ids) - 1).encode("", user)
    assert alone.ids == chat("native").encode("", "one two").ids


def test_one_endless_word_is_cut_inside_and_no_room_at_all_is_an_error() -> None:
    cut = chat("native", max_length=40).encode("", "x" * 200)
    assert cut.truncated
    assert len(cut.ids) == 40
    with pytest.raises(GeometryBenchError, match="fills the model's 5 positions"):
        chat("native", max_length=5).encode("", "hello")
