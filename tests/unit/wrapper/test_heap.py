"""The payload's heap (images/wrapper/heap.c), built by itself under other names and used by many."""

from __future__ import annotations

import ctypes
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[3] / "images/wrapper/heap.c"
NAMES = ("malloc", "calloc", "realloc", "free")
ABUSER = """
import ctypes, sys
heap = ctypes.CDLL(sys.argv[1])
heap.heap_malloc.restype = ctypes.c_void_p
block = heap.heap_malloc(ctypes.c_size_t(int(sys.argv[2])))
for offset in map(int, sys.argv[3:]):
    heap.heap_free(ctypes.c_void_p(block + offset))
print("still there")
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("heap") / "libheap.so"
    renamed = [f"-D{name}=heap_{name}" for name in NAMES]
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", "-pthread"]
    subprocess.run(["gcc", *flags, *renamed, str(SOURCE), "-o", str(output)], check=True)
    return output


@pytest.fixture(scope="module")
def heap(library: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(library))
    loaded.heap_malloc.argtypes = [ctypes.c_size_t]
    loaded.heap_calloc.argtypes = [ctypes.c_size_t, ctypes.c_size_t]
    loaded.heap_realloc.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    loaded.heap_free.argtypes = [ctypes.c_void_p]
    loaded.heap_free.restype = None
    for name in ("malloc", "calloc", "realloc"):
        getattr(loaded, f"heap_{name}").restype = ctypes.c_void_p
    return loaded


@pytest.mark.parametrize("seed", range(4))
def test_what_is_written_stays_until_it_is_freed(heap: ctypes.CDLL, seed: int) -> None:
    """Blocks of all sizes, made, grown, shrunk and freed in any order, and no two of them overlap."""
    chance = random.Random(seed)
    blocks: dict[int, bytes] = {}
    for _ in range(4000):
        size = chance.choice((0, 1, 15, 16, 17, 100, 1000, 1024, 1025, 5000, 70_000, 131_072, 131_073))
        size += chance.randrange(32)
        way = chance.random()
        if blocks and way < 0.45:
            block, content = blocks.popitem() if way < 0.2 else _taken(blocks, chance)
            assert ctypes.string_at(block, len(content)) == content
            heap.heap_free(block)
        elif blocks and way < 0.6:
            block, content = _taken(blocks, chance)
            moved = heap.heap_realloc(block, size)
            kept = min(size, len(content))
            assert ctypes.string_at(moved, kept) == content[:kept]
            blocks[moved] = _filled(moved, size, chance)
        else:
            block = heap.heap_calloc(1, size) if way < 0.8 else heap.heap_malloc(size)
            assert block % 16 == 0
            if way < 0.8:
                assert ctypes.string_at(block, size) == bytes(size)
            assert block not in blocks
            blocks[block] = _filled(block, size, chance)
    for block, content in blocks.items():
        assert ctypes.string_at(block, len(content)) == content
        heap.heap_free(block)


def _taken(blocks: dict[int, bytes], chance: random.Random) -> tuple[int, bytes]:
    block = chance.choice(list(blocks))
    return block, blocks.pop(block)


def _filled(block: int, size: int, chance: random.Random) -> bytes:
    content = chance.randbytes(size)
    ctypes.memmove(block, content, size)
    return content


def test_what_was_freed_is_used_again(heap: ctypes.CDLL) -> None:
    block = heap.heap_malloc(3000)
    heap.heap_free(block)
    assert heap.heap_malloc(2900) == block
    heap.heap_free(block)


def test_what_cannot_be_had_is_refused(heap: ctypes.CDLL) -> None:
    for size in (2**64 - 1, 2**63, 2**63 - 4096, 2**62):
        assert heap.heap_malloc(size) is None
    assert heap.heap_calloc(2**33, 2**33) is None
    block = heap.heap_malloc(10)
    assert heap.heap_realloc(block, 2**62) is None
    heap.heap_free(block)  # which a failed realloc leaves alone
    heap.heap_free(None)


@pytest.mark.parametrize(
    ("size", "offsets"),
    [
        pytest.param("40", ["0", "0"], id="twice"),
        pytest.param("3000", ["0", "0"], id="twice, larger"),
        pytest.param("400", ["32"], id="inside a block"),
        pytest.param("200000", ["64"], id="inside a mapping"),
    ],
)
def test_freeing_what_is_no_block_ends_the_process(library: Path, size: str, offsets: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", ABUSER, str(library), size, *offsets], capture_output=True, timeout=60
    )
    assert done.returncode in (-signal.SIGILL, -signal.SIGTRAP), done.stdout


def test_threads_get_blocks_of_their_own(library: Path, tmp_path: Path) -> None:
    program, source = tmp_path / "threads", tmp_path / "threads.c"
    source.write_text(
        """
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
void *heap_malloc(size_t); void heap_free(void *);
static void *work(void *mine) {
    unsigned char *blocks[64] = {0}, me = *(unsigned char *)mine;
    for (unsigned turn = 0, next = me; turn < 200000; turn++, next = next * 1103515245 + 12345) {
        unsigned char **at = &blocks[next >> 16 & 63]; size_t size = 1 + (next >> 22 & 255);
        if (*at) {
            for (size_t index = 0; index < (*at)[0]; index++) if ((*at)[1 + index] != me) abort();
            heap_free(*at); *at = NULL;
        } else {
            *at = heap_malloc(size + 1); (*at)[0] = (unsigned char)size; memset(*at + 1, me, size);
        }
    }
    return NULL;
}
int main(void) {
    pthread_t threads[4]; unsigned char names[4] = {1, 2, 3, 4};
    for (int i = 0; i < 4; i++) if (pthread_create(&threads[i], NULL, work, &names[i])) abort();
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    return 0;
}
"""
    )
    found = [str(library), f"-Wl,-rpath,{library.parent}"]
    subprocess.run(["gcc", "-O2", "-pthread", str(source), *found, "-o", str(program)], check=True)
    assert subprocess.run([str(program)], timeout=300).returncode == 0
