"""The rules of the house, read from the source: who may import what, and what no file may contain.

A house is a mapping from paths to parsed files; a law takes a house and returns what breaks it.
The last tests hold each law against small houses that break it and that keep it.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "machine": (),
    "tdmpc": ("machine",),
    "compression": ("machine",),
    "deploy": ("machine", "tdmpc"),
    "scripts": ("machine", "tdmpc", "compression", "deploy"),
}
FRONT = "tdmpc/__init__.py"
"""The public interface: it names what all packages offer, and loads nothing of it before it is used."""
WIRING = "compression/tdmpc_agent/"
"""The one folder of ``compression`` that knows how TD-MPC is wired, and so imports it."""
RUN_TIME = ("deploy/__init__.py", "deploy/controller.py", "deploy/timing.py")
"""What runs on a robot, together with every file of ``deploy``, and ``machine.py``, that these import."""
EXTRAS = {
    "machine": (),
    "tdmpc": ("train", "tensorboard"),
    "compression": ("train",),
    "deploy": ("train", "deploy", "openvino", "export", "record"),
    "scripts": ("train", "suite", "deploy", "openvino", "export", "tune"),
}
"""The extras that a package may import from, besides the base dependencies."""
ROBOT = ("deploy", "machine")
"""Packages whose files a robot may load."""
RUN_TIME_EXTRAS = ("deploy", "openvino", "record")
DISTRIBUTIONS = {"sklearn": "scikit-learn", "triton": "torch"}
"""What is imported under another name than its distribution's, or comes with another one."""
JUNK_DRAWERS = {"common", "helper", "helpers", "misc", "util", "utils"}

OTHERWISE = {
    **dict.fromkeys(("forget", "forgets"), "reset"),
    **dict.fromkeys(("adopt", "adopted"), "replace"),
    **dict.fromkeys(("begin", "begun"), "start"),
    **dict.fromkeys(("follow", "followed"), "attach"),
}
"""Words that no name has, each with the one to say."""
LINKED = re.compile(r"^tdmpc\.(?=(machine|compression|deploy|scripts)\b)")
"""What leads from ``tdmpc`` to what is a package, or stands alone, in a house."""
LONGEST = 300
"""Lines of a module, at most."""

House = Mapping[str, ast.Module]
Law = Callable[[House], list[str]]
Node = TypeVar("Node", bound=ast.AST)


def package_of(path: str) -> str:
    """``deploy`` of ``deploy/a.py``, ``machine`` of ``machine.py``."""
    return path.split("/")[0].removesuffix(".py")


class Import(NamedTuple):
    """``from a.b import c`` is the target ``a.b.c``; ``tdmpc.deploy`` is ``deploy``, where its folder is."""

    path: str
    line: int
    target: str

    @property
    def package(self) -> str:
        return package_of(self.path)

    @property
    def top(self) -> str:
        return self.target.split(".")[0]

    def __str__(self) -> str:
        return f"{self.path}:{self.line} imports {self.target}"


def read_house(*packages: str) -> House:
    """The files of packages; ``tdmpc/machine.py`` stands alone, as all may import it."""
    files = [file for name in packages for file in sorted((ROOT / name).rglob("*.py"))]
    parsed = {file.relative_to(ROOT).as_posix(): ast.parse(file.read_bytes(), str(file)) for file in files}
    return {path.replace("tdmpc/machine.py", "machine.py"): tree for path, tree in parsed.items()}


def nodes(house: House, kind: type[Node]) -> Iterator[tuple[str, Node]]:
    return ((path, node) for path, tree in house.items() for node in ast.walk(tree) if isinstance(node, kind))


def calls(house: House, *names: str) -> Iterator[tuple[str, ast.Call]]:
    return ((path, call) for path, call in nodes(house, ast.Call) if ast.unparse(call.func) in names)


def imports(house: House) -> list[Import]:
    """All imports, with the names that packages have in a house."""
    return [use._replace(target=LINKED.sub("", use.target)) for use in stated(house)]


