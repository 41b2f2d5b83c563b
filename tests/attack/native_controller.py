"""The controller in C++ under the same law, with the compiler's checks of addresses and undefined behaviour."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from tdmpc.scripts.native import steps
from tests.attack.cases import Case, scaled
from tests.attack.subject import subject

SOURCES = Path(__file__).parent / "native"
CALLS = 20_000
LEAST = 0.1
"""Scale below which building takes longer than all the rest."""


def cases(seed: int, scale: float) -> Iterator[Case]:
    """One, where it can be built."""
    missing = [tool for tool in ("cmake", "c++") if shutil.which(tool) is None]
    missing += [] if find_spec("openvino") else ["openvino"]
    if missing or scale < LEAST:
        reason = f"needs {', '.join(missing)}" if missing else f"not below --scale {LEAST}"
        print(f"SKIPPED the controller in C++: {reason}", file=sys.stderr)
        return
    yield Case("native", partial(run, seed, scaled(CALLS, scale)), scaled(CALLS, scale))


def run(seed: int, calls: int, folder: Path) -> Iterator[str]:
    """Build it and have it decide."""
    for step in steps(SOURCES, folder):
        built = subprocess.run(step, capture_output=True, text=True)
        if built.returncode != 0:
            yield f"it does not build: {built.stdout[-300:]} {built.stderr[-600:]}"
            return
    # The last for oneTBB: where hwloc is installed it would load a library in a way that the checks refuse.
    checks = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "halt_on_error=1", "TBB_ENABLE_SANITIZERS": "1"}
    for deadline_ms in ([], ["0.5"]):  # without one, and one that some plans miss
        words = [folder / "tdmpc_attack", subject().bundle, str(seed), str(calls), *deadline_ms]
        ended = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **checks})
        *findings, last = ended.stdout.splitlines() or [""]
        yield from findings
        if ended.returncode != 0 or not last.startswith("faults counted"):
            yield f"it ends with status {ended.returncode}: {' | '.join(ended.stderr.splitlines()[:4])[:500]}"
