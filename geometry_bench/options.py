"""The options that plugin and command line share, declared once.

Every pytest run of an environment declares them, so that nothing heavy is imported before something is measured.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from geometry_bench.errors import GeometryBenchError
from geometry_bench.prompts.names import ROLES


@dataclass(frozen=True)
class Option:
    """One option: how it is spelled, what it means, how its text becomes a value."""

    flag: str
    help: str
    metavar: str | None = None
    kind: Literal["value", "flag", "repeated"] = "value"
    parse: Callable[[str], Any] = str
    default: Any = None

    @property
    def dest(self) -> str:
        """Name under which pytest keeps it; prefixed, since other plugins share the name space."""
        return "gb_" + self.flag.lstrip("-").replace("-", "_")

    def parsed(self, given: Any) -> Any:
        """The value of text as a command line gives it, or the default.

        Raises:
            GeometryBenchError: the text is none of the values.
        """
        if given is None or self.kind == "flag":
            return self.default if given is None else given
        try:
            return [self.parse(text) for text in given] if self.kind == "repeated" else self.parse(given)
        except GeometryBenchError as error:
            raise GeometryBenchError(f"{self.flag}: {str(error).removeprefix(f'{self.flag} ')}") from None

    def for_argparse(self) -> dict[str, Any]:
        """What argparse needs to know of it."""
        if self.kind == "flag":
            return {"default": False}

        def convert(text: str) -> Any:
            try:
                return self.parse(text)
            except GeometryBenchError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        return {"metavar": self.metavar, "default": self.default, "type": convert}


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise GeometryBenchError(f"'{text}' is not a count: give a whole number from 1 on.")
    return int(text)


def _requests(text: str) -> int:
    from geometry_bench.prompts.sets import load_set

    return len(load_set("unsafe")) if text.casefold() == "all" else _count(text)


def _depth(text: str) -> float:
    try:
        depth = float(text)
    except ValueError:
        depth = -1.0
    if not 0 <= depth <= 1:
        raise GeometryBenchError(
            f"'{text}' is not a relative depth: give a number from 0 (first block) to 1 (last block)."
        )
    return depth


def _role(text: str) -> tuple[str, str]:
    role, equals, name = text.partition("=")
    if not equals or not name or role not in ROLES:
        raise GeometryBenchError(f"--set {text}: write it as ROLE=SET, where ROLE is one of {', '.join(ROLES)}.")
    return role, name


def _template_argument(text: str) -> str:
    from geometry_bench.prompts.template import parse_arguments

    parse_arguments([text])
    return text


def _undecided(text: str) -> str:
    if text not in ("fail", "pass"):
        raise GeometryBenchError(f"--undecided {text}: write fail or pass.")
    return text


def _judge(text: str) -> str:
    from geometry_bench.behavior.judges.choice import JudgeChoice

    JudgeChoice.of(text)
    return text


def _judge_option(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise GeometryBenchError(f"--judge-option {text}: write it as KEY=VALUE, such as max_completion_tokens=2000.")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def _margin(text: str) -> tuple[str, float]:
    name, _, number = text.rpartition("=")
    try:
        return name or "?", float(number)
    except ValueError:
        raise GeometryBenchError(f"--margin {text}: write it as CASE=CHANGE, such as gate.refusal=0.2.") from None


def _modes(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


OPTIONS: tuple[Option, ...] = (
    Option(
        "--model",
        "Subject to measure: a Hub id (org/name, org/name@revision), a local folder, a GGUF file, or zoo/... for an "
        "embedded model. Repeatable; without it, --family, --group and --weights everything embedded is measured.",
        "MODEL",
        "repeated",
    ),
    Option(
        "--family",
        "Family to measure: a family.toml, or the folder that holds it, which names a base model and the models made "
        "from it (folders or Hub ids) with their roles and alignment. Each member becomes a subject FAMILY/MEMBER, to be "
        "chosen with pytest's -k. Repeatable; adds to --model.",
        "FILE",
        "repeated",
    ),
    Option(
        "--group",
        "Group of models to compare with a reference model: a TOML file that names its members and the reference (see "
        "`geometry-bench docs groups`), or zoo/groups/NAME. Its members are measured on their own only where --model or "
        "--family names them. Repeatable.",
        "FILE",
        "repeated",
    ),
    Option(
        "--reference",
        "Makes the run's subjects a group with this one as reference, spelled as its --model or FAMILY/MEMBER: unsafe "
        "directions of the others are mapped into its space.",
        "MODEL",
    ),
    Option(
        "--depth",
        "Relative depth of the block at which a group is measured, 0 to 1 (default: two thirds); other depths are "
        "recorded beside it.",
        "D",
        parse=_depth,
    ),
    Option(
        "--checkpoints",
        "Checkpoints of a training run, measured each and as a trajectory: a folder of checkpoint-STEP folders (models or "
        "adapters), or ORG/NAME@REVISION,REVISION,... Repeatable.",
        "DIR",
        "repeated",
    ),
    Option(
        "--weights",
        "Family whose weight updates are measured, without its members as subjects: a family.toml, the folder that holds "
        "it, or zoo/NAME. Weights are read tensor by tensor and no model is loaded. --family measures the weights too. "
        "Repeatable.",
        "FILE",
        "repeated",
    ),
    Option(
        "--revision",
        "Branch, tag or commit of the Hub models named with --model; the commit is resolved before loading and recorded.",
        "REV",
    ),
    Option(
        "--dtype",
        "auto (default), float32, bfloat16, float16. auto: see `geometry-bench docs first-run`.",
        "DTYPE",
        default="auto",
    ),
    Option(
        "--device", "auto (default), cpu, cuda, cuda:1, mps, or map (spread over devices).", "DEVICE", default="auto"
    ),
    Option(
        "--attention", "Attention kernel: sdpa, eager, flash_attention_2, ...; the effective one is recorded.", "KERNEL"
    ),
    Option(
        "--template-arguments",
        "Argument of the chat template, such as enable_thinking=false; recorded, and values of others are not comparable. "
        "Repeatable.",
        "KEY=VALUE",
        "repeated",
        parse=_template_argument,
    ),
    Option("--adapter", "PEFT adapter folder to put on the --model (extra: adapters).", "DIR"),
    Option(
        "--alignment",
        "How a subject was aligned, e.g. org/name='SFT + DPO'; decides which sign safety.baseline_sign expects. "
        "Repeatable; known for the published subjects and the zoo, and read from family manifests (FAMILY/MEMBER=... "
        "overrides them).",
        "MODEL=METHOD",
        "repeated",
    ),
    Option("--trust-remote-code", "Run model code that comes with the checkpoint. Off by default.", kind="flag"),
    Option("--allow-pickle", "Load pickled weights where there are no safetensors. Off by default.", kind="flag"),
    Option(
        "--claims",
        "Python file that declares further claims, as CLAIMS (see `geometry-bench docs add-a-claim`); packages declare "
        "theirs by the entry point geometry_bench.claims. The file's code is run. Repeatable.",
        "FILE",
        "repeated",
    ),
    Option(
        "--prompts",
        "Prompt pack (TOML) to measure with instead of the built-in one or the one that a manifest names.",
        "FILE",
        parse=Path,
    ),
    Option(
        "--requests",
        "Requests drawn from each class of the built-in sets (default: 60), or all (300): intervals shrink with more.",
        "N|all",
        parse=_requests,
    ),
    Option(
        "--set",
        "Requests that replace a built-in set or a manifest's, as ROLE=SET: a public set (advbench, xstest-safe, ...), "
        "org/name of a data set on the Hub, FILE.toml:SET, or FILE[:COLUMN] (csv, json, jsonl, parquet, txt); "
        "?COLUMN=VALUE at its end keeps the "
        f"rows with that value ('unsafe=mine.csv:prompt?label=unsafe'). Roles: {', '.join(ROLES)}. Repeatable.",
        "ROLE=SET",
        "repeated",
        parse=_role,
    ),
    Option(
        "--results",
        "Folder for records.jsonl: one measurement on each line, written when its case is done.",
        "DIR",
        parse=Path,
    ),
    Option(
        "--resume", "Take over the cases that the --results folder already holds and measure the rest.", kind="flag"
    ),
    Option(
        "--baselines",
        "Folder of your own baselines, read before the bundled ones; --baseline-update writes there.",
        "DIR",
        parse=Path,
    ),
    Option(
        "--against", "Compare with another subject's stored baseline, such as a fine-tune with its parent.", "SUBJECT"
    ),
    Option(
        "--require-comparison",
        "Fail a case that cannot be compared with a baseline: none stored, other inputs, other settings.",
        kind="flag",
    ),
    Option(
        "--answers",
        "Generate short answers to the gate's requests too, and compare how many are refused: the surest reading, some "
        "minutes for a model of a billion weights on a CPU.",
        kind="flag",
    ),
    Option(
        "--judge",
        "Who grades how harmful answers are, from 1 to 5: rules (default: a refusal is harmless, anything else is harm), "
        "local:MODEL (a model with a chat template, named as for --model), or openai:MODEL (a model behind OpenAI's "
        "endpoint, or behind --judge-url). Refusals are judged by the rules whatever it is.",
        "JUDGE",
        default="rules",
        parse=_judge,
    ),
    Option(
        "--judge-url",
        "Endpoint of --judge openai:MODEL that speaks OpenAI's chat protocol, such as http://127.0.0.1:8000/v1.",
        "URL",
    ),
    Option(
        "--judge-key-env",
        "Environment variable that holds the endpoint's key (default: OPENAI_API_KEY, which an endpoint of your own may "
        "leave unset).",
        "NAME",
    ),
    Option(
        "--judge-option",
        "What the endpoint is asked with, in place of temperature=0 and max_tokens=8, which some models do not take: "
        "max_completion_tokens=2000. Repeatable.",
        "KEY=VALUE",
        "repeated",
        parse=_judge_option,
    ),
    Option(
        "--evaluate",
        "With --answers: a task of lm-eval's that stands for the ability of models, in place of sums: a name (gsm8k, mmlu), "
        "TASK:FILE or TASK:SPLIT=FILE,SPLIT=FILE with its data, or a YAML file (extra: eval). Repeatable.",
        "TASK",
        "repeated",
    ),
    Option(
        "--limit",
        "Documents of each --evaluate task that are asked, from the first on; default: all.",
        "N",
        parse=_count,
    ),
    Option(
        "--ruler",
        "Measure too how far the gate's contrasts move when the model's own weights are rounded to bfloat16, 8 and 4 bits "
        "or lose a random direction: a ruler for its fine-tunes, kept with its baseline.",
        kind="flag",
    ),
    Option(
        "--undecided",
        "What a comparison is worth that cannot tell whether something has moved: fail (default, exit code 2) or pass.",
        "fail|pass",
        default="fail",
        parse=_undecided,
    ),
    Option(
        "--report",
        "File for the comparison with --against as markdown, such as a comment on a pull request.",
        "FILE",
        parse=Path,
    ),
    Option(
        "--margin",
        "Smallest change that matters in a claim or case, in place of the declared one (see `geometry-bench show`), such "
        "as gate.refusal=0.2. Repeatable.",
        "CASE=CHANGE",
        "repeated",
        parse=_margin,
    ),
    Option(
        "--name",
        "Name of a local folder for records, baselines and published values, as FOLDER=NAME: ./copy=ORG/NAME for an exact "
        "copy of a Hub model. Repeatable.",
        "FOLDER=NAME",
        "repeated",
    ),
    Option(
        "--baseline-update",
        "Store baselines: new (missing cases), changed (values that moved), trim (cases no claim declares any more); any "
        "combination, comma-separated.",
        "MODES",
        parse=_modes,
        default=(),
    ),
    Option(
        "--update-reason", "Why baselines are stored or replaced; kept with them. Needed for changed and trim.", "TEXT"
    ),
    Option("--batch-size", "Prompts in a batch; default: as many as the token budget allows.", "N", parse=_count),
    Option(
        "--token-budget", "Tokens in a batch, padding included; default: 1024 on CPU, more on a GPU.", "N", parse=_count
    ),
    Option("--activation-cache", "Folder of the activation cache, or off.", "DIR|off"),
)
