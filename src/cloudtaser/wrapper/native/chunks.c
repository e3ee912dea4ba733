/* Chunks: where the pages of secret memory come from.
 *
 * A chunk of pages stands between two guard pages. Its pages are, in this order of preference: memfd_secret(2),
 * which no other process reads through /proc or ptrace's calls and which the kernel takes out of its own map; anonymous
 * pages locked by mlock(2); anonymous pages. The first two count against RLIMIT_MEMLOCK, 64 KiB in some pods. What does
 * not fit is in plain pages and is reported as such, or refused where memfd_secret is required. A process that forks hands
 * none of it on: the child finds zeros. All of it is under the interpreter's lock.
 */

#include "native.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* Linux 5.14, the same number everywhere */
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* Linux 4.14 */
#endif

struct chunk *cloudtaser_chunks;
int cloudtaser_is_required;

static int has_no_secret_memory; /* the kernel said that it never has any */

size_t
cloudtaser_page(void)
{
    static size_t page;
    if (!page)
        page = (size_t)sysconf(_SC_PAGESIZE);
    return page;
}

int
cloudtaser_secret_descriptor(size_t size)
{
    int fd = (int)syscall(SYS_memfd_secret, O_CLOEXEC);
    if (fd < 0)
        return -1;
    if (ftruncate(fd, (off_t)size) < 0) {
        int problem = errno;
        close(fd);
        errno = problem;
        return -1;
    }
    return fd;
}

/* The pages of a chunk as memfd_secret; the descriptor is closed at once, or it could be taken by pidfd_getfd(2). */
static int
map_secret(unsigned char *data, size_t size)
{
    int fd, failed;
    if (has_no_secret_memory)
        return -1;
    fd = cloudtaser_secret_descriptor(size);
    if (fd < 0) {
        has_no_secret_memory = errno == ENOSYS || errno == EPERM || errno == EINVAL;
        return -1;
    }
    failed = mmap(data, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED;
    close(fd);
    if (!failed) /* not MADV_WIPEONFORK, which shared pages cannot have; see `forked` */
        failed = madvise(data, size, MADV_DONTFORK) < 0;
    return failed ? -1 : 0;
}

/* Room for `size` bytes between two guard pages; nothing can be touched yet. NULL where there is no address space. */
static unsigned char *
reserve(size_t size)
{
    size_t page = cloudtaser_page();
    void *base = mmap(NULL, size + 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return base == MAP_FAILED ? NULL : (unsigned char *)base + page;
}

static void
give_back(unsigned char *data, size_t size)
{
    munmap(data - cloudtaser_page(), size + 2 * cloudtaser_page());
}

struct chunk *
cloudtaser_new_chunk(size_t size, int is_slab)
{
    struct chunk *chunk = PyMem_RawCalloc(1, sizeof *chunk);
    unsigned char *data = chunk ? reserve(size) : NULL;
    enum kind kind = KIND_SECRET;

    if (!data)
        goto none;
    if (map_secret(data, size) < 0) {
        give_back(data, size); /* a failed MAP_FIXED may leave a hole */
        if (cloudtaser_is_required || !(data = reserve(size)))
            goto none;
        if (mmap(data, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED) {
            give_back(data, size);
            goto none;
        }
        madvise(data, size, MADV_WIPEONFORK);
        kind = mlock(data, size) < 0 ? KIND_PLAIN : KIND_LOCKED;
    }
    chunk->left_out = madvise(data, size, MADV_DONTDUMP) == 0;
    chunk->data = data;
    chunk->size = size;
    chunk->kind = kind;
    chunk->is_slab = is_slab;
    chunk->next = cloudtaser_chunks;
    cloudtaser_chunks = chunk;
    return chunk;
none:
    PyMem_RawFree(chunk);
    return NULL;
}

void
cloudtaser_free_chunk(struct chunk *chunk)
{
    struct chunk **at = &cloudtaser_chunks;
    while (*at != chunk)
        at = &(*at)->next;
    *at = chunk->next;
    give_back(chunk->data, chunk->size);
    PyMem_RawFree(chunk);
}

/* In a child of fork(2), which has none of the pages: the same addresses, zeros, and canaries as they should be. */
static void
forked(void)
{
    for (struct chunk *chunk = cloudtaser_chunks; chunk; chunk = chunk->next) {
        if (chunk->kind == KIND_SECRET) {
            if (mmap(chunk->data, chunk->size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                     0) == MAP_FAILED)
                _exit(70);
            madvise(chunk->data, chunk->size, MADV_WIPEONFORK);
            madvise(chunk->data, chunk->size, MADV_DONTDUMP);
        }
        chunk->kind = KIND_PLAIN; /* locks are not inherited */
        for (struct memory *block = chunk->first; block; block = block->after)
            cloudtaser_stamp(block);
    }
}

int
cloudtaser_add_chunks(PyObject *module)
{
    static int is_registered;
    if (!is_registered && pthread_atfork(NULL, NULL, forked) != 0) {
        PyErr_NoMemory();
        return -1;
    }
    is_registered = 1;
    return 0;
}
