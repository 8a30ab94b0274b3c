"""PNN: progressive neural networks, a column a task with lateral connections."""

from __future__ import annotations

from torch import Tensor, nn

from perdure.backbones.base import Backbone
from perdure.backbones.chain import Layer, layers_of, require_chain
from perdure.datasets.batch import Batch
from perdure.errors import UserError
from perdure.models.base import Data, Loss, Method, Task
from perdure.models.lateral import Adapter, Lateral
from perdure.models.teacher import Teacher


class PNN(Method):
    """A network a task, which also reads what the earlier ones, now frozen, make of the input.

    Rusu et al. 2016, "Progressive neural networks", eq. 2: layer i of column t computes
    h_i = f(W h_(i−1) + U σ(V [α_1 h_(i−1)^(1), …, α_(t−1) h_(i−1)^(t−1)])), from the second layer
    to the head; V reduces the earlier columns to the width of one, each α is a learned scalar.
    The network must be a chain of linear and convolutional layers, as `mlp` and `small-conv`.
    Old outputs stay as they are, to the bit.

    A column's head has all classes, and the loss is over all of them; training.loss_scope=current
    has those of the task alone. `backbone` is the current task's column, which also answers for
    tasks that have not begun.
    Deviations: every column starts from the same first weights, and α from 0.1, where the paper
    draws small random numbers; V of a linear layer reads the flattened feature maps.
    """

    joint = False
    needs_task_id = True
    needs_boundaries = True
    needs_full_parameters = True

    def __init__(self, backbone: Backbone) -> None:
        super().__init__(backbone)
        if not isinstance(backbone.head, nn.Linear):
            raise UserError("head: pnn has a head a column; must be head=linear, not growing")
        self.first = Teacher(backbone)
        self.past = nn.ModuleList()
        self.adapters = nn.ModuleList()
        self._lateral = Lateral()
        self._layers: list[Layer] = [*layers_of(backbone), backbone.head]
        self._lateral.connect(self._layers)

    def grow(self, task: Task) -> None:
        self.adapters.requires_grad_(False)
        adapters = nn.ModuleList()
        if task.index:
            past = Teacher(self.first.network)
            self.past.append(past)
            self._lateral.connect([*layers_of(past.network), past.network.head])
            adapters.extend(Adapter(layer, task.index) for layer in self._layers[1:])
        self.adapters.append(adapters)

    def before_task(self, data: Data) -> None:
        if self.task.index == 0:
            require_chain(self.backbone, self._layers[:-1], next(iter(data(8))).x)
            return
        past = self.past[-1]
        assert isinstance(past, Teacher)
        past.learn(self.backbone)
        self.backbone.load_state_dict(self.first.network.state_dict())

    def forward(self, x: Tensor) -> Tensor:
        return self._lateral((*self.past, self.backbone), self.adapters, x)

    def loss(self, batch: Batch, *replay: Batch) -> Loss:
        return batch.cross_entropy(self(batch.x))

    def predict(self, x: Tensor, task: int | None = None) -> Tensor:
        if task is None or task >= len(self.past):
            return self(x)
        return self._lateral(self.past[: task + 1], self.adapters[: task + 1], x)

    def frozen_state(self) -> dict[str, Tensor]:
        parts = {"past": self.past, "adapters": self.adapters}
        return {f"{k}.{n}": v for k, part in parts.items() for n, v in part.state_dict().items()}
