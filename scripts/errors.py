"""What a user can cause, and is told in one line."""

from importlib.util import find_spec

from tdmpc.deploy.bundle import BundleError


class ResultsError(ValueError):
    """Results cannot be read, or shown where a page asks for them; the message says what to do."""


EXPECTED: tuple[type[Exception], ...] = (BundleError, ResultsError)

if find_spec("torch") is not None:  # on a robot there is only ``deploy``
    from tdmpc.agent import NonFiniteError
    from tdmpc.checkpoint import CheckpointError
    from tdmpc.compression.config import PruneError
    from tdmpc.compression.records import RecordError
    from tdmpc.config import ConfigError
    from tdmpc.env_faults import EnvironmentFault
    from tdmpc.env_names import UnsupportedEnvironment
    from tdmpc.metrics import MetricsError
    from tdmpc.runs import RunError

    EXPECTED += (CheckpointError, ConfigError, EnvironmentFault, MetricsError, NonFiniteError, PruneError, RunError)
    EXPECTED += (RecordError, UnsupportedEnvironment)
