/* The payload's heap, in musl's place.
 *
 * musl's own asks the kernel for a few pages at a time and gives them back at once, two hundred times before the
 * application runs, which is a tenth of the start. This one takes pages by the megabyte, keeps what is freed by size, and
 * finds it again without a search: the wrapper is small, and what it needs once it needs again. Blocks of more than LARGE
 * bytes have a mapping of their own, which goes back to the kernel. Each block has a head with a mark of this process: a
 * block that is freed twice, or was never one, ends the process. Secrets lie elsewhere (native/memory.c).
 *
 * Nobody forks and goes on in Python here; a child of fork(2) while a look-up runs might find the lock taken.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>

#define UNIT 16              /* of sizes and of alignment, and the size of a head */
#define FINE ((size_t)1024)  /* up to here a class for each UNIT; above it, four for each doubling */
#define LARGE ((size_t)128 << 10)
#define CLASSES (FINE / UNIT + 4 * 7 + 1)
#define FIRST ((size_t)256 << 10) /* of the program itself; an ordinary start takes more */
#define REGION ((size_t)1 << 20)

enum state { FREE = 1, USED, MAPPED };

struct head {
    size_t size; /* bytes behind the head */
    uint64_t mark;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static _Alignas(UNIT) unsigned char first[FIRST];
static unsigned char *next_free = first, *region_end = first + FIRST;
static void *freed[CLASSES];
static uint64_t secret;

static struct head *
head_of(void *block)
{
    return (struct head *)block - 1;
}

static uint64_t
mark(const struct head *head, enum state state)
{
    return (secret ^ (uintptr_t)head) + state;
}

/* The class of a size up to LARGE, and in `*size` that of its blocks. */
static size_t
class_of(size_t *size)
{
    size_t rounded = (*size + UNIT - 1) / UNIT * UNIT, step = FINE / 4, index = FINE / UNIT;
    if (rounded <= FINE) {
        *size = rounded ? rounded : UNIT;
        return *size / UNIT - 1;
    }
    for (size_t from = FINE;; from *= 2, step *= 2, index += 4)
        if (rounded <= 2 * from) {
            size_t steps = (rounded - from + step - 1) / step;
            *size = from + steps * step;
            return index + steps - 1;
        }
}

static void *
own_mapping(size_t size)
{
    size_t whole = (size + sizeof(struct head) + 4095) / 4096 * 4096;
    struct head *head = mmap(NULL, whole, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (head == MAP_FAILED)
        return NULL;
    head->size = whole - sizeof *head;
    head->mark = mark(head, MAPPED);
    return head + 1;
}

/* Fresh bytes behind the last block; under the lock. */
static struct head *
fresh(size_t size)
{
    size_t whole = size + sizeof(struct head);
    if ((size_t)(region_end - next_free) < whole) {
        unsigned char *region = mmap(NULL, REGION, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (region == MAP_FAILED)
            return NULL;
        next_free = region; /* the rest of the old one is lost: at most LARGE of each REGION */
        region_end = region + REGION;
    }
    struct head *head = (struct head *)(void *)next_free;
    next_free += whole;
    head->size = size;
    return head;
}

static void *
allocate(size_t size, int *is_fresh)
{
    if (!secret) {
        memcpy(&secret, (const void *)getauxval(AT_RANDOM), sizeof secret); /* before there is a second thread */
        secret |= 1;
    }
    *is_fresh = 1;
    if (size > LARGE)
        return size > PTRDIFF_MAX - REGION ? NULL : own_mapping(size);
    size_t class = class_of(&size);
    pthread_mutex_lock(&lock);
    void *block = freed[class];
    struct head *head;
    if (block) {
        head = head_of(block);
        if (head->mark != mark(head, FREE))
            __builtin_trap();
        memcpy(&freed[class], block, sizeof block);
        *is_fresh = 0;
    } else {
        head = fresh(size);
    }
    pthread_mutex_unlock(&lock);
    if (!head)
        return NULL;
    head->mark = mark(head, USED);
    return head + 1;
}

void *
malloc(size_t size)
{
    int is_fresh;
    void *block = allocate(size, &is_fresh);
    if (!block)
        errno = ENOMEM;
    return block;
}

void *
calloc(size_t count, size_t size)
{
    int is_fresh;
    void *block = NULL;
    if (!__builtin_mul_overflow(count, size, &size))
        block = allocate(size, &is_fresh);
    if (!block)
        errno = ENOMEM;
    else if (!is_fresh)
        memset(block, 0, size);
    return block;
}

void
free(void *block)
{
    if (!block)
        return;
    struct head *head = head_of(block);
    if (head->mark == mark(head, MAPPED)) {
        int problem = errno;
        munmap(head, head->size + sizeof *head);
        errno = problem;
        return;
    }
    if (head->mark != mark(head, USED))
        __builtin_trap();
    size_t size = head->size, class = class_of(&size);
    pthread_mutex_lock(&lock);
    head->mark = mark(head, FREE);
    memcpy(block, &freed[class], sizeof block);
    freed[class] = block;
    pthread_mutex_unlock(&lock);
}

void *
realloc(void *block, size_t size)
{
    if (!block)
        return malloc(size);
    struct head *head = head_of(block);
    if (head->mark != mark(head, USED) && head->mark != mark(head, MAPPED))
        __builtin_trap();
    if (size <= head->size && size > head->size / 4) /* what has become much smaller moves */
        return block;
    void *moved = malloc(size);
    if (!moved)
        return NULL;
    memcpy(moved, block, size < head->size ? size : head->size);
    free(block);
    return moved;
}
