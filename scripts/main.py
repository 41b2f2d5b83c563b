"""The command ``tdmpc``: one short file for each sub-command."""

import difflib
import errno
import importlib
import logging
import os
import select
import sys
from importlib.metadata import version

COMMANDS = {
    "train": "train an agent, or go on with a run",
    "prune": "make the agent of a finished run smaller and faster",
    "evaluate": "play episodes with a trained agent",
    "play": "watch an agent or a controller, push it, switch what decides",
    "robustness": "compare the returns of agents under noise, faults and other dynamics",
    "certify": "tell how much smaller a controller may be and still be known to be as good",
    "stability": "measure by size whether the value falls, what is caught, and how far predictions err",
    "envs": "list the environments that can be trained",
    "report": "draw what a run did and what pruning did to it, as one page",
    "sparsity": "measure how compressible an agent is, and how many weights theory spares",
    "plot": "draw the learning curves of several runs",
    "bench": "measure plans, updates and decisions",
    "suite": "run tasks x methods x seeds of an experiment, here or on a cluster",
    "results": "turn what suites found into small tables, and fill the pages from them",
    "export": "make a controller from a run; it needs no PyTorch",
    "validate": "play a controller in its environment, beside its agent",
    "check": "compare a robot's description or its log with what a bundle expects",
    "latency": "time controllers, call after call or at a control period",
    "replay": "decide again what a controller recorded, and compare bit for bit",
    "tune": "find the controller that returns most within a control period",
    "native": "build and run the controller in C++",
    "autoencoder": "prune an autoencoder by every criterion and compare",
    "demo": "train a pruned and a dense agent in minutes, then show, export and time them",
}


ON_A_ROBOT = ("latency", "replay", "native")
"""Commands that need no PyTorch."""
TRAINING = (
    "torch",
    "gymnasium",
    "pydantic",
    "jaxtyping",
    "pandas",
    "matplotlib",
    "onnx",
    "onnxscript",
    "mujoco",
    "scipy",
)
"""What only the others import."""

EXAMPLES = {
    "train": ("cartpole-swingup", "mymodule:MyRobot-v0 --delay 1 --prune.target 0.75", "settings.toml --seed 1"),
    "prune": ("runs/walker-walk-v0-0 --target 0.9",),
    "evaluate": ("runs/walker-walk-v0-0 --episodes 20 --video",),
    "play": ("runs/walker-walk-v0-0", "bundle --video play.mp4"),
    "robustness": ("runs/walker-walk-v0-0 runs/walker-walk-v0-0-pruned",),
    "certify": ("runs/dense runs/dense-0.5 runs/dense-0.75 --loss 0.05",),
    "stability": ("runs/dense runs/dense-0.75 --out stability",),
    "envs": ("walker",),
    "report": ("runs/walker-walk-v0-0",),
    "sparsity": ("runs/walker-walk-v0-0",),
    "plot": ("runs/walker-walk-v0-0 runs/walker-walk-v0-1 --env walker-walk",),
    "bench": ("--setting default --threads 1",),
    "suite": ("experiment.toml --workers 2",),
    "results": ("collect runs/suites/learning",),
    "export": ("runs/walker-walk-v0-0 --out bundle",),
    "validate": ("bundle --episodes 5", "bundle --real-time --slowdown 10"),
    "check": ("bundle --log drive.csv",),
    "latency": ("bundle --period-ms 20",),
    "replay": ("flight.mcap --bundle bundle",),
    "native": ("build", "run bundle"),
    "autoencoder": ("--seeds 0 1 2",),
    "demo": ("--threads 1",),
}
"""How each command is called; ``--help`` ends with it."""

ELSEWHERE = {
    **dict.fromkeys(("--total-timesteps", "--timesteps", "--num-timesteps", "--steps", "--max-steps"), "--env-steps"),
    **dict.fromkeys(("--n-envs", "--num-environments"), "--num-envs"),
    **dict.fromkeys(("--env", "--env-id", "--task"), "its name alone: tdmpc train cartpole-swingup"),
    **dict.fromkeys(("--learning-rate", "--lr"), "--loss.learning-rate"),
    **dict.fromkeys(("--gamma", "--discount"), "--loss.discount"),
    **dict.fromkeys(("--buffer-size", "--buffer"), "--replay.capacity"),
    **dict.fromkeys(("--learning-starts", "--seed-steps", "--start-steps"), "--random-steps"),
    **dict.fromkeys(("--eval-freq", "--eval-interval"), "--eval-every"),
    **dict.fromkeys(("--n-eval-episodes", "--num-eval-episodes"), "--eval-episodes"),
    **dict.fromkeys(("--num-samples", "--samples"), "--planner.samples"),
    **dict.fromkeys(("--latent-dim",), "--model.latent"),
    **dict.fromkeys(("--logdir", "--log-dir", "--save-dir", "--output-dir", "--exp-name"), "--run-dir"),
    **dict.fromkeys(("--capture-video", "--save-video"), "--video"),
    **dict.fromkeys(("--use-wandb", "--wandb-mode"), "--wandb online"),
}
"""Options of ``train`` by the names that other projects give them."""

LARGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1073741824"
"""An update allocates and frees hundreds of megabytes: keeping them, in large pages, saves a seventh of its time."""


REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "Free some space"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "Make it writable or choose another place"),
    **dict.fromkeys(
        (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG), "Choose another place"
    ),
    errno.EFBIG: "Raise the limit on the size of files",
    errno.EIO: "Look after the disk",
}
"""What helps where a file cannot be written or read."""
OUT_OF_MEMORY = (
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA out of memory",
    "Storage size calculation overflowed",
    "array is too big",
)
"""What errors say of it that are not ``MemoryError``: PyTorch's, and one of numpy's."""
NO_MEMORY = (
    "there is not enough memory for this. Choose less: --replay.capacity, --planner.samples, --batch-size, --num-envs, "
    "--windows or narrower layers; or a larger machine"
)
UNNAMED = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What standard output can raise; it tells no name. Whoever writes a file names it (``tdmpc.files.naming``)."""


def main(arguments: list[str] | None = None) -> int:
    """Run a sub-command; what a user can cause is one line on standard error."""
    if arguments is None:
        _start_with_large_pages()
        arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0
    if arguments[0] == "--version":
        print(f"tdmpc {version('tdmpc')}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return _fail(f"there is no command {name!r}.{hint} See: tdmpc --help")
    if name == "train" and (foreign := _of_other_projects(rest)):
        return _fail(f"{foreign} is called otherwise here: {ELSEWHERE[foreign]}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("absl", "OpenGL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    return _run(name, rest)


def _run(name: str, rest: list[str]) -> int:
    try:
        status = importlib.import_module(f"tdmpc.scripts.{name}").main(rest)
        sys.stdout.flush()
        return status
    except SystemExit as left:
        if not left.code:  # --help
            print("examples:", *(f"  tdmpc {name} {words}" for words in EXAMPLES[name]), sep="\n")
        raise
    except KeyboardInterrupt as stopped:
        if str(stopped):  # how to go on
            print(stopped, file=sys.stderr)
        return 130
    except Exception as error:
        return _failed(name, error)


def _of_other_projects(words: list[str]) -> str | None:
    """The first option that another project would take."""
    options = (word.partition("=")[0].replace("_", "-") for word in words)
    return next((option for option in options if option in ELSEWHERE), None)


def _start_with_large_pages() -> None:
    """Start this process again with ``LARGE_PAGES``: the C library reads them only at its start."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = LARGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _failed(name: str, error: Exception) -> int:
    """Tell what a user can cause or mend; a fault of ours is raised anew and keeps its traceback."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        _let_go_of_output()
        return 1
    line = _line(name, error)
    if not line:
        raise error
    return _fail(line)


def _line(name: str, error: Exception) -> str:
    """What the user is told; nothing of a fault of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name in TRAINING:
        return (
            f"'tdmpc {name}' runs where the agent was trained, and needs {error.name}: pip install "
            f"'tdmpc[train,export]'. On a robot there are {', '.join(ON_A_ROBOT)}"
        )
    if isinstance(error, ModuleNotFoundError) and error.name in ("tyro", "rich"):
        return "the command line needs: pip install 'tdmpc[train]', or on a robot 'tdmpc[deploy,latency]'"
    if isinstance(error, ImportError):
        return str(error) if "pip install" in str(error) else ""
    if isinstance(error, OSError):
        return _line_of_disk(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return f"{NO_MEMORY} ({' '.join(str(error).split())[:200] or 'of everything together'})"
    from tdmpc.scripts.errors import EXPECTED

    return str(error) if isinstance(error, EXPECTED) else ""


def _line_of_disk(error: OSError) -> str:
    """Path, reason, remedy and how to go on."""
    remedy = REMEDIES.get(error.errno or 0)
    if remedy is None or (error.filename is None and error.errno not in UNNAMED):
        return ""
    if error.filename is None:
        _let_go_of_output()
    then = next(iter(getattr(error, "__notes__", ())), "run the command again")
    return f"{error.filename or 'standard output'}: {error.strerror}. {remedy}, then {then}"


def _nobody_reads() -> bool:
    """Whether standard output is a pipe whose reader has left."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)  # errors are told in any case
    return bool(output.poll(0))


def _let_go_of_output() -> None:
    """Where what was printed finds no room, drop it: Python would try again at its end, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _fail(message: str) -> int:
    print(f"error: {message}", file=sys.stderr)
    return 2


def _usage() -> str:
    rows = "\n".join(f"  {name:<11} {text}" for name, text in COMMANDS.items())
    more = "'tdmpc COMMAND --help' explains every option; 'tdmpc --version' tells the version."
    return f"usage: tdmpc COMMAND ...\n\n{rows}\n\n{more}"


if __name__ == "__main__":
    sys.exit(main())
