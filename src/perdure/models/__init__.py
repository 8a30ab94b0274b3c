"""The methods of continual learning, one file each; `base.py` is the contract."""
