"""Backbones (MLP, ResNet-18): images to features, and through one linear head to logits."""
