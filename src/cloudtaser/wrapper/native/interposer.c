/* The interposer's start and what reads variables (interposer.h).
 *
 * The kernel's copy of the environment, /proc/PID/environ, holds "NAME=" for each secret. Before any other code of the
 * program runs, those entries are pointed to "NAME=value" in the segment: in the very array that the kernel made, so
 * that whoever finds its environment there sees them too (main's envp, Go). Nothing moves, and setenv, putenv, unsetenv
 * and clearenv of the program's libc work as ever.
 */

#include "interposer.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#define PRELOAD "LD_PRELOAD="

struct interposer interposer = {.descriptor = -1};

/* For what the compiler makes of loops and initialisers. */
__attribute__((visibility("hidden"))) void *
memset(void *to, int byte, size_t size)
{
    for (volatile unsigned char *at = to; size--; at++)
        *at = (unsigned char)byte;
    return to;
}

__attribute__((visibility("hidden"))) void *
memcpy(void *restrict to, const void *restrict from, size_t size)
{
    volatile unsigned char *at = to;
    for (const unsigned char *byte = from; size--; byte++)
        *at++ = *byte;
    return to;
}

long
cloudtaser_call(long number, long a, long b, long c, long d, long e)
{
#if defined(__x86_64__)
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = 0;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = 0;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
#error "no system calls for this architecture"
#endif
}

int
cloudtaser_failed(long result)
{
    return result < 0 && result >= -4095;
}

void *
cloudtaser_map(size_t size, int protection, int flags, int descriptor)
{
    long at = cloudtaser_call(SYS_mmap, 0, (long)size, protection, flags, descriptor); /* the sixth, offset, is 0 */
    return cloudtaser_failed(at) ? NULL : (void *)at;
}

size_t
cloudtaser_length(const char *text)
{
    size_t length = 0;
    while (text[length])
        length++;
    return length;
}

int
cloudtaser_begins(const char *text, const char *with)
{
    while (*with && *text == *with)
        text++, with++;
    return !*with;
}

char *
cloudtaser_put(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
    return at;
}

char *
cloudtaser_put_number(char *at, uint64_t number)
{
    char digits[20];
    int count = 0;
    do
        digits[count++] = (char)('0' + number % 10);
    while (number /= 10);
    while (count)
        *at++ = digits[--count];
    return at;
}

const char *
cloudtaser_block(uint64_t generation)
{
    const struct segment *segment = interposer.segment;
    return (const char *)segment + segment->values + generation % segment->blocks * segment->block_size;
}

static uint64_t
generation(void)
{
    return __atomic_load_n(&interposer.segment->generation, __ATOMIC_ACQUIRE);
}

/* Whether both are "NAME=…" with the same name. */
static int
has_same_name(const char *one, const char *other)
{
    while (*one == *other && *one && *one != '=')
        one++, other++;
    return *one == '=' && *other == '=';
}

/* Whether it is "NAME=" alone. */
static int
is_empty(const char *entry)
{
    while (*entry && *entry != '=')
        entry++;
    return *entry == '=' && !entry[1];
}

const char *
cloudtaser_find(const char *block, const char *entry)
{
    for (; *block; block += cloudtaser_length(block) + 1)
        if (has_same_name(block, entry))
            return block;
    return NULL;
}

int
cloudtaser_is_secret(const char *entry)
{
    const char *segment = (const char *)interposer.segment;
    if (entry >= segment && entry < segment + interposer.size)
        return 1;
    for (uint64_t index = 0; index < interposer.segment->blocks; index++) {
        const char *known = cloudtaser_find(cloudtaser_block(index), entry);
        if (known && cloudtaser_begins(known, entry) && !known[cloudtaser_length(entry)])
            return 1;
    }
    return 0;
}

/* Whether what was mapped can be used; the wrapper made it, but a descriptor can be anything. */
static int
is_segment(const struct segment *segment, size_t size)
{
    uint64_t room = segment->block_size;
    if (segment->magic != SEGMENT_MAGIC || !segment->blocks || segment->blocks > 64 || !room || room > size)
        return 0;
    return segment->names < size && segment->values < size && segment->values > segment->names &&
           room * segment->blocks <= size - segment->values;
}

static uint64_t
number(const char **text)
{
    uint64_t found = 0;
    for (; **text >= '0' && **text <= '9'; (*text)++)
        found = found * 10 + (uint64_t)(**text - '0');
    return found;
}

/* Whether a descriptor's file is as long as that: what is mapped behind its end ends the program when it is read. */
static int
holds(int descriptor, size_t size)
{
    struct stat about;
    if (cloudtaser_failed(cloudtaser_call(SYS_fstat, descriptor, (long)&about, 0, 0, 0)))
        return 0;
    return about.st_size >= 0 && (uint64_t)about.st_size >= size;
}

