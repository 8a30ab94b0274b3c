# %% [markdown]
# # Five minutes with Perdure
#
# Train experience replay on split MNIST, look at what it keeps, compare it with training that does
# nothing against forgetting, and resume a run that was stopped. MNIST is in the package, and the
# whole page takes well under a minute of one CPU core.
#
# `perdure.train` takes the words of the command line: what is here
# `perdure.train("model=er", folder="outputs/er")` is `python train.py model=er
# hydra.run.dir=outputs/er` in a terminal.

# %%
from pathlib import Path

from IPython.display import SVG, display

import perdure

QUIET = ("dataset=seq-mnist", "tracking.console=off")

# %% [markdown]
# ## Train
#
# Five tasks of two digits each, one pass over each. A buffer of 500 examples is replayed.

# %%
er = perdure.train("model=er", "checkpoint.save=true", *QUIET, folder="outputs/er")

for name in ("class_il", "task_il"):
    print(f"{name}: {er['average_accuracy'][name]:.2%}, forgetting {er['forgetting'][name]:.2%}")

# %% [markdown]
# *Class-incremental* accuracy asks which of all ten digits an image shows; *task-incremental*
# accuracy asks which of its own task's two, which is far easier. Row i of the accuracy matrix is
# measured after task i, column j on the test set of task j: read a column downward to see a task
# being forgotten.

# %%
for row in er["accuracy_matrix"]["class_il"]:
    print("  ".join(f"{accuracy:7.2%}" for accuracy in row))

# %% [markdown]
# The run left a folder with results, checkpoints, figures, and a page `report.html` that shows them
# together.

# %%
print(*sorted(path.name for path in Path("outputs/er").iterdir()), sep="\n")
display(SVG(filename="outputs/er/figures/accuracy.svg"))

# %% [markdown]
# ## Compare
#
# `sgd` does nothing against forgetting: the lower bound. `training=joint` sees all tasks at once:
# the upper bound. The seed is the same, so all three see the same tasks.

# %%
sgd = perdure.train("model=sgd", *QUIET)
joint = perdure.train("model=sgd", "training=joint", *QUIET)

for name, results in {"sgd": sgd, "er": er, "joint": joint}.items():
    print(f"{name:6} {results['average_accuracy']['class_il']:7.2%}")

# %% [markdown]
# One seed is an anecdote. In a terminal, `python train.py -m model=sgd,er seed=0,1,2` runs a sweep,
# and `perdure summarize` prints mean and standard deviation over its seeds.
#
# ## Stop and resume
#
# Here a run is stopped after two tasks. A signal, a crash or a power cut in the middle of an epoch
# ends alike: the same command with `checkpoint.resume=auto` continues from the newest checkpoint.

# %%
words = ("model=er", "checkpoint.save=true", *QUIET)
perdure.train(*words, "dataset.stop_after=2", folder="outputs/stopped")
resumed = perdure.train(*words, "checkpoint.resume=auto", folder="outputs/stopped")

assert resumed["accuracy_matrix"] == er["accuracy_matrix"]
print("the resumed run ends with the same accuracies as the one that was never stopped")

# %% [markdown]
# ## From here
#
# - A method of your own is one class with a `loss`, and one file that names it: *Extending*.
# - Every key and its value: `python train.py --cfg job`. What each option is: *Options*.
# - What another framework calls these things: *Coming from Mammoth, Avalanche, PyCIL, Catalyst*.
