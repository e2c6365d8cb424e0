"""(a) Every test marked `gpu`, in a process of its own, with the servers' fixtures and pytest plugins left out."""

import os
import subprocess
import sys
from xml.etree import ElementTree as ET

from benchmarks.gpu.setting import HERE, Setting

ROOT = HERE.parents[1]


def run(setting: Setting) -> None:
    """One line a test, as pytest tells them when it ends; the process ends with the piece's budget."""
    report = setting.out / "tests.xml"
    environment = {**os.environ, "GPU_TESTS_ON": setting.device}
    command = [
        sys.executable, "-m", "pytest", "-c", str(HERE / "pytest.ini"), "--rootdir", str(ROOT), "-q",
        "-p", "no:cacheprovider", "-m", "gpu", f"--junitxml={report}", str(ROOT / "tests" / "gpu"),
    ]  # fmt: skip
    try:
        subprocess.run(command, cwd=ROOT, env=environment, check=False, timeout=max(10.0, setting.seconds_left))
    except subprocess.TimeoutExpired:
        setting.record(test="all", outcome="stopped: no time left in this piece")
        return
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        problem = next(iter(case), None)
        outcome = "ok" if problem is None else f"{problem.tag}: {(problem.get('message') or '').splitlines()[:1]}"
        setting.record(test=case.get("name"), seconds=float(case.get("time") or 0), outcome=outcome)
    report.unlink()
