"""The command ``tdmpc``: one short file for each sub-command."""

import difflib
import errno
import importlib
import logging
import os
import select
import sys

COMMANDS = {
    "train": "train an agent, or go on with a run",
    "prune": "make the agent of a finished run smaller and faster",
    "evaluate": "play episodes with a trained agent",
    "robustness": "return under noise, faults and other dynamics, agents side by side",
    "envs": "list the environments that can be trained",
    "report": "draw what a run did and what pruning did to it, as one page",
    "sparsity": "how compressible an agent is, and what theory lets go",
    "plot": "draw the learning curves of several runs",
    "bench": "measure plans, updates and decisions",
    "suite": "run tasks x methods x seeds of an experiment, here or on a cluster",
    "results": "keep what suites found as small tables, and show it in the pages",
    "export": "make a controller of a run that needs no PyTorch",
    "validate": "play a controller in its environment, beside its agent",
    "latency": "time controllers, one call after the other or at a control period",
    "tune": "find the controller that returns most within a control period",
    "native": "build and run the controller in C++",
    "autoencoder": "prune an autoencoder by every criterion and compare",
    "demo": "train a pruned and a dense agent, show, export and time them, in minutes",
}


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
    name, *rest = arguments
    if name not in COMMANDS:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        return _fail(f"there is no command {name!r}.{hint} See: tdmpc --help")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for chatty in ("absl", "OpenGL"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        status = importlib.import_module(f"scripts.{name}").main(rest)
        sys.stdout.flush()
        return status
    except KeyboardInterrupt as stopped:
        if str(stopped):  # how to go on
            print(stopped, file=sys.stderr)
        return 130
    except Exception as error:
        return _failed(error)


def _start_with_large_pages() -> None:
    """Start this process again with ``LARGE_PAGES``: the C library reads them only at its start."""
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = LARGE_PAGES
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _failed(error: Exception) -> int:
    """Tell what a user can cause or mend; a fault of ours is raised anew and keeps its traceback."""
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        _let_go_of_output()
        return 1
    line = _line(error)
    if not line:
        raise error
    return _fail(line)


def _line(error: Exception) -> str:
    """What the user is told; nothing of a fault of ours."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("tyro", "rich"):
        return "the command line needs: pip install 'tdmpc[train]', or on a robot 'tdmpc[deploy,latency]'"
    if isinstance(error, ImportError):
        return str(error) if "pip install" in str(error) else ""
    if isinstance(error, OSError):
        return _line_of_disk(error)
    if isinstance(error, MemoryError) or any(words in str(error) for words in OUT_OF_MEMORY):
        return f"{NO_MEMORY} ({' '.join(str(error).split())[:200] or 'of everything together'})"
    from scripts.errors import EXPECTED

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
    return f"usage: tdmpc COMMAND ...\n\n{rows}\n\n'tdmpc COMMAND --help' explains every option."


if __name__ == "__main__":
    sys.exit(main())
