"""From logits to tokens: stages that edit logits, the draw, verification of drafts, log-probabilities."""
