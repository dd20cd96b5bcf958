"""What `pip install gan_dist` gives: the wheel, in an environment of its own, away from the repository."""

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import gan_dist
from tests.launching import REPOSITORY

pytestmark = pytest.mark.slow
LARGEST = 1_000_000  # bytes


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy: a build leaves folders behind."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "gan_dist", source / "gan_dist", ignore=shutil.ignore_patterns("__pycache__"))
    build = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(source),
    ]
    subprocess.run(build, check=True)
    (found,) = out.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel and nothing else."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    venv.create(folder, with_pip=False)
    python = str(folder / "bin/python")
    install = [sys.executable, "-m", "pip", "-q", "--python", python, "install", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True)
    return folder


def run(environment: Path, folder: Path, *words: str) -> str:
    """Run a program of the environment in another folder, with nothing of this one, and return what it prints."""
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    command = [str(environment / "bin" / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_wheel_is_small_and_holds_the_package_with_its_pages_and_nothing_else(wheel: Path) -> None:
    assert wheel.stat().st_size < LARGEST
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0].split("-")[0] for name in names} == {"gan_dist"}
    kept = {
        path.relative_to(REPOSITORY) for path in (REPOSITORY / "gan_dist").rglob("*") if path.suffix not in (".pyc", "")
    }
    assert {str(path) for path in kept} <= set(names)


def test_without_any_other_package_it_says_its_version_and_helps(environment: Path, tmp_path: Path) -> None:
    assert run(environment, tmp_path, "python", "-c", "import gan_dist; print(gan_dist.__version__)") == (
        f"{gan_dist.__version__}\n"
    )
    assert "generate" in run(environment, tmp_path, "gan-dist", "--help")


def test_with_its_dependencies_it_trains_and_draws(environment: Path, tmp_path: Path) -> None:
    packages = next((environment / "lib").glob("python*/site-packages"))
    # as if pip had installed what the wheel needs
    (packages / "dependencies.pth").write_text(sysconfig.get_paths()["purelib"])
    shutil.copy(REPOSITORY / "configs/digits.yaml", tmp_path)
    where = run(environment, tmp_path, "python", "-c", "import gan_dist; print(gan_dist.__file__)")
    assert where.startswith(str(packages))
    run(
        environment,
        tmp_path,
        "gan-dist",
        "train",
        "digits.yaml",
        "--training.images",
        "128",
        "--track.wandb",
        "disabled",
    )
    run(environment, tmp_path, "gan-dist", "generate", "runs/digits", "--n", "4")
    assert len(list((tmp_path / "runs/digits/generated/seed-0").glob("*.png"))) >= 4
