/* The interposer `libcloudtaser.so`: what its files share.
 *
 * The wrapper preloads it into the application where CLOUDTASER_DELIVERY is `memory` (docs/wrapper.md). Secrets come
 * in a segment, by an inherited descriptor; the environment that the kernel keeps for everybody to read holds only
 * their names. It needs no libc of its own and works with the program's, be it glibc or musl: system calls are made
 * here, and the few functions that it wants are taken from whatever libc is there.
 *
 *   interposer.c           the start: map the segment, put the secrets into `environ`; getenv
 *   interposer_handover.c  what a program that is executed next gets: a segment, or no secrets
 *   interposer_exec.c      exec*
 *   interposer_spawn.c     posix_spawn, system, popen
 */

#ifndef CLOUDTASER_INTERPOSER_H
#define CLOUDTASER_INTERPOSER_H

#include <stddef.h>
#include <stdint.h>

#if defined(__aarch64__) && !defined(__clang__)
#pragma GCC target("no-outline-atomics") /* which are functions of gcc's own library, and nothing is linked here */
#endif

#define EXPORTED __attribute__((visibility("default")))
#define LONGEST_PATH 4096

#define SEGMENT_VARIABLE "CLOUDTASER_SEGMENT=" /* descriptor:size, both decimal */
#define SEGMENT_MAGIC 0x31676573726b7463u      /* "ctkrseg1" */
#define SEGMENT_ROTATES 1u                     /* the wrapper writes newer blocks into it: the descriptor is kept */
#define SEGMENT_STRICT 2u                      /* no secret for a program that cannot take a segment */

/* A segment: this header, the names, then `blocks` blocks of `block_size` bytes, of which `generation % blocks` holds
 * what is current. Names are "NAME=\0" each, a block "NAME=value\0" each; an empty string is behind the last. A block
 * ends in a zero that is never overwritten, so that no reader of a stale pointer runs out of it.
 * cloudtaser.wrapper.segment writes the same. */
struct segment {
    uint64_t magic;
    uint32_t flags;
    uint32_t blocks;
    uint64_t names;  /* offset */
    uint64_t values; /* offset of the first block */
    uint64_t block_size;
    uint64_t generation;
    unsigned char identity[16]; /* random: tells whether a descriptor still is this segment */
};

/* Written once, before the program runs, and only read afterwards. */
struct interposer {
    const struct segment *segment; /* NULL where there is none: then nothing here changes anything */
    size_t size;
    int descriptor;    /* of a segment that rotates, else -1 */
    char library[512]; /* this file, as LD_PRELOAD named it */
};
extern struct interposer interposer;

extern char **environ;

long cloudtaser_call(long number, long a, long b, long c, long d, long e);
void *cloudtaser_map(size_t size, int protection, int flags, int descriptor);
int cloudtaser_failed(long result); /* of a call: whether it is an error */
int cloudtaser_result(long result); /* of a call: -1 and errno, or what came */

size_t cloudtaser_length(const char *text);
int cloudtaser_begins(const char *text, const char *with);
char *cloudtaser_put(char *at, const char *text); /* copies without the zero; where it ended */
char *cloudtaser_put_number(char *at, uint64_t number);

const char *cloudtaser_block(uint64_t generation);
const char *cloudtaser_find(const char *block, const char *entry); /* the string of the same name, or NULL */
int cloudtaser_is_secret(const char *entry);                       /* "NAME=value" with a value of the segment */

/* What an executed program is to get. */
enum target { TAKES_SEGMENT, TAKES_PLAIN, PRIVILEGED, MISSING };
enum target cloudtaser_inspect(const char *path);

struct handover {
    char **environment; /* for execve */
    int descriptor;     /* to be closed afterwards, or -1 */
};
#define HANDOVER_ROOM 1024 /* bytes for the strings of a handover, beside the LD_PRELOAD that is already there */
size_t cloudtaser_count(char *const environment[]);
size_t cloudtaser_text_room(char *const environment[]);
/* `room` has place for two more entries than `environment`, `text` for cloudtaser_text_room bytes. */
struct handover cloudtaser_hand_over(enum target target, char *const environment[], char **room, char *text);

/* PATH, or the usual one where it is not set. The other puts its next directory and `file` into `path`, LONGEST_PATH
 * bytes; where PATH goes on, or NULL at its end. */
const char *cloudtaser_search_path(void);
const char *cloudtaser_next_candidate(const char *directories, const char *file, char *path);

#endif