/* Map what "descriptor:size" names; NULL where it is no segment. It can be written, as the strings of an environment can
 * (bash does so while it reads them): where values change that is memory shared with whoever was started since. */
static struct segment *
map_segment(int descriptor, size_t size)
{
    struct segment *found = NULL;
    if (size <= sizeof *found || !holds(descriptor, size))
        return NULL;
    found = cloudtaser_map(size, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor);
    if (!found) /* a sealed memfd: what is written is a copy */
        found = cloudtaser_map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE, descriptor);
    if (found && !is_segment(found, size)) {
        cloudtaser_call(SYS_munmap, (long)found, (long)size, 0, 0, 0);
        found = NULL;
    }
    return found;
}

/* A program with more rights than its caller takes nothing. */
static void
take(const char *text)
{
    int descriptor = (int)number(&text);
    size_t size = *text == ':' ? (text++, (size_t)number(&text)) : 0;
    struct segment *found = getauxval(AT_SECURE) ? NULL : map_segment(descriptor, size);
    if (found && found->flags & SEGMENT_ROTATES) {
        interposer.descriptor = descriptor;
        cloudtaser_call(SYS_fcntl, descriptor, F_SETFD, FD_CLOEXEC, 0, 0);
    } else {
        cloudtaser_call(SYS_close, descriptor, 0, 0, 0, 0);
    }
    if (!found)
        return;
    cloudtaser_call(SYS_madvise, (long)found, (long)size, MADV_DONTDUMP, 0, 0);
    interposer.segment = found;
    interposer.size = size;
}

/* "LD_PRELOAD=ours:theirs" becomes "LD_PRELOAD=theirs"; 0 where nothing is left of it. */
static int
leave_theirs(char *entry)
{
    char *first = entry + sizeof PRELOAD - 1, *rest = first;
    size_t length = 0;
    while (*rest && *rest != ':' && *rest != ' ')
        rest++;
    length = (size_t)(rest - first);
    if (length < sizeof interposer.library)
        memcpy(interposer.library, first, length);
    if (!*rest) {
        memset(entry, 0, cloudtaser_length(entry));
        return 0;
    }
    length = cloudtaser_length(++rest);
    for (size_t at = 0; at < length; at++)
        first[at] = rest[at];
    memset(first + length, 0, (size_t)(rest - first));
    return 1;
}

static void
start(int count, char **arguments, char **given)
{
    (void)count, (void)arguments;
    /* musl has set `environ` and hands over nothing; glibc hands it over and may not have set it yet */
    char **environment = environ ? environ : given, **to = environment;
    char *variable = NULL;
    for (char **at = environment; at && *at; at++)
        if (cloudtaser_begins(*at, SEGMENT_VARIABLE))
            variable = *at;
    if (!variable)
        return;
    take(variable + sizeof SEGMENT_VARIABLE - 1);
    for (char **at = environment; *at; at++) {
        const char *secret = NULL;
        if (*at == variable) {
            memset(variable, 0, cloudtaser_length(variable));
            continue;
        }
        if (cloudtaser_begins(*at, PRELOAD) && !leave_theirs(*at))
            continue;
        if (interposer.segment && is_empty(*at))
            secret = cloudtaser_find(cloudtaser_block(generation()), *at);
        *to++ = secret ? (char *)(uintptr_t)secret : *at;
    }
    for (; *to; to++)
        *to = NULL;
}

__attribute__((section(".init_array"), used)) static void (*const at_start)(int, char **, char **) = start;

/* Once newer values have come: point what shows older ones to them, be it a copy that the program made of an older. */
static void
renew(void)
{
    static uint64_t shown;
    uint64_t now = generation();
    const char *current = cloudtaser_block(now);
    if (__atomic_exchange_n(&shown, now, __ATOMIC_ACQ_REL) == now)
        return;
    for (char **at = environ; at && *at; at++) {
        const char *entry = __atomic_load_n(at, __ATOMIC_RELAXED);
        const char *newer = cloudtaser_find(current, entry);
        if (newer && newer != entry && cloudtaser_is_secret(entry))
            __atomic_store_n(at, (char *)(uintptr_t)newer, __ATOMIC_RELEASE);
    }
}

EXPORTED char *
getenv(const char *name)
{
    size_t length = cloudtaser_length(name);
    if (interposer.segment && interposer.segment->flags & SEGMENT_ROTATES)
        renew();
    for (char **at = environ; length && at && *at; at++)
        if (cloudtaser_begins(*at, name) && (*at)[length] == '=')
            return *at + length + 1;
    return NULL;
}

EXPORTED char *
secure_getenv(const char *name)
{
    return getauxval(AT_SECURE) ? NULL : getenv(name);
}
