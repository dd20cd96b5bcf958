"""The files round the code: pinned versions, scripts, and nothing that belongs to one machine."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools import find_packages

import gan_dist
from gan_dist import threads

LONG = 300  # seconds; what sleeps so long is ended before
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


@pytest.mark.parametrize("name", ["launch/setup.sh", "launch/run.sh", "launch/test.sh"])
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
    assert alone["GOMP_SPINCOUNT"] == threads.WAITS["GOMP_SPINCOUNT"]  # other programs may use the cores
    assert _settings(repository, GOMP_SPINCOUNT="1000")["GOMP_SPINCOUNT"] == "1000"
    assert (many["OMP_NUM_THREADS"], many["KMP_BLOCKTIME"]) == ("1", threads.WAITS["KMP_BLOCKTIME"])
    mine = {key: f"mine-{key}" for key in many.keys() - {"PATH", "PROCESSES", "PWD", "SHLVL", "_"}}
    assert mine.items() <= _settings(repository, PROCESSES="2", **mine).items()
    assert "PYTORCH_ALLOC_CONF" not in _settings(repository, PYTORCH_CUDA_ALLOC_CONF="max_split_size_mb:64")


def test_the_package_is_found_above_a_clone_that_is_named_like_it(repository: Path, tmp_path: Path) -> None:
    clone = tmp_path / "gan_dist"
    clone.mkdir()
    shutil.copy(repository / "__init__.py", clone)
    shutil.copytree(repository / "gan_dist", clone / "gan_dist", ignore=shutil.ignore_patterns("__pycache__"))
    code = "import gan_dist, gan_dist.errors, gan_dist.cli.runs; print(gan_dist.__version__, gan_dist.errors.__file__)"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    for folder in (tmp_path, clone):  # above it, and in it
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
        assert done.stdout.split() == [gan_dist.__version__, str(clone / "gan_dist/errors.py")], done.stderr


def test_the_file_that_finds_it_is_not_packaged(repository: Path) -> None:
    wanted = tomllib.loads((repository / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    packages = find_packages(str(repository), **wanted)
    assert "gan_dist.cli" in packages
    assert [name for name in packages if name.partition(".")[0] != "gan_dist" or "tests" in name] == []


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_session_that_leaves_a_process_behind_fails_and_names_it(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str
) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(repository / "pyproject.toml", tmp_path)
    text = (repository / "tests/conftest.py").read_text()
    (tmp_path / "tests/conftest.py").write_text(text.replace("PATIENCE = 30 ", "PATIENCE = 0.5 "))
    case = (
        f"import subprocess\ndef test_it(): print(subprocess.Popen(['sleep', '{LONG}'], start_new_session=True).pid)\n"
    )
    (tmp_path / "tests/test_it.py").write_text(case)
    monkeypatch.delenv("GAN_DIST_TEST_SESSION")
    words = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", workers, "-rP"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    (pid,) = re.findall(r"process (\d+), child of \d+: sleep", done.stdout)
    os.kill(int(pid), signal.SIGKILL)
    assert (done.returncode, "1 passed" in done.stdout.splitlines()[-1]) == (1, True), done.stdout


def _marked_cases(repository: Path, folder: Path, *words: str) -> set[str]:
    """What a run of pytest with the repository's conftest and markers takes of three marked tests."""
    shutil.copy(repository / "pyproject.toml", folder)
    (folder / "tests").mkdir(exist_ok=True)
    shutil.copy(repository / "tests/conftest.py", folder / "tests")
    cases = "".join(f"@pytest.mark.{mark}\ndef test_{mark}(): pass\n" for mark in ("slow", "exhaustive", "dist"))
    (folder / "tests/test_marked.py").write_text(f"import pytest\n{cases}")
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    return set(re.findall(r"::test_(\w+)", done.stdout))


def test_exhaustive_tests_run_only_when_their_mark_is_asked_for(repository: Path, tmp_path: Path) -> None:
    assert _marked_cases(repository, tmp_path) == {"slow", "dist"}
    assert _marked_cases(repository, tmp_path, "-m", "exhaustive") == {"exhaustive"}


MOST = "-n 2 --dist loadfile --ignore=tests/fault --ignore=tests/slurm"


@pytest.mark.parametrize(
    ("words", "calls"),
    [
        ([], ["-n 2 --dist loadfile -m not slow and not fault and not deepspeed and not slurm --ignore=tests/slurm"]),
        (["--all"], [MOST, "tests/fault", "-n 2 --dist loadfile tests/slurm"]),
        (["--all", "-x"], [f"{MOST} -x", "tests/fault -x", "-n 2 --dist loadfile tests/slurm -x"]),
        (["tests/unit/test_rng.py", "-k", "a b"], ["tests/unit/test_rng.py -k a b"]),
    ],
)
def test_the_test_script_has_a_quick_tier_a_full_one_and_takes_pytest_s_arguments(
    repository: Path, tmp_path: Path, words: list[str], calls: list[str]
) -> None:
    assert _calls_of_test_sh(repository, tmp_path, words, 0) == (0, calls)


def test_the_test_script_s_last_lines_are_of_the_part_that_failed(repository: Path, tmp_path: Path) -> None:
    assert _calls_of_test_sh(repository, tmp_path, ["--all"], 1) == (1, [MOST])


def _calls_of_test_sh(repository: Path, folder: Path, words: list[str], code: int) -> tuple[int, list[str]]:
    """Exit code, and what launch/test.sh calls pytest with where lint and types are well."""
    programs = {"ruff": "", "mypy": "", "pytest": f'echo "$*" >>"{folder}/calls"; exit {code}'}
    (folder / "launch").mkdir()
    shutil.copy(repository / "launch/test.sh", folder / "launch")
    for path, text in {
        folder / "launch/setup.sh": "",
        **{folder / "bin" / name: programs[name] for name in programs},
    }.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "GAN_DIST_VENV": str(folder)}
    done = subprocess.run(["bash", folder / "launch/test.sh", *words], env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, (folder / "calls").read_text().splitlines()
