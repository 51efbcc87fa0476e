"""What could run code that came as data stands nowhere in `ft`, and a test reads it all to see.

A user's own strategy file is run by the import system, in `ft/data/strategy_file.py` alone.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src" / "ft"
UNPICKLERS = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
CALLS = {
    "eval", "exec", "__import__", "torch.load", "torch.hub.load", "yaml.load",
    "yaml.load_all", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "os.execv",
    "runpy.run_path", "runpy.run_module", "pd.read_pickle", "pandas.read_pickle",
    "shutil.unpack_archive", "subprocess.getoutput",
}  # fmt: skip
METHODS = {"extractall", "from_pickle", "exec_module", "load_module"}
ARGUMENTS = {
    "shell": False,
    "trust_remote_code": False,
    "allow_pickle": False,
    "weights_only": True,
    "use_safetensors": True,
}
"""Where they are given, they have this value, and it stands there as it is."""
CONSENTED = {("data/strategy_file.py", "exec_module")}
"""A strategy file of the user's own."""


def dangers(source: str) -> Iterator[str]:
    """What stands in the code that could run data; comments and texts don't count."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                yield from (n.name for n in names if n.name.partition(".")[0] in UNPICKLERS)
            case ast.ImportFrom(module=str(module), names=names):
                yield from [module] if module.partition(".")[0] in UNPICKLERS else []
                yield from (f for n in names if (f := f"{module}.{n.name}") in CALLS)
            case ast.Attribute(attr=name) if name in METHODS:
                yield name
            case ast.Name() | ast.Attribute() if ast.unparse(node) in CALLS:
                yield ast.unparse(node)
            case ast.keyword(arg=str(name), value=value) if name in ARGUMENTS:
                if not (isinstance(value, ast.Constant) and value.value is ARGUMENTS[name]):
                    yield f"{name}={ast.unparse(value)}"


PLANTED = [
    "torch.load(path)", "f = torch.load", "import pickle", "from pickle import loads",
    "import dill as d", "yaml.load(text, Loader)", "from yaml import unsafe_load", "eval(text)",
    "map(exec, texts)", "subprocess.run(line, shell=True)", "run(line, shell=is_shell)",
    "archive.extractall(folder)", "load(name, trust_remote_code=True)",
    "load(name, trust_remote_code=spec.trust)", "np.load(path, allow_pickle=True)",
    "load(path, weights_only=False)", "os.system(line)", "load(name, use_safetensors=None)",
    "spec.loader.exec_module(module)",
]  # fmt: skip


@pytest.mark.parametrize("code", PLANTED)
def test_what_is_planted_is_found(code):
    assert list(dangers(code))


def test_what_is_harmless_is_left_alone():
    code = '"""pickle, torch.load"""\nmodel.eval()\nyaml.safe_load(x)\nre.compile(x)  # eval(x)\n'
    code += "load(x, trust_remote_code=False, weights_only=True)\ntree_exec = 1\n"
    assert list(dangers(code)) == []


def test_nothing_in_the_package_runs_what_came_as_data():
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 150
    found = {
        (file.relative_to(PACKAGE).as_posix(), danger)
        for file in files
        for danger in dangers(file.read_text(encoding="utf-8"))
    }
    assert found - CONSENTED == set()
    assert found >= CONSENTED, "a door that is gone needs no consent"
