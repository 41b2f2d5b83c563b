"""Command lines that cannot work, or that nobody should give.

The law: status 2 with one message, and nothing is left behind or changed; or status 0, where it is legal after all.
"""

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from tests.attack import processes
from tests.attack.cases import Case, dice, scaled, spread
from tests.attack.processes import unlawful
from tests.attack.subject import ENV, TRAINED, subject
from tests.scripts.test_main import OPTIONS
from tests.tdmpc.outcomes import files_of

RIGHT = {
    "train": f"train {ENV} {' '.join(TRAINED)} --run-dir=new",
    "resume": "train --resume=run --env-steps=70",
    "prune": "prune run --target=0.5 --min-width=2 --finetune-steps=20 --run-dir=new",
    "evaluate": "evaluate run --episodes=1 --seed=3 --json",
    "envs": "envs pendulum",
    "report": "report run",
    "sparsity": "sparsity run --windows=16 --tolerance=0.1 --soft-q=0.5",
    "plot": "plot run --out=new.png --title=runs",
    "bench": "bench --setting=width-48 --rounds=1 --calls=1 --threads=1 --precision=float32",
    "suite": "suite suite.toml --workers=1",  # it was begun: nothing is run
    "results": "results render --check --root=pages",
    "collect": "results collect suite --out=new",
    "export": "export run --out=new --samples=16 --elites=4 --seed=1",
    "validate": "validate bundle --run=run --episodes=1 --seed=3",
    "latency": "latency bundle --calls=5 --seconds=0.01 --threads=1 --period-ms=5 --periods=5",
    "native": "native run bundle --build-dir=nowhere --threads=1",
    "autoencoder": "autoencoder --criteria=l1 --targets=0.5 --steps=20 --run-dir=new --threads=1",
}
"""A command line of each kind that works, or would."""
WRONG = """
train
train Pendulun-v1 --run-dir=new
train . --run-dir=new
train : --run-dir=new
train module: --run-dir=new
train tests.attack:Lame-v0 --run-dir=new
train tests.attack.broken:Tame-v0 --run-dir=new
train ENV --run-dir=run
train ENV --run-dir=taken
train ENV --run-dir=taken/new
train ENV --resume=run --run-dir=new
train --resume=bundle
train --resume=taken
train --resume=run --env-steps=1
train --resume=run --env-steps=70 --env-steps=80 --threads
train ENV --run-dir=new --device=nowhere
train ENV --run-dir=new --num-envs=100000000000000000000
train ENV --run-dir=new --replay.capacity=1000000000000000
train ENV --run-dir=new --model.latent=1000000000000
train ENV --run-dir=new --threads=100000000000000000000
train ENV --run-dir=new --prune.target=1
train ENV --run-dir=new --prune.target=0.5 --prune.shares nobody 0.5
train ENV --run-dir=new --max-episode-steps=100000000000000000000
train ENV --run-dir=new --planner.samples=1000000000000
train ENV --run-dir=new --loss.learning-rate=1e300
evaluate bundle
evaluate run/config.json
evaluate run --seed=-1
evaluate run --seed=100000000000000000000
evaluate run --threads=-1
evaluate run --video --json
report taken
export run --out=bundle
export run --out=taken/new
export bundle --out=new
validate run
validate bundle --run=bundle
validate bundle --threads=0
latency run
latency bundle --cores 4000
latency bundle --cores -1
latency bundle --priority=1000
latency bundle --deadline-ms=nan --calls=2 --seconds=0.01
latency bundle --plot=taken/new.png --calls=2 --seconds=0.01
latency bundle --seconds=nan --calls=2
native run bundle --build-dir=run
prune run --target=0
prune bundle
prune run --run-dir=run
plot taken
plot run --out=run
plot run --env=nothing
suite taken
suite suite
suite other.toml
results collect nowhere
results collect run
results render --root=taken
autoencoder --mnist=nowhere --run-dir=new
autoencoder --targets 2 --run-dir=new
autoencoder --run-dir=run
demo --seed=-1 --run-dir=new
demo --run-dir=taken/new
"""
"""Command lines that are wrong in ways that chance seldom finds."""
# fmt: off
VALUES = ["", "-1", "0", "nan", "inf", "-inf", "1e400", "ten", "1.5", "None", "\uff11", "0x10", "1_0", "x" * 5000]
VALUES += ["a\nb", "run", "taken", "taken/new", "nowhere", "bundle", "run/config.json", "--json", "[1]", "0.5 0.5", "*"]
# fmt: on
HUGE = "100000000000000000000"
"""Where it is legal it may be under way for ever."""
SKIPPED = {"--priority", "--awake", "--compile", "--address", "--workers", "--wandb"}
"""Options whose legal values take the machine from others, or start much."""
MUTANTS = 100
PATIENCE = 40.0
"""Seconds for a command that may be under way for ever: with a huge number, or one that trains."""


