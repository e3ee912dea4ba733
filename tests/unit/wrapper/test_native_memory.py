"""Secret memory: what it keeps apart, what it gives back as zeros, and what happens to whoever oversteps.

What ends a process happens in one of its own; there the kernel's limits can be lowered too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import mmap
import pickle
import random
import resource
import signal
import subprocess
import sys
import textwrap

import pytest

import _cloudtaser
from _cloudtaser import Memory
from cloudtaser.wrapper.buffers import Buffer
from tests.unit.wrapper.launch import IN_ITS_PLACE

SHARED = 4096
PAGE = mmap.PAGESIZE
WITHOUT_PRIVILEGE = """
import ctypes, os, resource, sys
ctypes.CDLL(None).prctl(24, 14, 0, 0, 0)  # PR_CAPBSET_DROP, CAP_IPC_LOCK: then limits are meant
resource.setrlimit(resource.RLIMIT_MEMLOCK, ({limit}, {limit}))
os.execv(sys.executable, [sys.executable, "-I", "-S", "-c", sys.argv[1], *sys.argv[2:]])
"""


def in_a_process(
    code: str, *, limit: int | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run Python code with the extension; with `limit`, under that RLIMIT_MEMLOCK in bytes, unprivileged."""
    start = [sys.executable, "-I", "-S", "-c"]
    if limit is not None:
        start += [WITHOUT_PRIVILEGE.format(limit=limit)]
    begin = IN_ITS_PLACE + "import _cloudtaser, ctypes, gc, json, os; from _cloudtaser import Memory\n"
    arguments = [*start, begin + textwrap.dedent(code)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=60, env=environment, check=False)


def reported(code: str, *, limit: int | None = None, **environment: str) -> dict[str, int]:
    """The memory's report at the end of the code."""
    code = textwrap.dedent(code) + "\nprint(json.dumps(_cloudtaser.report()))"
    done = in_a_process(code, limit=limit, **environment)
    assert done.returncode == 0, done.stderr
    report: dict[str, int] = json.loads(done.stdout)
    return report


# -- the type


def test_it_has_bounds() -> None:
    memory = Memory(10)
    assert (len(memory), bytes(memoryview(memory))) == (10, bytes(10))
    for index in (10, 11, -11, 1 << 62):
        with pytest.raises(IndexError):
            memory[index]
    with pytest.raises(IndexError):
        memoryview(memory)[10] = 1
    for start, end in ((0, 11), (-1, 5), (6, 5)):
        with pytest.raises(IndexError):
            memory.wipe(start, end)
    with pytest.raises(ValueError):
        Memory(-1)
    for size in (1 << 40, sys.maxsize):
        with pytest.raises(MemoryError):
            Memory(size)
    assert len(Memory(0)) == 0


def test_it_finds_within_the_range_alone() -> None:
    memory = Memory(20)
    memoryview(memory)[5:8] = b"abc"
    assert memory.find(b"abc", 0, 20) == 5
    assert memory.find(b"abc", 0, 1000) == 5
    assert memory.find(b"abc", 0, 7) == memory.find(b"abc", 6, 20) == memory.find(b"abc", 30, 20) == -1
    assert memory.find(b"abc", -1, 20) == -1
    assert memory.find(b"", 0, 20) == 0


def test_it_shows_itself_to_nobody() -> None:
    memory = Memory(6)
    memoryview(memory)[:] = b"secret"
    assert "secret" not in repr(memory) + str(memory)
    with pytest.raises(TypeError):
        pickle.dumps(memory)
    with pytest.raises(TypeError):

        class _More(Memory):
            pass


def test_what_is_freed_is_zeroed_before_anybody_gets_it_again() -> None:
    address: set[int] = set()
    for size in (100, 100, SHARED + 1, 100):
        memory = Memory(size)
        view = memoryview(memory)
        assert not any(view)
        view[:] = b"\xff" * size
        address.add(ctypes.addressof(ctypes.c_char.from_buffer(view)))
        del view, memory
    assert len(address) < 4  # the same place was had again


def test_a_view_keeps_its_memory() -> None:
    view = memoryview(Memory(100))
    view[:3] = b"abc"
    others = [Memory(100) for _ in range(50)]
    assert bytes(view[:3]) == b"abc"
    assert all(not any(memoryview(other)) for other in others)


