"""What is shipped: the built wheel holds what it needs and nothing else, and works where there is no source."""

import importlib.util
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from support.recipes import REPOSITORY, environment

import quantfleet

pytestmark = pytest.mark.slow

PACKAGES = ("quantfleet", "quantfleet_models", "quantfleet_data", "quantfleet_jobs")
SOURCES = ("platform/quantfleet", "models/quantfleet_models", "data_pipelines/quantfleet_data", "jobs/quantfleet_jobs")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    # with the build backend of this environment, so that nothing is downloaded; an isolated build where it is absent
    isolation = ["--no-isolation"] if importlib.util.find_spec("hatchling") else []
    build = [sys.executable, "-m", "build", "--wheel", *isolation, "--outdir", str(out), str(REPOSITORY)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = out.glob("*.whl")
    return made


@pytest.fixture(scope="module")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def venv(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the wheel in it.

    Its dependencies weigh gigabytes and take minutes to install, so they are lent from the environment that runs the tests:
    a .pth file puts that site-packages behind the fresh one. Python does not read the .pth files in a folder that came in
    this way, so the editable installation of the source there stays invisible, and `quantfleet` can only be the wheel's.
    """
    folder = tmp_path_factory.mktemp("fresh") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=120)
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", str(wheel)], check=True, timeout=120)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "lent.pth").write_text(sysconfig.get_paths()["purelib"] + "\n")
    return folder


def run(venv: Path, program: str, *arguments: str, cwd: Path) -> str:
    """Output of a program of the fresh environment, in a shell that knows nothing of the source."""
    done = subprocess.run(
        [str(venv / "bin" / program), *arguments],
        cwd=cwd,
        env=environment(PYTHONPATH="", COLUMNS="200"),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_named_after_the_version(wheel: Path):
    assert wheel.name == f"quantfleet-{quantfleet.__version__}-py3-none-any.whl"


def test_the_wheel_holds_the_four_packages_and_nothing_beside_them(contents: set[str]):
    assert {name.partition("/")[0] for name in contents} == {
        *PACKAGES,
        f"quantfleet-{quantfleet.__version__}.dist-info",
    }


@pytest.mark.parametrize("source", SOURCES)
def test_every_module_of_the_source_is_in_the_wheel(source: str, contents: set[str]):
    package = REPOSITORY / source
    modules = {str(path.relative_to(package.parent)) for path in package.rglob("*.py")}
    assert modules - contents == set()


def test_what_is_no_module_but_needed_is_in_the_wheel(contents: set[str]):
    recipes = {f"quantfleet_jobs/recipes/{path.name}" for path in (REPOSITORY / "jobs" / "recipes").glob("*.yaml")}
    assert len(recipes) >= 2
    needed = {"quantfleet/py.typed", "quantfleet/evaluation/report/template.html.j2", *recipes}
    assert needed - contents == set()
    assert [name for name in contents if name.endswith("licenses/LICENSE")]


def test_no_tests_caches_or_data_are_in_the_wheel(contents: set[str]):
    odd = [
        n for n in contents if any(part in n for part in ("test_", "conftest", "__pycache__", ".quantfleet", ".pyc"))
    ]
    assert odd == []
    assert not any(name.endswith((".parquet", ".db", ".csv", ".so")) for name in contents)


def test_the_wheel_asks_for_what_the_project_says_it_needs(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"quantfleet-{quantfleet.__version__}.dist-info/METADATA").decode()
    lines = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    asked = {Requirement(line) for line in lines if "extra ==" not in line}
    assert asked == {Requirement(line) for line in project["dependencies"]}
    assert f"Version: {project['version']}" in metadata.splitlines()
    assert project["version"] == quantfleet.__version__


@pytest.mark.parametrize("package", PACKAGES)
def test_an_installed_package_comes_from_the_fresh_environment(package: str, venv: Path, tmp_path: Path):
    file = run(venv, "python", "-c", f"import {package}; print({package}.__file__)", cwd=tmp_path).strip()
    assert Path(file).is_relative_to(venv)


def test_the_installed_command_says_its_version(venv: Path, tmp_path: Path):
    assert run(venv, "quantfleet", "--version", cwd=tmp_path).strip() == quantfleet.__version__


def test_the_installed_command_knows_all_models(venv: Path, tmp_path: Path):
    listed = run(venv, "quantfleet", "models", "list", cwd=tmp_path)
    for name in ("hybrid", "xgboost", "buy_and_hold", "moving_average", "zero_return"):
        assert name in listed


def test_the_installed_command_finds_the_recipes_that_ship(venv: Path, tmp_path: Path):
    shown = run(venv, "quantfleet", "config", "show", "quickstart", cwd=tmp_path)
    assert "name: quickstart  # " in shown
    assert str(venv) in shown


@pytest.mark.ray
def test_doctor_finds_the_installed_command_healthy_in_an_empty_folder_and_ray_runs_its_tasks(
    venv: Path, tmp_path: Path
):
    diagnosis = run(venv, "quantfleet", "doctor", cwd=tmp_path)
    assert "a local Ray runs tasks" in diagnosis
    assert f"{tmp_path}/.quantfleet can be read and written" in diagnosis
    assert "!!" not in diagnosis
