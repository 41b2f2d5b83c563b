"""One bit is flipped in a file of a run or of a bundle, and the file is used.

The law: whoever reads it says in one line what is damaged, or comes to the same result as with the sound file, bit for
bit. The lines of records, which are text without a hash, may differ from the sound ones in what was flipped, no more.
"""

import itertools
import json
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from tdmpc import checkpoint, pages, runs
from tdmpc.compression import records
from tdmpc.compression.records import RecordError
from tdmpc.deploy import bundle
from tdmpc.deploy.backends import Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.contract import golden_plans
from tdmpc.deploy.controller import Controller
from tests.attack import processes
from tests.attack.cases import Case, dice, scaled
from tests.attack.kills import outcome_in
from tests.attack.subject import subject
from tests.tdmpc.outcomes import Outcome, differing

RUN_FLIPS, BUNDLE_FLIPS = 100, 200
OF_RUN = (checkpoint.CURRENT, checkpoint.PREVIOUS, runs.CONFIG, *pages.FOLDERS, runs.METRICS, records.EVENTS)
OF_BUNDLE = (
    bundle.MANIFEST,
    bundle.PLANNER,
    bundle.GOLDEN,
    bundle.START,
    bundle.MANIFEST,
    bundle.REFINE,
    bundle.POLICY,
)
RECORDS = {runs.METRICS, records.EVENTS}
STEPS = 64
"""Environment steps to which a run is gone on with."""
HEADS = 0.3
"""Share of the flips within the first bytes of a file: what describes the rest of it."""


def cases(seed: int, scale: float) -> Iterator[Case]:
    """Flips in the files of a run and of a bundle, in turns."""
    for number, name in enumerate(itertools.islice(itertools.cycle(OF_RUN), scaled(RUN_FLIPS, scale))):
        yield Case(f"run-{number}-{name}", partial(in_run, name, (seed, "run", number)))
    for number, name in enumerate(itertools.islice(itertools.cycle(OF_BUNDLE), scaled(BUNDLE_FLIPS, scale))):
        yield Case(f"bundle-{number}-{name}", partial(in_bundle, name, (seed, "bundle", number)))


class Flip(NamedTuple):
    """Where a bit was flipped."""

    path: Path
    byte: int
    before: bytes
    after: bytes

    def __str__(self) -> str:
        around = f"{self.before!r} became {self.after!r}" if self.path.suffix in (".json", ".jsonl") else "one bit"
        return f"{self.path.name}, byte {self.byte}: {around}"


def flip(path: Path, words: tuple[object, ...]) -> Flip:
    """Flip a bit that the dice choose; of a folder, in one of its files."""
    chosen = dice(*words)
    if path.is_dir():
        path = chosen.choice(sorted(path.iterdir()))
    content = bytearray(path.read_bytes())
    byte = chosen.randrange(min(len(content), 512) if chosen.random() < HEADS else len(content))
    around = slice(max(byte - 12, 0), byte + 12)
    before = bytes(content[around])
    content[byte] ^= 1 << chosen.randrange(8)
    path.write_bytes(content)
    return Flip(path, byte, before, bytes(content[around]))


# Runs -----------------------------------------------------------------------------------------------------------------


def in_run(name: str, words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """Flip a bit of a run and go on with it."""
    (folder / "here").mkdir()
    run = subject().copied(folder / "here").run
    flipped = flip(run / name, words)
    ended = resume(folder)
    yield from (f"{flipped}: {what}" for what in processes.unlawful(ended))
    if ended.status == 0:
        try:
            outcome = outcome_in(run)
        except RecordError:
            if name not in RECORDS:
                raise
            return  # a record goes on behind a line that is broken; whoever reads it is told which
        found = min((differing(sound, outcome) for sound in (gone_on(), gone_on(fallen_back=True))), key=len)
        if name not in RECORDS and found:
            yield f"{flipped}: it was not noticed, and {len(found)} things differ: {'; '.join(found)[:300]}"
        if name in RECORDS and len(found) > 1:
            yield f"{flipped}: more than its line differs: {'; '.join(found)[:300]}"


def resume(folder: Path) -> processes.Ended:
    """Go on with the run in a folder for a few steps."""
    arguments = ["train", "--resume=run", f"--env-steps={STEPS}"]
    return processes.start(arguments, folder, before=processes.draw_nothing).wait()


@cache
def gone_on(*, fallen_back: bool = False) -> Outcome:
    """What the sound run comes to; from the checkpoint before its last one, it makes the last steps again."""
    with TemporaryDirectory(prefix="tdmpc-attack-") as name:
        (Path(name) / "here").mkdir()
        run = subject().copied(Path(name) / "here").run
        if fallen_back:
            (run / checkpoint.CURRENT).unlink()
        if (ended := resume(Path(name))).status != 0:
            raise RuntimeError(f"not even a sound run goes on: {ended}")
        return outcome_in(run)


# Bundles --------------------------------------------------------------------------------------------------------------


def in_bundle(name: str, words: tuple[object, ...], folder: Path) -> Iterator[str]:
    """Flip a bit of a bundle and decide with it."""
    sound = decided(subject().bundle)
    spoilt = subject().copied(folder).bundle
    flipped = flip(spoilt / name, words)
    try:
        found = decided(spoilt)
    except BundleError as error:
        if "\n" in str(error) or name not in str(error):
            yield f"{flipped}: its error is no line that names the file: {error}"
    except Exception as error:
        yield f"{flipped}: {type(error).__name__}: {error}"
    else:
        if found != sound:
            yield f"{flipped}: it was not noticed, and decisions differ"
        if said(spoilt) != said(subject().bundle):
            yield f"{flipped}: it was not noticed, and the manifest says something else"


def decided(folder: Path) -> bytes:
    """All that a bundle decides about a few observations, planned as a whole, until a deadline, and by the policy."""
    made = [np.float64(max(plan.action for plan in golden_plans(bundle.read(folder), Runtime())))]
    for deadline_ms in (None, 1e6):
        controller = Controller.load(folder, on_fault="prior", deadline_ms=deadline_ms)
        controller.reset(seed=1)
        observations = (sensed_by_arm(value) for value in (0.1, np.nan, -0.5))
        made += [part for sensed in observations for part in (controller.act(sensed), np.float64(controller.value))]
        controller.close()
    return b"".join(np.asarray(part).tobytes() for part in made)


def sensed_by_arm(value: float) -> dict[str, Any]:
    """What the arm of the subject senses."""
    return {"joint": np.full(3, value), "tool": {"force": np.eye(2), "heat": np.array(value)}}


def said(folder: Path) -> dict[str, object]:
    """The manifest, but for the hashes, which speak for themselves."""
    return {name: part for name, part in json.loads((folder / bundle.MANIFEST).read_text()).items() if name != "files"}
