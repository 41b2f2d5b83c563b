"""A run in Weights & Biases, a courtesy that never stops it."""

import contextlib
import logging
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from tdmpc.metrics import Row, Sink, grouped

logger = logging.getLogger(__name__)

WandbMode = Literal["disabled", "offline", "online"]
SETTINGS = {
    "console": "off",  # the run folder has the log, and wandb would intercept the progress bar
    "init_timeout": 30.0,
    "finish_timeout": 60.0,  # without a network finish() would wait for ever; the data stays on disk
    "x_transaction_log_flush_interval": 1.0,  # what a SIGKILL can cost, in seconds; 15 otherwise
}


class WandbSink(Sink):
    """Weights & Biases, with environment steps on every chart's x-axis.

    ``disabled`` does nothing and never imports wandb. In the other modes wandb has to be installed;
    whatever else goes wrong with it, now or later, is one warning, and from then on the sink is quiet.
    The id that a resumed run goes on with is kept in the run folder. An offline run that was resumed
    leaves one folder for each part under ``wandb/``, all with this id; ``wandb sync`` joins them.

    W&B takes nothing back: what a resumed run makes again, its last evaluation included, stands there twice, and once
    in ``metrics.jsonl``. The checkpoint that W&B gets has the agent and its optimisers; the rows of the replay stay in
    the run folder.
    """

    def __init__(
        self,
        mode: WandbMode,
        *,
        project: str = "tdmpc",
        config: Mapping[str, Any],
        run_dir: str | Path,
        name: str | None = None,
        group: str | None = None,
        tags: Iterable[str] = (),
    ) -> None:
        """Start the run, or resume it.

        Args:
            mode: ``disabled``, ``offline`` (files under ``run_dir``, for ``wandb sync``) or ``online``.
            project: W&B project.
            config: what the run was started with; nested dictionaries are fine.
            run_dir: the run folder, which keeps the id.
            name: display name.
            group: W&B group, for example the task whose seeds belong together.
            tags: W&B tags.
        """
        self._run: Any = None
        if mode == "disabled":
            return
        try:  # by name: a folder wandb/ in the working directory also imports as an empty package
            from wandb import Artifact, Histogram, Image, Settings, Table, Video, init
        except ImportError as error:
            raise ImportError(f"--wandb {mode} needs Weights & Biases: pip install 'tdmpc[train]'") from error
        self._artifact_type, self._video_type = Artifact, Video
        self._image_type, self._table_type, self._histogram_type = Image, Table, Histogram
        with self._never_raising("start"):
            run = init(
                mode=mode,
                project=project,
                name=name,
                group=group,
                tags=list(tags),
                config=dict(config),
                dir=str(run_dir),
                id=_kept_run_id(Path(run_dir)),
                resume="allow",
                allow_val_change=True,
                reinit="create_new",
                settings=Settings(**_known(Settings, SETTINGS)),
            )
            run.define_metric("env_steps")
            run.define_metric("*", step_metric="env_steps")
            self._run = run

    def log(self, row: Row) -> None:
        with self._never_raising("log"):
            if self._run:
                self._run.log({"env_steps": row["env_steps"], **grouped(row)})

    def video(self, path: Path, env_steps: int) -> None:
        with self._never_raising("log a video"):
            if self._run:
                self._run.log({"env_steps": env_steps, "eval/video": self._video_type(str(path), format="mp4")})

    def image(self, name: str, path: Path, env_steps: int) -> None:
        with self._never_raising("log a picture"):
            if self._run:
                self._run.log({"env_steps": env_steps, name: self._image_type(str(path))})

    def table(self, name: str, rows: Sequence[Mapping[str, Any]], env_steps: int) -> None:
        with self._never_raising("log a table"):
            if self._run and rows:
                columns: list[Any] = list(dict.fromkeys(column for row in rows for column in row))
                cells: list[Any] = [[row.get(column) for column in columns] for row in rows]
                self._run.log({"env_steps": env_steps, name: self._table_type(columns=columns, data=cells)})

    def histogram(self, name: str, values: Sequence[float], env_steps: int) -> None:
        with self._never_raising("log a histogram"):
            if self._run:
                self._run.log({"env_steps": env_steps, name: self._histogram_type(list(values))})

    def artifact(self, path: Path, env_steps: int) -> None:
        with self._never_raising("log a checkpoint"):
            if self._run:
                artifact = self._artifact_type(
                    f"checkpoint-{self._run.id}", type="model", metadata={"env_steps": env_steps}
                )
                artifact.add_file(str(path))
                self._run.log_artifact(artifact, aliases=["latest", f"step-{env_steps}"])

    def close(self) -> None:
        run, self._run = self._run, None
        with self._never_raising("finish"):
            if run:
                run.finish()

    @contextlib.contextmanager
    def _never_raising(self, attempt: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever a tracker can raise: the run is worth more
            self._run = None
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            logger.warning("W&B could not %s, the run goes on without it: %s", attempt, reason)
            logger.debug("W&B could not %s", attempt, exc_info=True)


def _known(settings: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that this version of wandb has; it refuses unknown ones."""
    return {name: value for name, value in values.items() if name in settings.model_fields}


def _kept_run_id(run_dir: Path) -> str:
    """The id in the run folder, made when there is none."""
    path = run_dir / "wandb_id"
    if not path.exists():
        path.write_text(secrets.token_hex(4))
    return path.read_text().strip()
