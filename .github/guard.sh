#!/usr/bin/env bash
# Compares a fine-tune with its parent's stored baseline, and shows the answer in the job's summary.
# Exit codes are those of `geometry-bench run --against`: 0 the same, 1 moved, 2 cannot tell.
set -uo pipefail

: "${GUARD_MODEL:?name the fine-tune}" "${GUARD_PARENT:?name its parent}"
report=${GUARD_REPORT:-geometry-bench.md}

# Options are split at blanks, as a shell does.
# shellcheck disable=SC2086
geometry-bench run --model "$GUARD_MODEL" --against "$GUARD_PARENT" --baselines "${GUARD_BASELINES:-baselines}" \
    --claim "${GUARD_CLAIM:-gate.*}" --undecided "${GUARD_UNDECIDED:-fail}" \
    --report "$report" --junitxml "${GUARD_JUNIT:-geometry-bench.xml}" ${GUARD_OPTIONS:-}
code=$?

if [ -n "${GITHUB_STEP_SUMMARY:-}" ] && [ -f "$report" ]; then
    cat "$report" >> "$GITHUB_STEP_SUMMARY"
fi
exit "$code"
