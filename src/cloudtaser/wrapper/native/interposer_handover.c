/* What a program that is executed next gets of the secrets (interposer.h).
 *
 * Called wherever the program is about to execute another, in the child of a vfork(2) too: it changes nothing of its
 * own and takes no memory but the caller's; a mapping it makes is gone when it returns.
 */

#include "interposer.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447 /* Linux 5.14, the same number everywhere */
#endif
#define PRELOAD "LD_PRELOAD="
#define INTERPRETERS 5 /* "#!" naming a file with "#!": the kernel follows four */
#define HEAD 512

#if defined(__x86_64__)
#define MACHINE EM_X86_64
#elif defined(__aarch64__)
#define MACHINE EM_AARCH64
#endif

/* Whether the dynamic loader that will load the ELF file can load us: there is one, and it is of this architecture. */
static enum target
inspect_elf(int file, const char *head, size_t size)
{
    Elf64_Ehdr header;
    if (size < sizeof header || head[EI_CLASS] != ELFCLASS64 || head[EI_DATA] != ELFDATA2LSB)
        return TAKES_PLAIN;
    for (size_t at = 0; at < sizeof header; at++)
        ((char *)&header)[at] = head[at];
    if (header.e_machine != MACHINE || header.e_phentsize != sizeof(Elf64_Phdr))
        return TAKES_PLAIN;
    for (unsigned index = 0; index < header.e_phnum && index < 128; index++) {
        Elf64_Phdr part;
        long offset = (long)(header.e_phoff + index * sizeof part);
        if (cloudtaser_call(SYS_pread64, file, (long)&part, sizeof part, offset, 0) != (long)sizeof part)
            return TAKES_PLAIN;
        if (part.p_type == PT_INTERP)
            return TAKES_SEGMENT;
    }
    return TAKES_PLAIN;
}

/* One file; where it names an interpreter, `head` holds its path afterwards and MISSING says to look there. */
static enum target
inspect_file(int file, char *head)
{
    struct stat status;
    char *from = head + 2, *to = head;
    long size = cloudtaser_call(SYS_pread64, file, (long)head, HEAD - 1, 0, 0);
    if (cloudtaser_failed(size) || cloudtaser_failed(cloudtaser_call(SYS_fstat, file, (long)&status, 0, 0, 0)))
        return TAKES_PLAIN;
    head[size] = 0;
    if (size > 2 && head[0] == '#' && head[1] == '!') { /* its own rights do not count */
        while (*from == ' ' || *from == '\t')
            from++;
        while (*from && *from != ' ' && *from != '\t' && *from != '\n')
            *to++ = *from++;
        *to = 0;
        return MISSING;
    }
    if (status.st_mode & S_ISUID || (status.st_mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP))
        return PRIVILEGED;
    if (cloudtaser_call(SYS_fgetxattr, file, (long)"security.capability", 0, 0, 0) > 0)
        return PRIVILEGED;
    return cloudtaser_begins(head, ELFMAG) ? inspect_elf(file, head, (size_t)size) : TAKES_PLAIN;
}

enum target
cloudtaser_inspect(const char *path)
{
    char head[HEAD];
    for (int depth = 0; depth < INTERPRETERS; depth++) {
        enum target found;
        long file = cloudtaser_call(SYS_openat, AT_FDCWD, (long)path, O_RDONLY | O_CLOEXEC | O_NONBLOCK, 0, 0);
        if (cloudtaser_failed(file)) /* a file that can be executed, but not read, is none that can be judged */
            return file == -EACCES || file == -EPERM || file == -EMFILE || file == -ENFILE ? TAKES_PLAIN : MISSING;
        found = inspect_file((int)file, head);
        cloudtaser_call(SYS_close, file, 0, 0, 0, 0);
        if (found != MISSING)
            return found;
        path = head;
    }
    return TAKES_PLAIN;
}

size_t
cloudtaser_count(char *const environment[])
{
    size_t count = 0;
    while (environment && environment[count])
        count++;
    return count;
}

size_t
cloudtaser_text_room(char *const environment[])
{
    size_t room = HANDOVER_ROOM;
    for (; environment && *environment; environment++)
        if (cloudtaser_begins(*environment, PRELOAD))
            room += cloudtaser_length(*environment);
    return room;
}

/* Whether the kept descriptor still is that of the segment, and not one that the program put in its place. */
static int
is_kept(void)
{
    struct segment *found;
    int same = 1;
    if (interposer.descriptor < 0)
        return 0;
    found = cloudtaser_map(sizeof *found, PROT_READ, MAP_SHARED, interposer.descriptor);
    if (!found)
        return 0;
    for (size_t at = 0; at < sizeof found->identity; at++)
        same &= found->identity[at] == interposer.segment->identity[at];
    cloudtaser_call(SYS_munmap, (long)found, sizeof *found, 0, 0, 0);
    return same;
}

