/* What every attack is given and how it tells what came of it. `main.c` runs the attacks, one process each. */
#ifndef ATTACK_H
#define ATTACK_H

#include <stddef.h>
#include <sys/types.h>

/* The victim, as seen from the attacker's pid namespace. */
struct target {
	pid_t pid;
	pid_t tid;              /* a second thread of it */
	unsigned long address;  /* where its memory holds the canary */
	size_t length;          /* the canary's bytes */
	int descriptor;         /* its open file that holds the canary */
	const char *extra;      /* what a particular attack needs besides */
};

typedef void attack_fn(const struct target *);

struct attack {
	const char *name;
	attack_fn *run;
};

extern const struct attack proc_attacks[], trace_attacks[], reach_attacks[], node_attacks[], tamper_attacks[];

/* An attack ends in one of these. */
void succeeded(const void *evidence, size_t length) __attribute__((noreturn));
void succeeded_with(const char *evidence) __attribute__((noreturn));
void failed(const char *step) __attribute__((noreturn)); /* by errno */

/* The path /proc/PID/NAME, in a buffer that the next call overwrites. */
const char *proc_path(pid_t pid, const char *name);
/* Succeeds with the bytes of `file` from `offset`, as many as the canary has; fails by errno. */
void read_out(int file, const struct target *t, off_t offset) __attribute__((noreturn));

#endif