@pytest.mark.parametrize("seed", range(5))
def test_neighbours_never_touch(seed: int) -> None:
    choose = random.Random(seed)
    held: dict[int, Memory] = {}
    for number in range(600):
        if held and choose.random() < 0.45:
            key = choose.choice(list(held))
            assert set(memoryview(held.pop(key))) == {key % 251 + 1}
        size = choose.choice([1, 2, 15, 16, 17, 100, 1000, SHARED - 1, SHARED, SHARED + 1, 20_000])
        held[number] = Memory(size)
        memoryview(held[number])[:] = bytes([number % 251 + 1]) * size
        _cloudtaser.check()
    for key, memory in held.items():
        assert set(memoryview(memory)) == {key % 251 + 1}
    report = _cloudtaser.report()
    assert report["intact"] == report["blocks"]
    assert report["guarded"] == report["chunks"]
    assert report["left_out"] == report["secret"] + report["locked"] + report["plain"]


def test_what_is_no_longer_needed_is_given_back() -> None:
    gc.collect()  # what other tests left
    before = _cloudtaser.report()
    buffer = Buffer(1 << 20, 8 << 20)
    small = [Memory(SHARED) for _ in range(100)]
    during = _cloudtaser.report()
    assert total(during) >= total(before) + (1 << 20) + 100 * SHARED
    del buffer, small
    assert total(_cloudtaser.report()) <= total(before) + 16_384  # one slab is kept


def total(report: dict[str, int]) -> int:
    return report["secret"] + report["locked"] + report["plain"]


def test_a_buffer_that_grows_takes_its_content_along() -> None:
    buffer = Buffer(10, 100_000)
    content = bytes(range(256)) * 100
    for start in range(0, len(content), 77):
        buffer.append(content[start : start + 77])
    assert bytes(buffer.view()) == content
    buffer.truncate(300)
    assert bytes(buffer.view()) == content[:300]
    assert not any(buffer.view(300, 400))
    with pytest.raises(OverflowError):
        buffer.append(bytes(100_000))


# -- the limits


def test_what_the_limit_does_not_allow_is_reported_as_plain() -> None:
    report = reported("kept = [Memory(10_000) for _ in range(10)]", limit=65_536)
    assert 0 < report["secret"] <= 65_536
    assert report["plain"] > 0
    assert report["limit"] == 65_536
    assert report["guarded"] == report["chunks"] == 10
    assert report["left_out"] == total(report)


def test_small_buffers_share_what_the_limit_allows() -> None:
    report = reported("kept = [Memory(100) for _ in range(300)]", limit=65_536)
    assert (report["plain"], report["locked"]) == (0, 0)
    assert report["blocks"] == 300


def test_where_memfd_secret_is_required_nothing_else_is_given() -> None:
    code = """
    _cloudtaser.require()
    kept = []
    try:
        while True:
            kept.append(Memory(10_000))
    except MemoryError as error:
        assert "RLIMIT_MEMLOCK" in str(error)
    """
    report = reported(code, limit=65_536)
    assert (report["plain"], report["locked"]) == (0, 0)
    done = in_a_process("_cloudtaser.require()", limit=0)
    assert "MemoryError" in done.stderr
    done = in_a_process("kept = Memory(1); _cloudtaser.require()", limit=0)
    assert "in use" in done.stderr


def test_without_memory_at_all_there_is_an_error_and_no_crash() -> None:
    code = """
    import resource
    resource.setrlimit(resource.RLIMIT_AS, (1 << 27, 1 << 27))
    try:
        kept = [Memory(1 << 22) for _ in range(1000)]
    except MemoryError:
        print("refused")
    """
    assert in_a_process(code).stdout == "refused\n"


# -- those who overstep

ADDRESS = "address = ctypes.addressof(ctypes.c_char.from_buffer(memoryview(memory)))"


@pytest.mark.parametrize("size", [1, 100, SHARED, SHARED + 1, 100_000])
@pytest.mark.parametrize("where", ["-1", "size", "size + 15"])
def test_a_broken_canary_ends_the_process_with_one_line(size: int, where: str) -> None:
    code = f"""
    size = {size}; memory = Memory(size); {ADDRESS}
    ctypes.memset(address + {where}, 0, 1) if ctypes.string_at(address + {where}, 1) != b"\\0" else (
        ctypes.memset(address + {where}, 1, 1))
    assert _cloudtaser.report()["intact"] == 0
    %s
    print("survived")
    """
    spawn = "_cloudtaser.spawn([b'/bin/true'], [b'true'], [], [], -1, [], [], [], [])"
    for way in ("_cloudtaser.check()", "gc.collect(); del memory", spawn):
        done = in_a_process(code % way)
        assert done.returncode == -signal.SIGABRT
        assert done.stdout == ""
        (line,) = done.stderr.splitlines()
        assert "canary" in json.loads(line)["event"]


