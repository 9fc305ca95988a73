"""What is learned: the seam between the training loop and an objective."""

from dataclasses import dataclass
from typing import Any, ClassVar

from pretrain.shared_options import Runtime, Train


@dataclass(frozen=True)
class ObjectiveOptions:
    """The options of one objective, as a subclass with fields made by `option`; they and `Train` are its identity."""

    @classmethod
    def preset(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Values, shared or own, that `given` implies and that give way to those that are given themselves."""
        return {}

    def check(self, train: Train, runtime: Runtime) -> None:
        """Raise `UserError` for values that cannot be."""


class Objective:
    """One objective. Its file imports torch inside its methods only: the command line lists its options at once."""

    name: ClassVar[str]  # in recipes, on the command line and in a run's identity
    method: ClassVar[str]  # what its backbones are exported as: the row of a table
    Options: ClassVar[type[ObjectiveOptions]] = ObjectiveOptions