def stated(house: House) -> list[Import]:
    """All imports, whatever they are nested in; names given to ``import_module`` count."""
    found = [Import(path, node.lineno, name.name) for path, node in nodes(house, ast.Import) for name in node.names]
    for path, node in nodes(house, ast.ImportFrom):
        # In a/b/c.py one dot is a.b and two dots are a.
        parents = path.split("/")[: -node.level] if node.level else []
        origin = [*parents, *([node.module] if node.module else [])]
        found += [Import(path, node.lineno, ".".join([*origin, name.name])) for name in node.names]
    for path, call in calls(house, "importlib.import_module", "import_module", "__import__"):
        if call.args and isinstance(call.args[0], ast.Constant):
            found.append(Import(path, call.lineno, str(call.args[0].value)))
    return found


def run_time_half(house: House) -> House:
    """The files that a robot loads: the named ones and all of ours that they import, at once or later."""
    found: set[str] = set()
    waiting = [path for path in RUN_TIME if path in house]
    while waiting:
        path = waiting.pop()
        found.add(path)
        for use in imports({path: house[path]}):
            # deploy.a.b may be the file a.py with a name b, the file a/b.py or the package a/b.
            folders = use.target.replace(".", "/")
            names = (folders, folders.rpartition("/")[0])
            candidates = [f"{name}{ending}" for name in names for ending in (".py", "/__init__.py")]
            waiting += [file for file in candidates if file in house and file not in found and use.top in ROBOT]
    return {path: house[path] for path in sorted(found)}


