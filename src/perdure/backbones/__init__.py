"""Networks that map images to features, and features through one linear head to logits."""
