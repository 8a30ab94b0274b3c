"""Continual-learning methods (replay, regularization, distillation), one file each.

`base.py` is the contract; `per_example.py` computes gradients of single examples.
"""
