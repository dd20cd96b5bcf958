"""The files round the code: pinned versions, scripts, and nothing that belongs to one machine."""

import os
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

SCRIPTS = ("launch/setup.sh", "launch/run.sh", "launch/test.sh", ".ci/run")
SOURCED = ("launch/env.sh",)

PIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!+]*")

# Put together here, so that this file does not name what it forbids.
HOSTS = [
    f"{name}.{domain}"
    for name, domain in [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("debian", "org"),
        ("download.pytorch", "org"),
        ("golang", "org"),
    ]
]
PLACES = ["/" + place for place in ("work/", "tmp/w/", "opt/wheels", "opt/pypi", "root/")]
FORBIDDEN = re.compile(
    "|".join(
        [*(rf"\b{re.escape(host)}\b" for host in HOSTS), *(rf"(?<![\w.~}}$/-]){re.escape(place)}" for place in PLACES)]
    )
)


@pytest.fixture(scope="module")
def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


@pytest.fixture(scope="module")
def files(repository: Path) -> list[Path]:
    """Everything that is, or is about to be, in the repository."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True).stdout.split("\0")
    return [path for name in names if name and (path := repository / name).is_file()]


def test_constraints_are_names_and_exact_versions_only(repository: Path) -> None:
    lines = (repository / "constraints.txt").read_text().splitlines()
    assert [line for line in lines if not line.startswith("#") and not PIN.fullmatch(line)] == []


def test_every_dependency_is_pinned_within_its_range(repository: Path, pins: dict[str, str]) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    for text in [*project["dependencies"], *(text for extra in extras for text in extra)]:
        requirement = Requirement(text)
        version = pins.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement.name} of pyproject.toml is not in constraints.txt"
        assert requirement.specifier.contains(version), f"{text} of pyproject.toml, but constraints.txt has {version}"


def test_no_file_names_a_registry_or_a_place_on_one_machine(repository: Path, files: list[Path]) -> None:
    assert files
    found = []
    for path in files:
        for number, line in enumerate(path.read_bytes().decode(errors="replace").splitlines(), 1):
            if match := FORBIDDEN.search(line):
                found.append(f"{path.relative_to(repository)}, line {number}: {match[0]}")
    assert found == []


@pytest.mark.parametrize(
    ("line", "is_forbidden"),
    [
        ("pip install --index-url https://" + HOSTS[0] + "/simple", True),
        ("cd " + PLACES[0] + "main", True),
        ('Path("' + PLACES[1] + 'venv")', True),
        ("~" + PLACES[0] + "runs and $HOME" + PLACES[0] + " are the user's", False),
        ("a framework/engine in net" + PLACES[0][1:] + "x", False),
    ],
)
def test_the_search_finds_what_it_should(line: str, is_forbidden: bool) -> None:
    assert bool(FORBIDDEN.search(line)) == is_forbidden


@pytest.mark.parametrize("name", [*SCRIPTS, *SOURCED])
def test_scripts_parse(repository: Path, name: str) -> None:
    subprocess.run(["bash", "-n", repository / name], check=True)


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_can_be_started(repository: Path, name: str) -> None:
    path = repository / name
    assert os.access(path, os.X_OK), f"chmod +x {name}"
    assert path.read_text().startswith("#!/usr/bin/env bash\n")


@pytest.mark.parametrize("name", ["launch/setup.sh", "launch/run.sh"])
def test_help_is_the_comment_at_the_top(repository: Path, tmp_path: Path, name: str) -> None:
    link = tmp_path / "a link"
    link.symlink_to(repository / name)
    shown = subprocess.run([link, "--help"], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert f"./{name}" in shown
    assert "set -euo" not in shown
    assert not shown.startswith("#")


def test_run_without_a_config_shows_how_to_call_it(repository: Path) -> None:
    result = subprocess.run([repository / "launch/run.sh"], capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert "./launch/run.sh CONFIG" in result.stderr


def _settings(repository: Path, **given: str) -> dict[str, str]:
    clean = {"PATH": os.environ["PATH"], **given}
    script = f"set -euo pipefail; source '{repository}/launch/env.sh'; env"
    shown = subprocess.run(["bash", "-c", script], env=clean, check=True, capture_output=True, text=True).stdout
    return dict(line.split("=", 1) for line in shown.splitlines())


def test_settings_share_the_cores_and_leave_what_the_user_set(repository: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    alone, many = _settings(repository), _settings(repository, PROCESSES=str(2 * cores))
    assert alone["OMP_NUM_THREADS"] == str(cores)
    assert "OMP_WAIT_POLICY" not in alone
    assert (many["OMP_NUM_THREADS"], many["OMP_WAIT_POLICY"]) == ("1", "PASSIVE")
    mine = {key: f"mine-{key}" for key in many.keys() - {"PATH", "PROCESSES", "PWD", "SHLVL", "_"}}
    assert mine.items() <= _settings(repository, PROCESSES="2", **mine).items()
    assert "PYTORCH_ALLOC_CONF" not in _settings(repository, PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64")
