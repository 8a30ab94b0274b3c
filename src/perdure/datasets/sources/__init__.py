"""Data sources: MNIST, Fashion-MNIST, CIFAR-10, CIFAR-100; your own is any class like `Source`."""

from __future__ import annotations

from perdure.datasets.sources.base import Source
from perdure.datasets.sources.cifar import CIFAR10, CIFAR100
from perdure.datasets.sources.fashion_mnist import FashionMNIST
from perdure.datasets.sources.mnist import MNIST

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "Source"]
