"""Breakages of what a run keeps: checkpoints, exact resumption, devices, and metrics through an outage."""

from benchmarks.mutants.breakage import Breakage

_CHECKPOINTS = "tests/worker/attempt/test_checkpoints.py"
_RESUME = "tests/train/loop/test_resume.py"
_LAUNCHER = "tests/worker/trainer_process/test_launcher.py"
_SLOTS = "tests/worker/machine/test_slots.py"
_FOLLOWER = "tests/worker/attempt/test_follower.py"
_CONTROL = "tests/worker/transport/test_control.py"

BREAKAGES = (
    Breakage(
        "G6",
        "a checkpoint is registered before its metrics are handed over",
        "worker/attempt/checkpoints.py",
        "up_to_step=self._recorded()",
        'up_to_step=float("inf")',
        f"{_CHECKPOINTS}::test_a_checkpoint_waits_until_the_metrics_of_its_step_are_handed_over",
    ),
    Breakage(
        "G6",
        "a checkpoint is registered before its files are sent",
        "worker/attempt/checkpoints.py",
        "            report = describe(folder)\n",
        "            report = describe(folder)\n            control.checkpoint(report)\n",
        f"{_CHECKPOINTS}::test_a_checkpoint_is_registered_after_all_its_files_are_sent",
    ),
    Breakage(
        "G6",
        "a fetched checkpoint is used without a look at its manifest",
        "worker/attempt/checkpoints.py",
        "    verify_checkpoint(folder, manifest_sha256=choice.manifest_sha256)\n    return folder\n",
        "    return folder\n",
        f"{_CHECKPOINTS}::test_a_fetched_checkpoint_that_is_not_what_its_manifest_says_is_passed_over",
    ),
    Breakage(
        "G6",
        "a copy of another checkpoint on this host is used",
        "worker/attempt/checkpoints.py",
        "                verify_checkpoint(folder, manifest_sha256=choice.manifest_sha256)\n            except",
        "                describe(folder)\n            except",
        f"{_CHECKPOINTS}::test_a_copy_on_this_host_of_another_checkpoint_is_not_used",
    ),
    Breakage(
        "G6",
        "the bytes of a checkpoint are not compared with its manifest",
        "worker/manifests.py",
        " and sha256_of(file) == written.sha256",
        "",
        f"{_CHECKPOINTS}::test_a_damaged_checkpoint_never_verifies",
    ),
    Breakage(
        "G6",
        "a manifest may name files outside its folder",
        "worker/manifests.py",
        "    if Path(name).name != name:",
        "    if False:",
        f"{_CHECKPOINTS}::test_a_manifest_that_points_out_of_its_folder_never_verifies",
    ),
    Breakage(
        "G6",
        "a checkpoint is registered although its bytes are not in the store",
        "service/attempts/reports.py",
        "    await blob_rows.require(session, files)\n",
        "",
        "tests/service/test_attempts.py::TestReports::test_checkpoints_and_artifacts_need_all_their_bytes_in_the_store",
    ),
    Breakage(
        "G6",
        "a new attempt is offered the oldest checkpoints",
        "service/checkpoints/store.py",
        "        .order_by(Checkpoint.step.desc())\n        .limit(_RESUME_CHOICES)",
        "        .order_by(Checkpoint.step)\n        .limit(_RESUME_CHOICES)",
        "tests/service/test_attempts.py::TestEndings::test_a_new_attempt_resumes_from_the_newest_checkpoints",
    ),
    Breakage(
        "G10",
        "a trainer does not inherit the locks of its slot",
        "worker/trainer_process/launcher.py",
        "        pass_fds=ends.locks,\n",
        "        pass_fds=(),\n",
        f"{_LAUNCHER}::test_a_slot_stays_taken_until_its_trainer_is_dead",
    ),
    Breakage(
        "G10",
        "a slot is given to two attempts at once",
        "worker/machine/slots.py",
        "                fcntl.flock(descriptor, mode | fcntl.LOCK_NB)",
        "                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)",
        f"{_SLOTS}::test_a_slot_is_held_by_one_at_a_time",
    ),
    Breakage(
        "G10",
        "a trainer outlives the worker that holds its lifeline",
        "worker/train/lifeline.py",
        "    while os.read(descriptor, 64):\n        pass\n",
        "    while True:\n        os.read(descriptor, 64)\n",
        f"{_LAUNCHER}::test_a_trainer_dies_when_its_worker_is_killed",
    ),
    Breakage(
        "G10",
        "a process that was given the number of a dead trainer is killed",
        "worker/trainer_process/processes.py",
        "record.pid if _started_at(record.pid) == record.started_at else None",
        "record.pid",
        f"{_LAUNCHER}::test_a_pid_that_was_given_to_another_process_is_left_alone",
    ),
    Breakage(
        "G9",
        "a trainer is not asked to stop before it is killed",
        "worker/trainer_process/launcher.py",
        "        self.run.ask_to_stop()\n",
        "",
        f"{_LAUNCHER}::test_the_stop_file_is_enough_for_a_trainer_that_listens",
    ),
    Breakage(
        "G13",
        "metrics count as handed over before the service has them",
        "worker/attempt/follower.py",
        "        if points:\n            self._progress.stepped(points[-1])\n",
        "        self._advance(metrics=end)\n        if points:\n            self._progress.stepped(points[-1])\n",
        f"{_FOLLOWER}::test_nothing_is_lost_while_the_service_is_away",
    ),
    Breakage(
        "G13",
        "a half-written line is sent as it is",
        "worker/attempt/follower.py",
        '    end = data.rfind(b"\\n") + 1\n',
        "    end = len(data)\n",
        f"{_FOLLOWER}::test_a_half_written_line_waits_for_its_end",
    ),
    Breakage(
        "G13",
        "an outage ends the following of a run",
        "worker/attempt/follower.py",
        "                away = True\n",
        "                return\n",
        f"{_FOLLOWER}::test_the_thread_goes_on_after_an_outage",
    ),
    Breakage(
        "G13",
        "one refused record holds up all that follow",
        "worker/attempt/follower.py",
        '            self._log.warning("record.refused", reason=str(error))\n',
        "            raise\n",
        f"{_FOLLOWER}::test_one_refused_record_does_not_hold_up_the_rest",
    ),
    Breakage(
        "G13",
        "a patient call gives up at the first error",
        "worker/transport/retry.py",
        "                if self.clock() + pause > deadline:",
        "                if deadline:",
        f"{_CONTROL}::test_a_patient_call_outlasts_errors_that_pass",
    ),
)
