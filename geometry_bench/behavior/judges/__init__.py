"""Judges of answers, each declared as data: rules, a model in memory, an endpoint that speaks OpenAI's protocol."""