def requirements(*extras: str) -> set[str]:
    """Names of the distributions that the base dependencies and these extras ask for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"])
    return {canonicalize_name(Requirement(line).name) for line in lines}


def undeclared(house: House, extras: tuple[str, ...]) -> list[str]:
    known = requirements(*extras)
    foreign = [use for use in imports(house) if use.top not in sys.stdlib_module_names and use.top not in MAY_IMPORT]
    return [str(use) for use in foreign if canonicalize_name(DISTRIBUTIONS.get(use.top, use.top)) not in known]


def wrong_way_imports(house: House) -> list[str]:
    ours = {*MAY_IMPORT, "tests"}
    return [
        str(use)
        for use in imports(house)
        if use.top in ours - {use.package, *MAY_IMPORT[use.package]}
        and use.path != FRONT
        and not (use.path.startswith(WIRING) and use.top == "tdmpc")
    ]


def second_copies(house: House) -> list[str]:
    """Imports of what is ours by another name than the installed one: a checkout would load it twice."""
    return [f"{use}: say tdmpc.{use.top}" for use in stated(house) if use.top in {*MAY_IMPORT} - {"tdmpc"}]


def run_time_torch(house: House) -> list[str]:
    return [str(use) for use in imports(run_time_half(house)) if use.top in ("torch", "tdmpc")]


def undeclared_imports(house: House) -> list[str]:
    robot = run_time_half(house)
    found = undeclared(robot, RUN_TIME_EXTRAS)
    for package, extras in EXTRAS.items():
        rest = {path: tree for path, tree in house.items() if package_of(path) == package and path not in robot}
        found += undeclared(rest, extras)
    return found


def module_names(house: House) -> Iterator[tuple[str, str]]:
    """The names of modules and of packages inside our packages; a package is known by its ``__init__``."""
    for path in house:
        *folders, file = path.removesuffix("/__init__.py").removesuffix(".py").split("/")
        if folders:
            yield path, file


def stdlib_namesakes(house: House) -> list[str]:
    return [path for path, name in module_names(house) if name in sys.stdlib_module_names]


def junk_drawers(house: House) -> list[str]:
    return [path for path, name in module_names(house) if JUNK_DRAWERS & set(name.split("_"))]


def prints(house: House) -> list[str]:
    return [f"{path}:{call.lineno}" for path, call in calls(house, "print") if not path.startswith("scripts/")]


def unsafe_loads(house: House) -> list[str]:
    def is_safe(call: ast.Call) -> bool:
        safety = [word.value for word in call.keywords if word.arg == "weights_only"]
        return [ast.unparse(value) for value in safety] == ["True"]

    unsafe = [f"{path}:{call.lineno}" for path, call in calls(house, "torch.load") if not is_safe(call)]
    return unsafe + [str(use) for use in imports(house) if use.target == "torch.load"]


def bare_excepts(house: House) -> list[str]:
    return [f"{path}:{handler.lineno}" for path, handler in nodes(house, ast.ExceptHandler) if handler.type is None]


def untold_settings(house: House) -> list[str]:
    """Settings of commands and configs without a word of what they are; a part that is a config tells its own."""
    return [
        f"{path}:{item.lineno} {ast.unparse(item.target)}"
        for path, kind in nodes(house, ast.ClassDef)
        if kind.name.endswith(("Args", "Config"))
        for item, after in zip(kind.body, [*kind.body[1:], None], strict=True)
        if isinstance(item, ast.AnnAssign)
        and not (isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant))
        and not re.search(r"Config|Args", ast.unparse(item.annotation))
    ]


def old_words(house: House) -> list[str]:
    """Functions, parameters and fields that are called otherwise in this field."""
    named = [(path, node.lineno, node.name) for path, node in nodes(house, ast.FunctionDef)]
    named += [(path, node.lineno, node.arg) for path, node in nodes(house, ast.arg)]
    named += [(path, node.lineno, ast.unparse(node.target)) for path, node in nodes(house, ast.AnnAssign)]
    return [
        f"{path}:{line} {name}: say {OTHERWISE[word]}"
        for path, line, name in named
        for word in name.split("_")
        if word in OTHERWISE and package_of(path) not in ROBOT
    ]


def long_modules(house: House) -> list[str]:
    def last(tree: ast.Module) -> int:
        return max((node.end_lineno or 0 for node in tree.body), default=0)

    lengths = {path: last(tree) for path, tree in house.items()}
    return [f"{path}: {length} lines" for path, length in lengths.items() if length > LONGEST]


def fixed_devices(house: House) -> list[str]:
    return [f"{path}:{text.lineno}" for path, text in nodes(house, ast.Constant) if "cuda:0" in str(text.value)]


def lawless_tests(house: House) -> list[str]:
    def is_law(docstring: str | None) -> bool:
        return bool(docstring) and docstring.endswith(".") and "\n\n" not in docstring

    tests = [(path, test) for path, test in nodes(house, ast.FunctionDef) if test.name.startswith("test_")]
    return [f"{path}:{test.lineno} {test.name}" for path, test in tests if not is_law(ast.get_docstring(test))]


@pytest.fixture(scope="module")
def house() -> House:
    return read_house(*MAY_IMPORT)


def test_every_package_is_read(house: House) -> None:
    """The laws below are asked of all packages."""
    assert {package_of(path) for path in house} == set(MAY_IMPORT)


def test_data_flows_one_way(house: House) -> None:
    """A package imports only those before it: compression knows tdmpc in one folder, deploy only tdmpc, scripts all
    packages; machine.py knows none."""
    assert wrong_way_imports(house) == []


def test_all_is_below_tdmpc(house: House) -> None:
    """All that is ours, tests apart, is imported from below ``tdmpc``, as it is installed."""
    assert second_copies({**house, **read_house("tests")}) == []


def test_a_robot_needs_no_torch(house: House) -> None:
    """What deploy runs on a robot imports neither torch nor tdmpc, not even later, inside a function."""
    assert run_time_torch(house) == []


def test_third_party_imports_are_declared(house: House) -> None:
    """What a package imports is in the base dependencies or in an extra that belongs to it."""
    assert undeclared_imports(house) == []


def test_no_module_hides_the_standard_library(house: House) -> None:
    """No module inside the packages is named like one of the standard library."""
    assert stdlib_namesakes(house) == []


def test_every_module_has_a_subject(house: House) -> None:
    """No module is called utils, common, misc or the like."""
    assert junk_drawers(house) == []


def test_packages_do_not_print(house: House) -> None:
    """Only the command line prints."""
    assert prints(house) == []


def test_loading_runs_no_code(house: House) -> None:
    """Every torch.load says weights_only=True."""
    assert unsafe_loads(house) == []


def test_no_error_is_swallowed_blindly(house: House) -> None:
    """Every except names what it catches."""
    assert bare_excepts(house) == []


def test_names_are_the_field_s_own(house: House) -> None:
    """No function, parameter or field outside deploy has a name for which the field has another word."""
    assert old_words(house) == []


def test_every_setting_is_told(house: House) -> None:
    """Every setting of a command or config says what it is: help and docs are made of that."""
    assert untold_settings(house) == []


def test_no_module_is_long(house: House) -> None:
    """No module has more than 300 lines."""
    assert long_modules(house) == []


def test_no_device_is_fixed(house: House) -> None:
    """No text names the first GPU: the device is a setting."""
    assert fixed_devices(house) == []


def test_every_test_states_its_law() -> None:
    """Every test has a docstring of one paragraph that ends with a full stop."""
    assert lawless_tests(read_house("tests")) == []


BREACHES: list[tuple[Law, dict[str, str]]] = [
    (wrong_way_imports, {"tdmpc/a.py": "import compression"}),
    (wrong_way_imports, {"tdmpc/a.py": "from deploy.export import export"}),
    (wrong_way_imports, {"tdmpc/a.py": "def f():\n    import scripts.main"}),
    (wrong_way_imports, {"tdmpc/a.py": "import tests"}),
    (wrong_way_imports, {"machine.py": "import tdmpc"}),
    (second_copies, {"tdmpc/a.py": "from tdmpc import deploy, scripts\nimport deploy.bundle"}),
    (undeclared_imports, {"machine.py": "import rich"}),
    (run_time_torch, {"deploy/timing.py": "import machine", "machine.py": "import torch"}),
    (wrong_way_imports, {"compression/groups.py": "from tdmpc import agent"}),
    (wrong_way_imports, {"compression/tdmpc_agent/groups.py": "import deploy"}),
    (wrong_way_imports, {"deploy/export.py": "from compression.report import table"}),
    (wrong_way_imports, {"deploy/export.py": "import importlib\nimportlib.import_module('scripts')"}),
    (run_time_torch, {"deploy/__init__.py": "import torch"}),
    (run_time_torch, {"deploy/controller.py": "def f():\n    from torch import nn"}),
    (run_time_torch, {"deploy/timing.py": "from tdmpc.config import PlannerConfig"}),
    (run_time_torch, {"deploy/controller.py": "from deploy.names import A", "deploy/names.py": "import torch"}),
    (run_time_torch, {"deploy/controller.py": "from . import names", "deploy/names.py": "import torch"}),
    (run_time_torch, {"deploy/__init__.py": "from .native import run", "deploy/native/__init__.py": "import torch"}),
    (
        run_time_torch,
        {
            "deploy/__init__.py": "def __getattr__(name):\n    from deploy.export import export\n    return export",
            "deploy/export.py": "import torch",
        },
    ),
    (undeclared_imports, {"tdmpc/a.py": "import onnxruntime"}),
    (undeclared_imports, {"tdmpc/a.py": "from pytest import fixture"}),
    (undeclared_imports, {"deploy/controller.py": "import rich"}),
    (stdlib_namesakes, {"tdmpc/types.py": ""}),
    (stdlib_namesakes, {"deploy/queue/__init__.py": ""}),
    (junk_drawers, {"tdmpc/utils.py": ""}),
    (junk_drawers, {"compression/tensor_utils.py": ""}),
    (junk_drawers, {"scripts/common/__init__.py": ""}),
    (prints, {"tdmpc/a.py": "print('hello')"}),
    (unsafe_loads, {"tdmpc/a.py": "torch.load(path)"}),
    (unsafe_loads, {"tdmpc/a.py": "torch.load(path, weights_only=False)"}),
    (unsafe_loads, {"tdmpc/a.py": "torch.load(path, weights_only=trusted)"}),
    (unsafe_loads, {"tdmpc/a.py": "from torch import load"}),
    (bare_excepts, {"tdmpc/a.py": "try:\n    f()\nexcept:\n    pass"}),
    (fixed_devices, {"tdmpc/a.py": "x.to('cuda:0')"}),
    (fixed_devices, {"scripts/a.py": "f'cuda:0 {x}'"}),
    (untold_settings, {"scripts/a.py": "class AArgs:\n    a: int = 1\n    b: int = 2\n    'Of it.'"}),
    (old_words, {"tdmpc/a.py": "def adopt_it(agent): ..."}),
    (old_words, {"tdmpc/a.py": "def start(begun): ..."}),
    (old_words, {"scripts/a.py": "class Run:\n    begin: int"}),
    (long_modules, {"tdmpc/a.py": "\n" * LONGEST + "a = 1"}),
    (lawless_tests, {"tests/test_a.py": "def test_a(): ..."}),
    (lawless_tests, {"tests/test_a.py": "class TestA:\n    def test_a(self):\n        '''Adds'''"}),
]


KEPT: list[tuple[Law, dict[str, str]]] = [
    (wrong_way_imports, {"compression/tdmpc_agent/groups.py": "from tdmpc.world_model import WorldModel"}),
    (wrong_way_imports, {"deploy/export.py": "import tdmpc", "scripts/a.py": "import compression, deploy, tdmpc"}),
    (wrong_way_imports, {"tdmpc/a/b.py": "from .. import agent\nfrom . import c\nfrom .d import e"}),
    (run_time_torch, {"deploy/__init__.py": "import numpy", "deploy/export.py": "import torch"}),
    (
        undeclared_imports,
        {"tdmpc/a.py": "import dm_control, json", "deploy/controller.py": "import numpy, onnxruntime"},
    ),
    (stdlib_namesakes, {"compression/__init__.py": "", "compression/schedule.py": ""}),
    (junk_drawers, {"tdmpc/planner.py": ""}),
    (prints, {"scripts/a.py": "print(1)", "tdmpc/a.py": "console.print(1)"}),
    (unsafe_loads, {"tdmpc/a.py": "torch.load(path, weights_only=True)\njson.load(file)"}),
    (bare_excepts, {"tdmpc/a.py": "try:\n    f()\nexcept OSError:\n    pass"}),
    (fixed_devices, {"tdmpc/a.py": "x.to('cuda')"}),
    (untold_settings, {"scripts/a.py": "class AArgs:\n    config: AConfig\n    b: int = 2\n    'Of it.'"}),
    (old_words, {"tdmpc/a.py": "def start(forgetting, following): ...", "deploy/a.py": "def f(begun): ..."}),
    (long_modules, {"tdmpc/a.py": "a = 1\n" * LONGEST}),
    (lawless_tests, {"tests/test_a.py": "def test_a():\n    '''One is one.'''\ndef helper(): ..."}),
]


def names(cases: list[tuple[Law, dict[str, str]]]) -> list[str]:
    return [f"{law.__name__}-{index}" for index, (law, _) in enumerate(cases)]


@pytest.mark.parametrize(("law", "files"), BREACHES, ids=names(BREACHES))
def test_each_law_can_fail(law: Law, files: dict[str, str]) -> None:
    """A law finds the one breach in a small house that has one."""
    assert len(law({path: ast.parse(text) for path, text in files.items()})) == 1


@pytest.mark.parametrize(("law", "files"), KEPT, ids=names(KEPT))
def test_each_law_can_be_kept(law: Law, files: dict[str, str]) -> None:
    """A law finds nothing in a small house that keeps it."""
    assert law({path: ast.parse(text) for path, text in files.items()}) == []