def cases(seed: int, scale: float) -> Iterator[Case]:
    """Lines that are wrong by hand, then right ones that chance spoils."""
    by_hand = [line.replace("ENV", f"{ENV} {' '.join(TRAINED)}").split(" ") for line in WRONG.strip().splitlines()]
    yield from spread([Case(f"by-hand-{n}", partial(refused, words)) for n, words in enumerate(by_hand)], scale)
    for number in range(scaled(MUTANTS, scale)):
        name = list(RIGHT)[number % len(RIGHT)]
        words = mutated(RIGHT[name].split(" "), dice(seed, "commands", number))
        yield Case(f"{name}-{number}", partial(refused, words))


def mutated(words: list[str], chosen: random.Random) -> list[str]:
    """A command line with one or two things changed."""
    for _ in range(chosen.choice([1, 1, 2])):
        words = chosen.choice([spoilt, spoilt, spoilt, with_option, with_option, shortened, swapped, misspelt])(
            words, chosen
        )
    return words


def spoilt(words: list[str], chosen: random.Random) -> list[str]:
    """Another value for an option, or in place of an argument."""
    place = chosen.randrange(1, len(words)) if len(words) > 1 else 0
    name, equals, _ = words[place].partition("=")
    value = chosen.choice([*VALUES, HUGE])
    return [*words[:place], f"{name}={value}" if equals else value, *words[place + 1 :]]


def with_option(words: list[str], chosen: random.Random) -> list[str]:
    """One more option of this command, or of another, with some value."""
    command = words[0] if words[0] in OPTIONS and chosen.random() < 0.8 else chosen.choice(list(OPTIONS))
    known = [option for option in OPTIONS[command].split() if option.startswith("--") and option not in SKIPPED]
    option = chosen.choice(known or ["--no-such-option"])
    return [*words, *chosen.choice([[option], [f"{option}={chosen.choice([*VALUES, HUGE])}"], [option, "1", "2"]])]


def shortened(words: list[str], chosen: random.Random) -> list[str]:
    """One word less."""
    place = chosen.randrange(1, len(words)) if len(words) > 1 else 0
    return words[: max(place, 1)] + words[max(place, 1) + 1 :]


def swapped(words: list[str], chosen: random.Random) -> list[str]:
    """Two words in each other's place."""
    one, other = chosen.randrange(len(words)), chosen.randrange(len(words))
    words = list(words)
    words[one], words[other] = words[other], words[one]
    return words


def misspelt(words: list[str], chosen: random.Random) -> list[str]:
    """A letter less in some word."""
    place = chosen.randrange(len(words))
    letter = chosen.randrange(max(len(words[place]), 1))
    return [*words[:place], words[place][:letter] + words[place][letter + 1 :], *words[place + 1 :]]


def refused(words: list[str], folder: Path) -> Iterator[str]:
    """Give a command line where there is a run, a bundle and more, and see what it leaves."""
    here = furnish(folder / "here")
    before = names_and_files(here)
    command = processes.start(words, folder, before=processes.draw_nothing)
    is_long = not command.ends_within(PATIENCE) and (
        any(HUGE in word for word in words) or "decisions/s" in (folder / "err").read_text(errors="replace")
    )
    ended = command.wait(0 if is_long else processes.HANGS)
    shown = "tdmpc " + " ".join(word if len(word) < 80 else word[:20] + "..." for word in words[:1] + words[-6:])
    if not (ended.status is None and is_long):
        may_differ = words[0] in ("results", "validate")  # status 1 where something is not as it should be
        yield from (f"{shown!r}: {what}" for what in unlawful(ended, statuses=(0, 1, 2) if may_differ else (0, 2)))
    after = names_and_files(here)
    had_begun = "Everything is in" in ended.err  # what could not be foreseen, and is kept to be looked at
    if ended.status == 2 and before != after and not had_begun:
        changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
        yield f"{shown!r}: it was refused, and left or changed {', '.join(changed)[:300]}"


def furnish(here: Path) -> Path:
    """Things that command lines name."""
    here.mkdir()
    subject().copied(here)
    (here / "taken").write_text("a file in the way\n")
    (here / "suite").mkdir()
    (here / "suite" / "summary.csv").write_text("task,method,seed,status\n")
    (here / "suite.toml").write_text('name = "a"\noutput = "suite"\n[tasks]\nPendulum-v1 = ""\n[methods]\ndense = ""\n')
    (here / "other.toml").write_text('name = "b"\nseeds = []\n[tasks]\n[methods]\nx = { prunes = "y" }\n')
    (here / "pages").mkdir()
    (here / "pages" / "README.md").write_text("# A page\n")
    return here


def names_and_files(here: Path) -> dict[str, bytes]:
    """All files with their content, and all folders."""
    folders = {f"{path.relative_to(here)}/": b"" for path in here.rglob("*") if path.is_dir()}
    return {**folders, **files_of(here)}
