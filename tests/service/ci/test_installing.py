"""A pipeline that has a key and no copy of the project installs the client from the service, and runs it."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import yaml

from tests.control_plane import ControlPlane, chat_rows
from tests.service.ci.training import shell, training

ACTION = Path(__file__).parents[3] / "deploy" / "github-action"


def test_the_client_is_a_wheel_with_its_name_and_is_sent_once(control_plane: ControlPlane) -> None:
    sent = control_plane.request("GET", "/v1/client")
    assert (sent.status_code, sent.content[:2]) == (200, b"PK")
    assert sent.headers["content-disposition"].endswith('-py3-none-any.whl"')
    again = control_plane.request("GET", "/v1/client", headers={"if-none-match": sent.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert control_plane.request("GET", "/v1/client", key="worker").status_code == 403
    assert control_plane.request("GET", "/v1/client", key="nobody").status_code == 401


def test_a_wrong_key_and_a_service_that_is_away_are_told_in_one_line(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    script = [sys.executable, str(ACTION / "fetch_client.py"), str(tmp_path)]
    for url, key, code in (
        (control_plane.url, "ts-wrong", 8),
        ("http://127.0.0.1:9/v1", "ts-any", 9),
        ("file:///etc", "ts-any", 9),
        ("http://[::1", "ts-any", 9),
        (f"{control_plane.url}/elsewhere", "ts-any", 9),
    ):
        told = subprocess.run(
            script, env={"TUNESMITH_URL": url, "TUNESMITH_API_KEY": key}, capture_output=True, text=True, check=False
        )
        assert (told.returncode, told.stderr.startswith("::error"), told.stderr.count("\n")) == (code, True, 1), told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("missing", "code"), [("TUNESMITH_API_KEY", 8), ("TUNESMITH_URL", 2), ("JOB_FILE", 2)])
def test_what_the_action_is_not_given_is_told_before_anything_is_installed(missing: str, code: int) -> None:
    given = {"TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_API_KEY": "ts-any", "JOB_FILE": "job.yaml", missing: ""}
    told = subprocess.run(
        ["bash", ACTION / "run.sh"], env={"PATH": "/usr/bin:/bin", **given}, capture_output=True, text=True, check=False
    )
    assert (told.returncode, missing in told.stderr) == (code, True), told
    assert told.stderr.startswith("::error title=Tunesmith::")


def test_the_key_follows_no_redirect(tmp_path: Path) -> None:
    asked = []

    class Elsewhere(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(302)
            self.send_header("location", "/elsewhere")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Elsewhere) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        told = subprocess.run(
            [sys.executable, str(ACTION / "fetch_client.py"), str(tmp_path)],
            env={"TUNESMITH_URL": f"http://127.0.0.1:{server.server_port}", "TUNESMITH_API_KEY": "ts-any\n"},
            capture_output=True,
            text=True,
            check=False,
        )
        server.shutdown()
    assert (told.returncode, asked) == (9, ["/v1/client"]), told
    assert "302" in told.stderr


def wheel_that_tells_its_words(folder: Path) -> Path:
    """A `tunesmith` that prints what it was called with and exits as a gate that refuses does."""
    path = folder / "tunesmith-0.0-py3-none-any.whl"
    about = "tunesmith-0.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("teller.py", "import sys\ndef main():\n    print(*sys.argv[1:], sep='|')\n    sys.exit(6)\n")
        wheel.writestr(f"{about}/METADATA", "Metadata-Version: 2.1\nName: tunesmith\nVersion: 0.0\n")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/entry_points.txt", "[console_scripts]\ntunesmith = teller:main\n")
        wheel.writestr(f"{about}/RECORD", "")
    return path


@pytest.mark.slow
def test_a_systems_python_that_takes_no_packages_gets_none_and_words_stay_whole(tmp_path: Path) -> None:
    if not list(Path("/usr/lib").glob("python3*/EXTERNALLY-MANAGED")):
        pytest.skip("the system's Python takes packages")
    given = {"TUNESMITH_URL": "http://127.0.0.1:9", "TUNESMITH_API_KEY": "ts-any", "JOB_FILE": "a b.yaml"}
    places = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PIP_NO_INDEX": "1"}
    client = {"CLIENT": str(wheel_that_tells_its_words(tmp_path)), "KEY": "$(x); rm"}
    told = subprocess.run(
        ["bash", ACTION / "run.sh"], env=places | given | client, capture_output=True, text=True, check=False
    )
    assert (told.returncode, told.stdout) == (6, "ci|run|a b.yaml|--timeout|6h|--key|$(x); rm\n"), told
    assert not (tmp_path / ".local").exists()


def bare_python(folder: Path) -> Path:
    """A fresh environment with pip and what the client requires, as from a package index, but without the client."""
    venv.create(folder, with_pip=False)
    libraries = folder / "libraries"
    libraries.mkdir()
    for folder_of_ours in (Path(entry) for entry in sys.path if entry.endswith("site-packages")):
        for path in folder_of_ours.iterdir():
            if "tunesmith" not in path.name and path.suffix != ".pth" and not (libraries / path.name).exists():
                (libraries / path.name).symlink_to(path)
    place = subprocess.check_output(
        [folder / "bin" / "python3", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], text=True
    )
    (Path(place.strip()) / "libraries.pth").write_text(f"{libraries}\n")
    return folder / "bin"


@pytest.mark.slow
def test_the_action_installs_the_client_of_the_service_in_a_plain_shell_and_runs_it(
    control_plane: ControlPlane, tmp_path: Path
) -> None:
    tools = bare_python(tmp_path / "python")
    (tmp_path / "rows.jsonl").write_bytes(chat_rows())
    job = tmp_path / "job.yaml"
    job.write_text(json.dumps({"model": "tiny-llama", "training_file": "rows.jsonl"}))
    step = yaml.safe_load((ACTION / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"][0]
    environment = shell(control_plane, {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)})
    environment |= {"GITHUB_ACTION_PATH": str(ACTION), "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md")}
    environment |= {"JOB_FILE": str(job), "CLIENT": "", "TMPDIR": str(tmp_path), "PIP_NO_INDEX": "1"}
    assert not (tools / "tunesmith").exists()
    with training(control_plane):
        done = subprocess.run(
            ["bash", "-c", step["run"]], env=environment, cwd=tmp_path, capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr
    assert (tools / "tunesmith").exists()
    assert "succeeded" in (tmp_path / "summary.md").read_text().lower()
    found = subprocess.check_output(
        [tools / "python3", "-c", "import tunesmith; print(tunesmith.__file__)"], cwd=tmp_path, text=True
    )
    assert Path(found.strip()).is_relative_to(tmp_path / "python"), "what runs came from the service"
    assert os.access(ACTION / "run.sh", os.X_OK)


@pytest.mark.slow
def test_the_lines_of_the_gitlab_snippet_run_in_a_plain_shell(control_plane: ControlPlane, tmp_path: Path) -> None:
    page = (ACTION.parents[1] / "docs" / "ci.md").read_text(encoding="utf-8")
    snippet = yaml.safe_load(page.partition("## GitLab\n\n```yaml\n")[2].partition("```")[0])["retrain"]
    tools = bare_python(tmp_path / "python")
    pip = tools / "pip"  # which the snippet's image has
    pip.write_text('#!/bin/sh\nexec python3 -m pip "$@"\n')
    pip.chmod(0o755)
    checkout = tmp_path / "checkout"
    (checkout / "training").mkdir(parents=True)
    (checkout / "training" / "rows.jsonl").write_bytes(chat_rows())
    (checkout / "training" / "job.yaml").write_text("model: tiny-llama\ntraining_file: rows.jsonl\n")
    environment = shell(control_plane, {"PATH": f"{tools}:/usr/bin:/bin", "HOME": str(tmp_path)})
    environment |= {"PIP_NO_INDEX": "1", "TUNESMITH_URL": control_plane.url}
    with training(control_plane):
        done = subprocess.run(
            ["bash", "-ec", "\n".join(snippet["script"])],
            env=environment,
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert "<testsuite" in (checkout / snippet["artifacts"]["reports"]["junit"]).read_text()
    assert "succeeded" in (checkout / "summary.md").read_text().lower()
