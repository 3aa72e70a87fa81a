"""The shape of the repository: what its architecture promises, so that nobody breaks it without noticing."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.recipes import REPOSITORY, environment

SOURCE_ROOTS = ("platform", "models", "data_pipelines", "jobs")
ROOTS = (*SOURCE_ROOTS, "tests")
LONGEST_FILE = 650
HEAVY = ("ray", "torch", "mlflow", "polars", "pyarrow", "pandas", "xgboost", "lightning", "sqlalchemy")


def tracked() -> list[Path]:
    """Files that git has, or would have after `git add .`; all of them where there is no git."""
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        return [p for root in ROOTS for p in (REPOSITORY / root).rglob("*") if p.is_file()]
    return [path for name in listing.stdout.splitlines() if (path := REPOSITORY / name).is_file()]


PYTHON = sorted(path for path in tracked() if path.suffix == ".py")


def modules_after(code: str, *, cwd: Path = REPOSITORY) -> set[str]:
    """Top-level modules loaded in a fresh interpreter once `code` has run."""
    probe = f"{code}\nimport sys; print(' '.join({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", probe],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return set(done.stdout.splitlines()[-1].split())


def imported(path: Path) -> set[str]:
    """Top-level names a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


def test_the_scan_sees_the_repository():
    assert len(PYTHON) > 150
    assert REPOSITORY / "jobs" / "quantfleet_jobs" / "cli.py" in PYTHON


@pytest.mark.parametrize("root", ROOTS)
def test_a_source_root_is_never_a_package(root: str):
    assert (REPOSITORY / root).is_dir()
    assert not (REPOSITORY / root / "__init__.py").exists(), f"{root} as a package hides others of that name"


@pytest.mark.parametrize("root", SOURCE_ROOTS)
def test_a_source_root_holds_one_package_whose_name_is_ours(root: str):
    packages = [path.parent.name for path in (REPOSITORY / root).glob("*/__init__.py")]
    assert len(packages) == 1
    assert re.fullmatch(r"quantfleet(_models|_data|_jobs)?", packages[0])


def test_python_s_own_module_platform_is_found_at_the_root_of_the_repository():
    code = "import platform; print(platform.system(), platform.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, env=environment(), capture_output=True, text=True, check=True
    )
    system, file = done.stdout.split()
    assert system in ("Linux", "Darwin")
    assert not Path(file).is_relative_to(REPOSITORY / "platform")


def test_no_python_file_is_longer_than_the_wall():
    lengths = {str(path.relative_to(REPOSITORY)): len(path.read_text().splitlines()) for path in PYTHON}
    assert {name: lines for name, lines in lengths.items() if lines > LONGEST_FILE} == {}


def test_every_python_file_of_ours_says_at_its_top_what_it_is():
    sources = [path for path in PYTHON if path.relative_to(REPOSITORY).parts[0] in ROOTS]
    silent = [str(path) for path in sources if not ast.get_docstring(ast.parse(path.read_text()))]
    assert silent == []


@pytest.mark.parametrize("folder", ["registry", "serving", "contracts"])
def test_models_are_stored_and_loaded_without_pickle(folder: str):
    files = [path for path in PYTHON if path.is_relative_to(REPOSITORY / "platform" / "quantfleet" / folder)]
    assert files
    unsafe = {"pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert {path.name: found for path in files if (found := imported(path) & unsafe)} == {}


def test_the_command_line_starts_without_loading_anything_heavy():
    assert modules_after("import quantfleet_jobs.cli") & set(HEAVY) == set()


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["train", "--help"], ["bench", "models", "--help"]])
def test_help_and_version_load_nothing_heavy(command: list[str]):
    code = f"""
from quantfleet_jobs.cli import app
try:
    app({command!r})
except SystemExit:
    print()
"""
    assert modules_after(code) & set(HEAVY) == set()


def test_looking_around_loads_neither_ray_nor_torch_nor_mlflow():
    code = """
from quantfleet_jobs.cli import app
for command in (["models", "list"], ["models", "describe", "hybrid"], ["config", "show", "quickstart"]):
    try:
        app(command)
    except SystemExit as end:
        assert not end.code, command
"""
    assert modules_after(code) & {"ray", "torch", "mlflow", "xgboost", "lightning"} == set()


CONFIGS = sorted(REPOSITORY.glob("models/quantfleet_models/*/config.py"))


def test_every_model_folder_has_a_config_a_model_and_a_page_with_picture_shapes_source_and_cost():
    folders = [path.parent for path in REPOSITORY.glob("models/quantfleet_models/*/__init__.py")]
    folders.remove(REPOSITORY / "models" / "quantfleet_models" / "parts")  # layers that families share
    assert len(folders) >= 3
    for folder in folders:
        assert {"config.py", "model.py", "README.md"} <= {path.name for path in folder.iterdir()}, folder
        page = (folder / "README.md").read_text()
        assert [word for word in ("```", "shape", "source", "cost") if word not in page.lower()] == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: path.parent.name)
def test_a_model_s_config_is_imported_without_its_library(config: Path):
    module = f"quantfleet_models.{config.parent.name}.config"
    assert modules_after(f"import {module}") & {"ray", "torch", "mlflow", "xgboost", "lightning", "sklearn"} == set()


# --- dependencies ---


def declared() -> set[str]:
    """Distributions that pyproject asks for, those of extras for users included, by their normalised names."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    extras = [line for name, lines in project["optional-dependencies"].items() if name != "dev" for line in lines]
    return {canonicalize_name(Requirement(line).name) for line in (*project["dependencies"], *extras)}


def test_every_import_is_of_a_declared_dependency():
    distributions = importlib.metadata.packages_distributions()
    ours = {"quantfleet", "quantfleet_models", "quantfleet_data", "quantfleet_jobs"}
    found = {
        name: str(path.relative_to(REPOSITORY))
        for path in PYTHON
        if path.relative_to(REPOSITORY).parts[0] in SOURCE_ROOTS
        for name in imported(path) - ours - sys.stdlib_module_names
    }
    undeclared = {
        name: file
        for name, file in found.items()
        if not {canonicalize_name(d) for d in distributions.get(name, (name,))} & declared()
    }
    assert undeclared == {}
