"""``tdmpc report``, and every figure that the commands draw.

Figures are built through matplotlib's object interface: no pyplot, no backend, no global state.
"""


def main(arguments: list[str]) -> int:
    """Run the command; a robot draws latencies, and has not got what it needs."""
    from tdmpc.scripts.report.command import main

    return main(arguments)
