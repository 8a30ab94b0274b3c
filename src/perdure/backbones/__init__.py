"""Backbones (MLP, ResNet, convolutional net): images to features, and by one head to logits."""
