"""Where arrays come from; a source of your own is any class that has what `Source` has."""

from __future__ import annotations

from perdure.datasets.sources.base import Source
from perdure.datasets.sources.cifar import CIFAR10, CIFAR100
from perdure.datasets.sources.fashion_mnist import FashionMNIST
from perdure.datasets.sources.mnist import MNIST

__all__ = ["CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "Source"]
