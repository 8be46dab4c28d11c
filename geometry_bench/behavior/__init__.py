"""What a model says, with its weights or activations changed or not: answers, refusals, first tokens."""
