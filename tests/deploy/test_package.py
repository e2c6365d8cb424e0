"""What an installation gives: one import package that is in nobody's way, with all that the repository has in it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    command = [str(argument) for argument in arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    result = run(*build, "--wheel-dir", folder, ".", cwd=ROOT)
    assert result.returncode == 0, result.stderr
    (built,) = folder.glob("tunesmith-*.whl")
    return built


def test_the_wheel_has_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    linked = {link.name for link in (ROOT / "tunesmith").iterdir() if link.is_symlink()}
    expected = {f"tunesmith/{name}" for name in listed if name.split("/")[0] in linked and (ROOT / name).exists()}
    expected |= {f"tunesmith/service/{name}" for name in listed if name.startswith("migrations/")}
    expected |= {name for name in listed if name.startswith("tunesmith/") and (ROOT / name).is_file()}
    expected |= {"tunesmith/constraints.txt"}
    assert packed == expected


def test_an_application_with_folders_of_the_same_names_keeps_its_own(wheel: Path, tmp_path: Path) -> None:
    site, application = tmp_path / "site", tmp_path / "application"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    for name in ("cli", "local", "service", "worker", "tuning", "tests", "migrations"):
        (application / name).mkdir(parents=True)
        (application / name / "__init__.py").write_text("OWNER = 'the application'\n")
    look = (
        "import cli, local, service, worker, tuning, tests, migrations, tunesmith.service.database.migrate;"
        "print({cli.OWNER, local.OWNER, service.OWNER, worker.OWNER, tuning.OWNER, tests.OWNER, migrations.OWNER},"
        "tunesmith.__file__, tunesmith.service.database.migrate.head())"
    )
    environment = {**os.environ, "PYTHONPATH": str(site)}
    result = run(sys.executable, "-c", look, cwd=application, env=environment)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{{'the application'}} {site}/tunesmith/__init__.py 0")
    started = run(sys.executable, "-m", "tunesmith.local.main", "version", cwd=application, env=environment)
    assert started.returncode == 0, started.stderr


def test_a_checkout_has_a_link_for_every_folder_of_code() -> None:
    links = {link.name: link.resolve() for link in (ROOT / "tunesmith").iterdir() if link.is_symlink()}
    assert links == {name: ROOT / name for name in links}
    assert {"tuning", "service", "worker", "cli", "local"} <= set(links)
    for name, folder in links.items():
        assert (folder / "__init__.py").exists(), name
