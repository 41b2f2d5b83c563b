"""The search of ``tdmpc tune``: measure, try candidates, compare the last few, export one. Optuna keeps all of it."""

import logging
import os
import shutil
from collections.abc import Callable
from operator import attrgetter
from statistics import fmean
from typing import TYPE_CHECKING, Any, get_args

from tdmpc import machine, runs
from tdmpc.config import ConfigError, Precision, to_json
from tdmpc.deploy import bundle
from tdmpc.deploy.export import export
from tdmpc.evaluation import EVALUATION_STREAM
from tdmpc.scripts import tune_latency
from tdmpc.scripts.tune_candidates import Candidate, Space, quickest, subjects_of, worse

try:
    import optuna
    from optuna.trial import FrozenTrial, TrialState
except ImportError as error:
    raise ImportError("tuning needs Optuna: pip install 'tdmpc[train,export,tune]'") from error

if TYPE_CHECKING:
    from tdmpc.scripts.tune import TuneArgs

log = logging.getLogger("tdmpc")
optuna.logging.set_verbosity(optuna.logging.WARNING)  # what it tells, we tell in fewer words

FRESH = 1_000_000
"""Added to the seed of the episodes on which the last few are compared: the search has not seen these."""
FINALISTS = 3
AS_GOOD = 0.01
"""Part of the best return that a quicker controller may lack and still be taken for as good."""
TUNING = "tuning"
"""The part of a manifest that says how the controller was chosen."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
VALUE = attrgetter("value")  # the return of a candidate that was not stopped

Row = dict[str, Any]


def study_of(args: "TuneArgs", steps: dict[str, int]) -> optuna.Study:
    """The search so far, or a new one.

    Raises:
        ConfigError: the one that is kept there asks for something else.
    """
    path = args.out.with_name(f"{args.out.name}.sqlite3")
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("period_ms", "share", "slowdown", "episodes", "fresh_episodes", "seed", "threads")
    asked = {name: getattr(args, name) for name in names} | {"latency_at": str(args.latency_at), "agents": steps}
    study = optuna.create_study(
        storage=f"sqlite:///{path}", study_name="tune", direction="maximize", load_if_exists=True
    )
    study.sampler = optuna.samplers.TPESampler(seed=args.seed + len(study.trials))
    known = study.user_attrs.get("asked", asked)
    if changed := [name for name in asked if known[name] != asked[name]]:
        raise ConfigError(
            f"{path} is a search with other {', '.join(changed)}: give it the same, choose another --out, or remove it"
        )
    study.set_user_attr("asked", asked)
    return study


class Search:
    """One search: what it asks, what was measured and played for it. All of it is in its database."""

    def __init__(self, args: "TuneArgs") -> None:
        self.args = args
        self.subjects = subjects_of(args.runs)
        self.study = study_of(args, {name: subject.step for name, subject in self.subjects.items()})
        self.runtimes = tune_latency.runtimes(args.threads, args.priority)
        self.slower = dict.fromkeys(self.runtimes, args.slowdown)
        if args.latency_at is not None:
            self.slower = tune_latency.slowdowns(args.latency_at, self.runtimes)
        computed = {name.split()[1] for name in self.slower}
        self.space = Space(self.subjects, tuple(each for each in get_args(Precision) if each in computed))
        self.costs = self._costs()
        self.starts = self.space.starts(lambda candidate: self._p99(candidate)[0] / self.limit_ms(candidate))
        self.returns = {
            (trial.user_attrs["candidate"], episode): value
            for trial in self.study.get_trials(deepcopy=False, states=[*ENDED, TrialState.RUNNING, TrialState.FAIL])
            for episode, value in trial.intermediate_values.items()
        }
        """Played already, by candidate and number of the episode."""
        self.chosen = ""
        """The candidate whose bundle was kept."""

    def _costs(self) -> dict[str, tune_latency.Costs]:
        """Of every agent, measured once."""
        parts = {
            name: self._kept(
                f"what a decision of {name} costs",
                lambda subject=subject: tune_latency.costs(subject.run, subject.planner, self.runtimes),
            )
            for name, subject in self.subjects.items()
        }
        (name, first), *_ = self.subjects.items()
        delays = sorted({delay for subject in self.subjects.values() for delay in subject.delays})
        added = self._kept(
            "what a controller adds",
            lambda: tune_latency.overheads(first.run, first.planner, self.runtimes, parts[name], delays),
        )
        return {name: {each: {**part[each], **added[each]} for each in part} for name, part in parts.items()}

    def _kept(self, what: str, measure: Callable[[], tune_latency.Costs]) -> tune_latency.Costs:
        """A measurement, made once in a search."""
        if what not in self.study.user_attrs:
            log.info("measuring %s", what)
            self.study.set_user_attr(what, measure())
        return self.study.user_attrs[what]

    def limit_ms(self, candidate: Candidate) -> float:
        """What its decisions may take, on the board."""
        return self.args.share * self.args.period_ms * max(candidate.delay, 1)

    def _p99(self, candidate: Candidate) -> tuple[float, str]:
        return quickest(candidate, self.subjects[candidate.agent], self.costs[candidate.agent], self.slower)

    def run(self) -> None:
        """Try candidates until there are enough, or the time is over."""
        trials = self.study.get_trials(deepcopy=False)
        done = [trial.params for trial in trials if trial.state in ENDED]
        lost = [trial for trial in trials if trial.state in (TrialState.RUNNING, TrialState.FAIL)]  # by a kill
        for trial in lost:
            if trial.state is TrialState.RUNNING:
                self.study.tell(trial.number, state=TrialState.FAIL)
        for choice in [trial.params for trial in lost if trial.params not in done] if trials else self.starts:
            self.study.enqueue_trial(choice)
        if (left := self.args.trials - len(done)) > 0:
            self.study.optimize(self._try, left, timeout=60 * self.args.minutes, callbacks=[self._tell])

    def _try(self, trial: optuna.Trial) -> float:
        candidate = self.space.suggest(trial)
        p99, runtime = self._p99(candidate)
        facts = {"candidate": str(candidate), "settings": to_json(candidate), "p99_ms": p99, "runtime": runtime}
        for name, value in facts.items():
            trial.set_user_attr(name, value)
        trial.set_constraint("p99", p99 / self.limit_ms(candidate) - 1)
        if p99 > self.limit_ms(candidate) and trial.params not in self.starts:
            raise optuna.TrialPruned
        for episode in range(self.args.episodes):
            trial.report(self._played(candidate, episode), episode)
            if self._beaten(candidate, p99, episode + 1):
                raise optuna.TrialPruned
        return fmean(self._played(candidate, episode) for episode in range(self.args.episodes))

    def _beaten(self, candidate: Candidate, p99: float, episodes: int) -> bool:
        """Whether the best of those that are no slower returned more in these episodes, beyond chance."""
        complete = self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
        rivals = [trial for trial in complete if trial.user_attrs["p99_ms"] <= p99]
        own = [self._played(candidate, episode) for episode in range(episodes)]
        return bool(rivals) and worse(own, max(rivals, key=VALUE).intermediate_values)

    def _played(self, candidate: Candidate, episode: int) -> float:
        key = str(candidate), episode
        if key not in self.returns:
            seed = self.args.seed + EVALUATION_STREAM + episode
            self.returns[key] = self.subjects[candidate.agent].play(candidate, seed=seed)
        return self.returns[key]

    def _tell(self, study: optuna.Study, trial: FrozenTrial) -> None:
        if [each.user_attrs["candidate"] for each in self._ended()].count(trial.user_attrs["candidate"]) > 1:
            return  # proposed once more, known already
        returns = list(trial.intermediate_values.values())
        worth = f"return {fmean(returns):.1f} over {len(returns)} episodes" if returns else "too slow, not played"
        told = (trial.number + 1, self.args.trials, trial.user_attrs["candidate"], trial.user_attrs["p99_ms"], worth)
        log.info("%d of %d: %s: %.2f ms, %s", *told)

    def _ended(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=ENDED)

    # What it ends with ---------------------------------------------------------------------------------------------

    def fitting(self) -> list[FrozenTrial]:
        """All that fit and were played to the end, each once, the best first.

        Raises:
            ConfigError: none fits; the message names the nearest one and what would have to change.
        """
        ended = [trial for trial in self._ended() if trial.state is TrialState.COMPLETE]
        fit = sorted((trial for trial in ended if trial.constraints["p99"] <= 0), key=VALUE)
        if not fit:
            nearest = min(self._ended(), key=lambda trial: trial.constraints["p99"])
            p99, times = nearest.user_attrs["p99_ms"], nearest.constraints["p99"] + 1
            raise ConfigError(
                f"no candidate decides within {self.args.share * self.args.period_ms:g} ms; the nearest is "
                f"{nearest.user_attrs['candidate']}, with {p99:.3g} ms. Give it --period-ms "
                f"{1.05 * times * self.args.period_ms:.2g}, a board {times:.2g} times as quick, or a smaller agent"
            )
        return sorted({trial.user_attrs["candidate"]: trial for trial in fit}.values(), key=VALUE, reverse=True)

    def fresh(self, trial: FrozenTrial) -> list[float]:
        """Returns of a candidate in episodes that the search has not seen."""
        candidate, key = Candidate(**trial.user_attrs["settings"]), f"fresh {trial.user_attrs['candidate']}"
        found: list[float] = list(self.study.user_attrs.get(key, []))
        for number in range(len(found), self.args.fresh_episodes):
            seed = self.args.seed + EVALUATION_STREAM + FRESH + number
            found.append(self.subjects[candidate.agent].play(candidate, seed=seed))
            self.study.set_user_attr(key, found)
        return found

    def export(self) -> None:
        """Compare the best on fresh episodes; of those that are as good, export the quickest if its bundle fits.

        Raises:
            ConfigError: none fits.
        """
        top = max(self.study.get_trials(deepcopy=False, states=[TrialState.COMPLETE]), key=VALUE)
        left, slower = self.fitting(), 1.0  # than predicted; where one bundle is, others are too
        while finalists := [each for each in left if slower * each.user_attrs["p99_ms"] <= self._limit(each)]:
            finalists = finalists[:FINALISTS]
            log.info("comparing the best %d on %d fresh episodes", len(finalists), self.args.fresh_episodes)
            worth = {each.number: fmean(self.fresh(each)) for each in [*finalists, top]}
            least = max(worth[each.number] for each in finalists)
            good = [each for each in finalists if worth[each.number] >= least - AS_GOOD * abs(least)]
            chosen = min(good, key=lambda trial: trial.user_attrs["p99_ms"])
            best = {"best": top.user_attrs["candidate"], "best_return_mean": worth[top.number]}
            if self._export(chosen, worth[chosen.number], best):
                return
            left.remove(chosen)
            bundle_ms = self.study.user_attrs[f"bundle {chosen.user_attrs['candidate']}"]
            slower = max(slower, bundle_ms / chosen.user_attrs["p99_ms"])
        raise ConfigError(
            "no bundle of the best candidates decides within its time, though their parts did: is the machine busy "
            "with something else? Give the same command again, or a smaller --share"
        )

    def _limit(self, trial: FrozenTrial) -> float:
        return self.limit_ms(Candidate(**trial.user_attrs["settings"]))

    def _export(self, trial: FrozenTrial, worth: float, best: Row) -> bool:
        """Export a candidate, with what was found of it in the manifest; whether its bundle is quick enough to stay."""
        candidate, runtime = Candidate(**trial.user_attrs["settings"]), trial.user_attrs["runtime"]
        staged = self.args.out.with_name(f".{self.args.out.name}.tuned")
        shutil.rmtree(staged, ignore_errors=True)
        log.info("exporting %s", candidate)
        manifest = export(self.subjects[candidate.agent].run, staged, candidate.export)
        load = os.getloadavg()[0]
        here = tune_latency.of_bundle(staged, self.runtimes[runtime], policy=candidate.policy == "prior")
        there = self.slower[runtime] * here
        self.study.set_user_attr(f"bundle {candidate}", there)
        if there > self.limit_ms(candidate):
            log.info("its bundle takes %.2f ms, and may take %.2f", there, self.limit_ms(candidate))
            shutil.rmtree(staged)
            return False
        found = {
            "candidate": str(candidate),
            **to_json(candidate),
            "runtime": runtime,
            "threads": self.args.threads,
            "period_ms": self.args.period_ms,
            "limit_ms": self.limit_ms(candidate),
            "slowdown": self.slower[runtime],
            "p99_ms": there,
            "return_mean": worth,
            "episodes": self.args.fresh_episodes,
            **best,
            "candidates": len({each.user_attrs["candidate"] for each in self._ended()}),
            "processor": machine.processor(),
            "load_average": round(load, 2),
        }
        runs.write_json(staged / bundle.MANIFEST, {**manifest, TUNING: found})
        os.replace(staged, self.args.out)
        self.chosen = str(candidate)
        return True

    def rows(self) -> list[Row]:
        """What was played, each candidate once."""
        found: dict[str, Row] = {}
        for trial in self._ended():
            told, returns = trial.user_attrs, list(trial.intermediate_values.values())
            if len(returns) <= found.get(told["candidate"], {"episodes": 0})["episodes"]:
                continue  # not played, or not as far as before
            fresh = self.study.user_attrs.get(f"fresh {told['candidate']}", [])
            settings = told["settings"]
            left = self.subjects[settings["agent"]].left
            size = "dense" if left == 1 else f"{left:.0%} of the multiply-adds"
            found[told["candidate"]] = {
                "candidate": told["candidate"],
                **settings,
                "agent": f"{settings['agent']} ({size})",
                "runtime": told["runtime"],
                "p99_ms": self.study.user_attrs.get(f"bundle {told['candidate']}", told["p99_ms"]),
                "return_mean": fmean(returns),
                "episodes": len(returns),
                "stopped": trial.state is TrialState.PRUNED,
                "chosen": told["candidate"] == self.chosen,
                "fits": trial.constraints["p99"] <= 0,
                "fresh_return_mean": fmean(fresh) if fresh else None,
            }
        return list(found.values())
