"""The configuration, from files and overrides to objects.

Where a key is checked: `schema` (unknown keys, combinations), `rules` (ranges of values), `build`
(options of a class named in `_target_`), `suggestions` (did you mean). Where a value comes from:
`compose` (Hydra), `published` (a paper's hyperparameters), `stored` (a checkpoint).
"""