@pytest.mark.parametrize("size", [SHARED + 1, 100_000])
def test_guard_pages_stop_who_runs_on(size: int) -> None:
    for where in (f"address + {size} + 32", f"address // {PAGE} * {PAGE} - 1"):
        done = in_a_process(f"memory = Memory({size}); {ADDRESS}; ctypes.memset({where}, 65, 1)")
        assert done.returncode == -signal.SIGSEGV


def test_a_fork_finds_zeros_and_the_parent_keeps_its_own() -> None:
    code = """
    memory = Memory(100); memoryview(memory)[:] = b"x" * 100
    large = Memory(100_000); memoryview(large)[:] = b"y" * 100_000
    pid = os.fork()
    if not pid:
        _cloudtaser.check()
        clean = not any(memoryview(memory)) and not any(memoryview(large))
        report = _cloudtaser.report()
        alone = report["secret"] == report["locked"] == 0 and report["left_out"] == report["plain"]
        del memory, large
        fresh = Memory(50_000)
        os._exit(0 if clean and alone else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert bytes(memoryview(memory)) == b"x" * 100 and bytes(memoryview(large)) == b"y" * 100_000
    """
    assert reported(code)["plain"] == 0


def test_wiping_everything_leaves_zeros_and_whole_canaries() -> None:
    code = """
    memory = Memory(100); memoryview(memory)[:] = b"x" * 100
    _cloudtaser.wipe_everything()
    assert not any(memoryview(memory))
    """
    report = reported(code)
    assert report["intact"] == report["blocks"] == 1


def test_a_closed_process_is_not_dumpable_and_dies_of_a_fault() -> None:
    assert reported("_cloudtaser.close_process()")["dumpable"] == 0
    done = in_a_process("_cloudtaser.close_process(); memory = Memory(9); ctypes.string_at(8)")
    assert done.returncode == -signal.SIGSEGV


def test_a_fault_wipes_before_it_kills() -> None:
    """Seen through a second mapping of what stands for secret memory: a shared page, by address."""
    code = f"""
    import mmap
    shared = mmap.mmap(-1, 4 * 16384)
    pid = os.fork()
    if not pid:
        memory = Memory(100); {ADDRESS}
        page = address // 16384 * 16384
        libc = ctypes.CDLL(None); libc.mremap.restype = ctypes.c_void_p
        libc.mmap.restype = ctypes.c_void_p
        # the pages of the block are replaced by pages that the parent sees as well
        start = address // 4096 * 4096
        place = ctypes.addressof(ctypes.c_char.from_buffer(shared))
        before = ctypes.string_at(start, 4096)
        moved = libc.mremap(ctypes.c_void_p(place), 0, 16384, 3, ctypes.c_void_p(start))
        assert moved == start
        ctypes.memmove(start, before, 4096)
        memoryview(memory)[:] = b"x" * 100
        _cloudtaser.close_process()
        ctypes.string_at(8)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 11
    assert b"x" not in shared[:]
    """
    done = in_a_process(code)
    assert done.returncode == 0, done.stderr


# -- the environment


def test_a_variable_is_taken_out_of_the_process() -> None:
    code = """
    assert b"hunter2" in open("/proc/self/environ", "rb").read()
    assert _cloudtaser.initial_environment_holds(b"hunter2")
    taken = _cloudtaser.take_variable(b"TOKEN")
    assert bytes(memoryview(taken)) == b"hunter2"
    assert _cloudtaser.take_variable(b"TOKEN") is None
    assert _cloudtaser.take_variable(b"TOKE") is None
    assert not _cloudtaser.initial_environment_holds(b"hunter2")
    after = open("/proc/self/environ", "rb").read()
    assert b"hunter2" not in after and b"OTHER=kept" in after and b"TOKENS=kept" in after
    libc = ctypes.CDLL(None); libc.getenv.restype = ctypes.c_char_p
    assert libc.getenv(b"TOKEN") is None and libc.getenv(b"OTHER") == b"kept"
    """
    reported(code, TOKEN="hunter2", OTHER="kept", TOKENS="kept")


def test_bytes_are_wiped_in_place() -> None:
    data = b"".join([b"hun", b"ter2"])
    _cloudtaser.wipe_bytes(data)
    assert data == bytes(7)
    _cloudtaser.wipe_bytes(b"x")
    assert bytes([120]) == b"x"  # a byte that the whole interpreter shares
    with pytest.raises(TypeError):
        _cloudtaser.wipe_bytes(bytearray(3))  # type: ignore[arg-type]  # what is refused


def test_the_limit_of_this_process_is_told() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    assert _cloudtaser.report()["limit"] == soft