/* A descriptor of `size` bytes in memory, mapped at *`at`; -1 where there is none. It stays open over an exec. */
static int
new_memory(size_t size, struct segment **at)
{
    static const long ways[] = {SYS_memfd_secret, SYS_memfd_create};
    for (int way = 0; way < 2; way++) {
        long descriptor = way ? cloudtaser_call(ways[way], (long)"cloudtaser", 0, 0, 0, 0)
                              : cloudtaser_call(ways[way], 0, 0, 0, 0, 0);
        if (cloudtaser_failed(descriptor))
            continue;
        if (!cloudtaser_failed(cloudtaser_call(SYS_ftruncate, descriptor, (long)size, 0, 0, 0)) &&
            (*at = cloudtaser_map(size, PROT_READ | PROT_WRITE, MAP_SHARED, (int)descriptor)))
            return (int)descriptor;
        cloudtaser_call(SYS_close, descriptor, 0, 0, 0, 0);
    }
    return -1;
}

static const char *
current(const char *entry)
{
    uint64_t generation = __atomic_load_n(&interposer.segment->generation, __ATOMIC_ACQUIRE);
    const char *found = cloudtaser_find(cloudtaser_block(generation), entry);
    return found ? found : entry;
}

/* "NAME=", what everybody may see of a secret. */
static char *
name_of(const char *entry)
{
    const char *base = (const char *)interposer.segment;
    return (char *)(uintptr_t)cloudtaser_find(base + interposer.segment->names, entry);
}

/* A segment with those secrets that the environment has, and no others: what a program took out stays out. */
static int
copy_segment(char *const environment[], size_t *size)
{
    struct segment *copy;
    char *name, *value;
    size_t names = 1, values = 1;
    int descriptor;
    for (char *const *entry = environment; *entry; entry++)
        if (cloudtaser_is_secret(*entry)) {
            names += cloudtaser_length(name_of(*entry)) + 1;
            values += cloudtaser_length(current(*entry)) + 1;
        }
    *size = (sizeof *copy + names + values + 4095) & ~(size_t)4095;
    descriptor = new_memory(*size, &copy);
    if (descriptor < 0)
        return -1;
    copy->magic = SEGMENT_MAGIC;
    copy->flags = interposer.segment->flags & ~SEGMENT_ROTATES;
    copy->blocks = 1;
    copy->names = sizeof *copy;
    copy->values = copy->names + names;
    copy->block_size = values;
    name = (char *)copy + copy->names;
    value = (char *)copy + copy->values;
    for (char *const *entry = environment; *entry; entry++)
        if (cloudtaser_is_secret(*entry)) {
            name = cloudtaser_put(name, name_of(*entry)) + 1;
            value = cloudtaser_put(value, current(*entry)) + 1;
        }
    cloudtaser_call(SYS_munmap, (long)copy, (long)*size, 0, 0, 0);
    return descriptor;
}

struct handover
cloudtaser_hand_over(enum target target, char *const environment[], char **room, char *text)
{
    struct handover none = {.environment = (char **)(uintptr_t)environment, .descriptor = -1}, made = none;
    const char *theirs = NULL;
    char **to = room;
    size_t size = interposer.size;
    int is_library_there, has_secrets = 0;

    for (char *const *entry = environment; interposer.segment && environment && *entry; entry++)
        has_secrets |= cloudtaser_is_secret(*entry);
    if (!has_secrets || target == MISSING)
        return none;
    is_library_there = !cloudtaser_failed(
        cloudtaser_call(SYS_faccessat, AT_FDCWD, (long)interposer.library, 4 /* R_OK */, 0, 0));
    if (target == TAKES_SEGMENT && is_library_there)
        made.descriptor = is_kept() ? (int)cloudtaser_call(SYS_dup, interposer.descriptor, 0, 0, 0, 0)
                                    : copy_segment(environment, &size);
    if (made.descriptor < 0) {
        made.descriptor = -1;
        if (target != PRIVILEGED && !(interposer.segment->flags & SEGMENT_STRICT))
            return none;
    }
    for (char *const *entry = environment; *entry; entry++) {
        if (made.descriptor >= 0 && cloudtaser_begins(*entry, PRELOAD))
            theirs = *entry + sizeof PRELOAD - 1;
        else if (!cloudtaser_is_secret(*entry))
            *to++ = *entry;
    }
    /* secrets behind the rest: programs that change their title look for their arguments before environ[0] */
    for (char *const *entry = environment; made.descriptor >= 0 && *entry; entry++)
        if (cloudtaser_is_secret(*entry))
            *to++ = name_of(*entry);
    if (made.descriptor >= 0) {
        *to++ = text;
        text = cloudtaser_put(cloudtaser_put(text, PRELOAD), interposer.library);
        if (theirs && *theirs)
            text = cloudtaser_put(cloudtaser_put(text, ":"), theirs);
        *text++ = 0;
        *to++ = text;
        text = cloudtaser_put_number(cloudtaser_put(text, SEGMENT_VARIABLE), (uint64_t)made.descriptor);
        *cloudtaser_put_number(cloudtaser_put(text, ":"), size) = 0;
    }
    *to = NULL;
    made.environment = room;
    return made;
}
