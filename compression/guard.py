"""The guard: whether an event stands, and whose cut is to blame where it does not."""

from collections.abc import Callable

from tdmpc.compression.groups import Groups, Keep
from tdmpc.compression.prunable import Judgement


def objection(judgement: Judgement, tolerance: float) -> str:
    """Why an event is not to stand, in words; empty where it may."""
    name, worst = max(judgement.worsening.items(), key=lambda item: _or_infinite(item[1]))
    return "" if worst <= tolerance else f"{name} worse by {worst:.2f}, more than {tolerance}"


def blamed(keep: Keep, groups: Groups, judge: Callable[[Keep], Judgement]) -> str:
    """The component whose cut alone does the most harm.

    Args:
        keep: what the event leaves.
        groups: as they were before it.
        judge: how the model does that is cut to something.
    """

    def harm(component: str) -> float:
        alone = {name: units for name, units in keep.items() if groups[name].component == component}
        return max(_or_infinite(value) for value in judge(alone).worsening.values())

    components = list(dict.fromkeys(groups[name].component for name in keep))
    return max(components, key=harm) if len(components) > 1 else components[0]


def _or_infinite(value: float) -> float:
    """A number that is none is the worst of all."""
    return value if value == value else float("inf")
