"""What `python train.py --help` says.

Hydra's own help visits every group below `conf/` and every published setting, which takes
it over a second.
"""

from __future__ import annotations

from perdure.config.folder import options

_GROUPS = (
    "model",
    "addon",
    "dataset",
    "source",
    "scenario",
    "transform",
    "buffer",
    "backbone",
    "head",
    "optimizer",
    "scheduler",
    "training",
    "checkpoint",
    "tracking",
    "debug",
)

_TEXT = """\
Perdure trains a network on a sequence of tasks and measures what it keeps.

Choose one file of each group (group=option):

{groups}
  experiment: a published setting, <paper>/<benchmark>/<row> (perdure published lists them)
  search: a search of hyperparameters by Optuna, with -m: {searches}

Common settings (key=value):

  seed=0,1,2                  several seeds, with -m: one run after another
  hydra/launcher=local        with -m: runs in processes, one a core; also slurm, slurm_local, ray
  buffer.size=200             how many examples the buffer keeps
  optimizer.lr=0.1            learning rate
  dataset.epochs=5            passes over each task
  dataset.stop_after=2        train only the first tasks
  dataset.validation=0.1      hold out this part of the training data and evaluate on it
  training.precision=bf16     mixed precision
  checkpoint.save=true        keep a full checkpoint after every task
  checkpoint.load=latest      resume the run that saved last
  tracking=wandb              mirror the run to Weights & Biases
  device=cuda:1               where to train

Examples:

  python train.py model=er dataset=seq-mnist checkpoint.save=true
  python train.py -m model=sgd,er,derpp seed=0,1,2
  python train.py model=sgd training=joint
  python train.py experiment=dark-experience/seq-mnist/derpp-500
  torchrun --standalone --nproc-per-node=4 train.py model=derpp dataset=seq-cifar10

Every key and its value: python train.py --cfg job
Hydra's own options: python train.py --hydra-help
"""


def text() -> str:
    """Groups with their options, the commonest settings, and examples."""
    groups = (f"  {group}: {', '.join(options(group))}" for group in _GROUPS)
    searches = ", ".join(options("search"))
    return _TEXT.format(groups="\n".join(groups), searches=searches)
