"""``tdmpc certify``: how much smaller a controller may be and still be known to be as good."""

import logging
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from tyro.conf import Positional

from tdmpc import runs
from tdmpc.config import ConfigError, PerturbConfig
from tdmpc.deploy import bundle, timing
from tdmpc.deploy.backends import BackendName, Runtime
from tdmpc.deploy.bundle import BundleError
from tdmpc.deploy.percentiles import upper_bound
from tdmpc.envs import NOMINAL
from tdmpc.scripts import ranges, rungs
from tdmpc.scripts.betting import KINDS, fewest, judged, loss_bound, pairs_needed
from tdmpc.scripts.protocol import CERTIFICATE, Record
from tdmpc.scripts.rungs import Rung

log = logging.getLogger("tdmpc")

SEVERE = 0.2
"""An episode that loses more than this share of its pair is counted."""
FIRST = 10
"""Episodes of the reference that tell whether it is worth being compared with."""
EVERY = 20
"""Pairs between two lines of progress."""
Row = dict[str, Any]


@dataclass(frozen=True)
class CertifyArgs:
    """Find how much smaller a controller may be, with a confidence.

    Play reference and candidates on the same fresh episodes, go down the ladder from the largest candidate to the
    smallest, and stop at the first whose mean loss is not known to be below ``--loss``.
    """

    ladder: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="REFERENCE CANDIDATE")] = ()
    """Run folders or bundles: the reference, then candidates, the largest first."""
    loss: float = 0.05
    """Share of the reference's mean return that a candidate may lose."""
    confidence: float = 0.95
    """That no candidate is certified which loses more."""
    pairs: tuple[int, int] = (100, 500)
    """Pairs of episodes for each candidate, least and most. The share of severe losses is told of the first ones."""
    bounds: tuple[float, float] | None = None
    """Lowest and highest return that an episode can have; known of dm_control's suite. Losses are shares of the way
    down to the lowest."""
    seed: int | None = None
    """Of episodes and planner noise; a fresh one when not given, so that nothing was chosen for it."""
    perturb: PerturbConfig = field(default_factory=PerturbConfig)
    """Certify under these disturbances, drawn anew in each episode, alike for reference and candidates."""
    latency: Path | None = None
    """What ``tdmpc latency --period-ms 20 --json`` measured of the candidates, which are bundles: bounds how often they
    miss the deadline."""
    backend: BackendName = "onnxruntime"
    """Runs the bundles."""
    threads: int = 1
    """Of the tensor library, and of the runtime."""
    out: Path = Path("certificate.json")
    """File to write: the protocol before the first episode, then all returns, then the result. Interrupted, the same
    command goes on with it."""
    needed: bool = False
    """Play nothing: print how many pairs it takes, by simulation."""


def main(arguments: list[str]) -> int:
    """Parse, write down the protocol, play, judge, store, print; status 1 where nothing is certified."""
    args = tyro.cli(CertifyArgs, args=arguments, prog="tdmpc certify")
    _check(args)
    if args.needed:
        table = Table("real loss", *KINDS, box=box.MARKDOWN)
        for cells in pairs_needed(loss=args.loss, confidence=args.confidence, most=args.pairs[1]):
            table.add_row(*cells)
        Console().print(table)
        return 0
    torch.set_num_threads(args.threads)
    runtime = Runtime(backend=args.backend, threads=args.threads)
    ladder = [rungs.load(path, args.perturb, runtime) for path in args.ladder]
    rungs.check(ladder)
    deadlines = {rung.path: _deadlines(rung, args) for rung in ladder[1:]}
    record = Record(args.out, _protocol(ladder, args))
    _judge_reference(record.returns(ladder[0], min(FIRST, args.pairs[0])), args)
    rows = []
    for rung in ladder[1:]:
        rows.append({**_judged(rung, ladder[0], record, args), "deadlines": deadlines[rung.path]})
        if rows[-1]["verdict"] != "certified":
            break
    result = _result(rows, args)
    record.write(result=result)
    for rung, row in zip(ladder[1:], rows, strict=False):
        _store(rung, {"protocol": record.protocol, **row})
    _show(result)
    print(f"{result['limit']}.", args.out, sep="\n")
    return 0 if result["certified"] else 1


def _check(args: CertifyArgs) -> None:
    ranges.check(args, ConfigError, positive=["pairs", "threads"], not_negative=["seed"])
    for name in ("loss", "confidence"):
        if not 0 < (value := getattr(args, name)) < 1:
            raise ConfigError(f"--{name} must be above 0 and below 1, got {value}")
    if args.pairs[0] > args.pairs[1]:
        raise ConfigError(f"--pairs takes the least number first, then the most, got {args.pairs[0]} {args.pairs[1]}")
    if args.bounds is not None and not args.bounds[0] < args.bounds[1]:
        raise ConfigError(f"--bounds takes the lowest return first, then the highest, got {args.bounds}")


def _bounds(reference: Rung, args: CertifyArgs) -> tuple[float, float]:
    if (bounds := args.bounds or reference.bounds) is None:
        raise ConfigError(
            f"nobody knows between which bounds the returns of {reference.task['environment']} lie, and without bounds "
            "there is no certificate: state them by --bounds LOWEST HIGHEST"
        )
    return bounds


