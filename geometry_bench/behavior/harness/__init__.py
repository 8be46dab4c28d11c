"""Tasks of EleutherAI's evaluation harness (lm-eval, extra ``eval``), run on the project's own subjects."""
