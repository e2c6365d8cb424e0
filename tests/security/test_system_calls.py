"""Calls of the kernel that no training needs are refused to a trainer; what libraries do every day is not."""

import platform

import pytest

from tests.security.conftest import Site
from tests.security.test_trainer_is_sandboxed import assert_refused, tried
from tunesmith.worker.sandbox import seccomp

pytestmark = pytest.mark.skipif(not seccomp.is_possible(), reason="no filter for this kernel or architecture")

_COLUMN = {"x86_64": 0, "aarch64": 1}[platform.machine()] if platform.machine() in ("x86_64", "aarch64") else 0
# By name: the number on either architecture, and arguments with which most would work, or fail in another way.
CALLS = {
    "ptrace": ((101, 117), "0, 0, 0, 0"),
    "process_vm_readv": ((310, 270), "os.getpid(), 0, 0, 0, 0, 0"),
    "keyctl": ((250, 219), "0, -3, 0"),
    "add_key": ((248, 217), "0, 0, 0, 0, 0"),
    "perf_event_open": ((298, 241), "0, 0, -1, -1, 0"),
    "userfaultfd": ((323, 282), "1"),
    "bpf": ((321, 280), "0, 0, 0"),
    "io_uring_setup": ((425, 425), "1, 0"),
    "unshare": ((272, 97), "0x400"),
    "setns": ((308, 268), "-1, 0"),
    "mount": ((165, 40), "0, 0, 0, 0, 0"),
    "fsopen": ((430, 430), "0, 0"),
    "open_by_handle_at": ((304, 265), "-1, 0, 0"),
    "kexec_load": ((246, 104), "0, 0, 0, 0"),
    "init_module": ((175, 105), "0, 0, 0"),
}
ASK = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def ask(number, *arguments):
    answer = libc.syscall(number, *arguments)
    return 'DONE' if answer >= 0 else errno.errorcode[ctypes.get_errno()]
"""


def asked(site: Site, *calls: str, **changes: object) -> list[str]:
    script = ASK + "".join(f"print(ask({call}))\n" for call in calls)
    return site.run(script, **changes).split()


def test_calls_that_no_training_needs_are_refused(site: Site) -> None:
    said = asked(site, *(f"{numbers[_COLUMN]}, {arguments}" for numbers, arguments in CALLS.values()))
    assert dict(zip(CALLS, said, strict=True)) == dict.fromkeys(CALLS, "EPERM")


def test_no_process_with_namespaces_of_its_own_can_be_made(site: Site) -> None:
    clone = (56, 220)[_COLUMN]
    new_user_namespace = f"{clone}, 0x10000000 | 17, 0, 0, 0, 0"
    hidden_from_filters = "435, 0, 0"
    assert asked(site, new_user_namespace, hidden_from_filters) == ["EPERM", "ENOSYS"]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="the second form is x86's")
def test_the_second_form_of_the_calls_is_refused_as_well(site: Site) -> None:
    assert asked(site, "0x40000000 | 101, 0, 0, 0, 0", "0x40000000 | 39") == ["EPERM", "EPERM"]


def test_sockets_are_those_that_libraries_use(site: Site) -> None:
    odd_families = [f"__import__('socket').socket({family}, 3)" for family in (17, 38, 40)]  # packets, crypto, machines
    assert_refused(tried(site, *odd_families))


def test_datagrams_leave_by_neither_sandbox(site: Site) -> None:
    """A network of its own has no way out; without one no such socket is made, unless processes of a run talk."""
    send = "__import__('socket').socket(2, 2).sendto(b'x', ('192.0.2.1', 53))"
    assert_refused(tried(site, send, send.replace("socket(2, 2)", "socket(2, 2 | 0o2000000)")))
    if site.kind == "landlock":
        assert_refused(tried(site, "__import__('socket').socket(10, 2)"))
        assert tried(site, "__import__('socket').socket(2, 2) and 1", talks=True) == ["DONE 1"]


def test_what_libraries_do_every_day_goes_on(site: Site) -> None:
    lines = tried(
        site,
        "__import__('threading').Thread(target=int).start()",
        "__import__('subprocess').run(['/bin/true'], check=True).returncode",
        "__import__('multiprocessing').get_context('fork').Process(target=int).start()",
        "__import__('socket').socketpair() and 1",
        "__import__('socket').socket(1, 1) and 1",
        "__import__('asyncio').run(__import__('asyncio').sleep(0))",
        "__import__('mmap').mmap(-1, 4096).close()",
        "os.sched_setaffinity(0, os.sched_getaffinity(0))",
    )
    assert [line for line in lines if not line.startswith("DONE")] == [], lines