def _deadlines(rung: Rung, args: CertifyArgs) -> Row | None:
    """Deadlines that a bundle missed when it was timed.

    Raises:
        BundleError: the file is not what ``tdmpc latency --json`` writes, or holds nothing of this candidate.
    """
    if args.latency is None:
        return None
    with timing.read(args.latency) as rows:
        wanted = (rung.bundle and rung.bundle.model_id, args.backend, args.threads, "periodic")
        found = [row for row in rows if tuple(row[name] for name in ("model", "backend", "threads", "mode")) == wanted]
        timed = [{name: row[name] for name in ("period_ms", "periods", "misses")} for row in found]
    if not timed:
        raise BundleError(
            f"{args.latency} holds no deadlines of {rung.path} with {args.backend} on {args.threads} threads: "
            f"export a run; time it by tdmpc latency BUNDLE --period-ms 20 --threads {args.threads} --json"
        )
    return {**timed[0], "miss_upper": upper_bound(timed[0]["misses"], timed[0]["periods"], args.confidence)}


def _protocol(ladder: list[Rung], args: CertifyArgs) -> Row:
    """All that is fixed beforehand."""
    disturbed = {name: value for name, value in asdict(args.perturb).items() if value != getattr(NOMINAL, name)}
    named = [{"path": str(rung.path), "sha256": rung.sha256, "macs": rung.macs} for rung in ladder]
    return {
        "reference": named[0],
        "candidates": named[1:],
        "task": ladder[0].task,
        "loss": args.loss,
        "confidence": args.confidence,
        "severe_loss": SEVERE,
        "pairs": list(args.pairs),
        "bounds": _bounds(ladder[0], args),
        "seed": args.seed,
        "disturbances": disturbed,
        "backend": args.backend,
        "test": "betting (arXiv 2010.09686) down the ladder, fixed sequence, first failure stops",
    }


def _judge_reference(returns: np.ndarray, args: CertifyArgs) -> None:
    """Refuse a reference that returns so little that no candidate could be told to be as good.

    Raises:
        ConfigError: says how many pairs it would take.
    """
    most, share = args.pairs[1], float(returns.mean())
    if (needed := fewest(share, loss=args.loss, confidence=args.confidence)) > most:
        raise ConfigError(
            f"the reference returns {share:.1%} of what is possible. Even a candidate that never loses would need "
            f"{'more than a million' if needed > 1e6 else needed} pairs to show it, --pairs allows {most}: train the "
            "reference longer, tolerate a larger --loss, allow more --pairs, or give tighter --bounds"
        )


# Down the ladder ---------------------------------------------------------------------------------------------------


def _judged(rung: Rung, reference: Rung, record: Record, args: CertifyArgs) -> Row:
    """Play pairs until a rung is certified, fails, or has played as many as it may."""
    (least, most), count, verdict = args.pairs, 0, "undecided"
    before = after = np.zeros(0)
    while count < most and verdict != "fails" and not (verdict == "certified" and count >= least):
        count += 1
        before, after = record.returns(reference, count), record.returns(rung, count)
        verdict = judged(before, after, loss=args.loss, confidence=args.confidence)
        if count % EVERY == 0:
            log.info("%s: %d pairs, mean loss %.1f %%", rung.path, count, 100 * _loss(before, after))
    severe = int((after[:least] < (1 - SEVERE) * before[:least]).sum())
    return {
        "candidate": str(rung.path),
        "macs": rung.macs,
        "macs_left": rung.macs / reference.macs,
        "verdict": verdict,
        "pairs": count,
        "reference_return": float(before.mean()),
        "return": float(after.mean()),
        "loss": _loss(before, after),
        "loss_upper": loss_bound(before, after, confidence=args.confidence),
        "severe": severe,
        "severe_of": min(count, least),
        "severe_upper": upper_bound(severe, least, args.confidence) if count >= least else None,
    }


def _loss(reference: np.ndarray, candidate: np.ndarray) -> float:
    return 1 - float(candidate.mean() / max(reference.mean(), 1e-9))


def _result(rows: list[Row], args: CertifyArgs) -> Row:
    certified = sum(row["verdict"] == "certified" for row in rows)  # none comes after a failure
    return {"certified": certified, "limit": _sentence(rows, certified, args), "rungs": rows}


def _sentence(rows: list[Row], certified: int, args: CertifyArgs) -> str:
    promise = f"the mean loss is below {args.loss:.1%} with {args.confidence:.1%} confidence".replace(".0%", " %")
    if not certified:
        return f"no candidate is certified: nobody knows that {promise}; {rows[0]['pairs']} pairs of episodes"
    row = rows[certified - 1]
    return f"{1 - row['macs_left']:.1%} of the multiply-adds may go: {promise}; {row['pairs']} pairs of episodes"


def _store(rung: Rung, certificate: Row) -> None:
    """Leave a candidate's certificate, or that it has none, in its manifest or its run folder."""
    if rung.bundle is None:
        runs.write_json(rung.path / f"{CERTIFICATE}.json", certificate)
    else:
        runs.write_json(rung.path / bundle.MANIFEST, {**rung.bundle.manifest, CERTIFICATE: certificate})


def _show(result: Row) -> None:
    table = Table(
        "candidate", "left", "verdict", "pairs", "loss", "at most", f"lose over {SEVERE:.0%}, at most", "late, at most"
    )
    for row in result["rungs"]:
        severe = "-" if row["severe_upper"] is None else f"{row['severe_upper']:.1%}"
        late = "-" if row["deadlines"] is None else f"{row['deadlines']['miss_upper']:.2g}"
        figures = (f"{row['macs_left']:.1%}", row["verdict"], str(row["pairs"]))
        losses = (f"{row['loss']:.1%}", f"{row['loss_upper']:.1%}", severe, late)
        table.add_row(Path(row["candidate"]).name, *figures, *losses)
    Console().print(table)
