/* Functions of musl (1.2) that the payload has of its own.
 *
 * Signal 34 musl keeps for itself. Elsewhere it is SIGRTMIN, and an application of the image may want it: a wrapper that
 * cannot catch it could not pass it on, and would die of it. musl sends it to its own threads when one of several changes
 * the user of the process, which the wrapper never does. (src/signal/sigaction.c and its neighbours)
 *
 * The wrapper knows no local time: Python's `time` asks for the zone, and a file that TZ names would be read.
 */
#include <errno.h>
#include <signal.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TAKEN 34
#define BIT(number) (1UL << ((number) - 1))
#define CANCEL_AND_TIMER (BIT(32) | BIT(33)) /* stay with the C library, as in glibc */

int __sigaction(int, const struct sigaction *, struct sigaction *);
int __libc_sigaction(int, const struct sigaction *, struct sigaction *);

int sigaction(int number, const struct sigaction *restrict action, struct sigaction *restrict before)
{
    return (number == TAKEN ? __libc_sigaction : __sigaction)(number, action, before);
}

int sigaddset(sigset_t *set, int number)
{
    if (number < 1 || number >= _NSIG || number == 32 || number == 33) {
        errno = EINVAL;
        return -1;
    }
    set->__bits[0] |= BIT(number);
    return 0;
}

int sigfillset(sigset_t *set)
{
    set->__bits[0] = ~CANCEL_AND_TIMER;
    return 0;
}

int pthread_sigmask(int how, const sigset_t *restrict set, sigset_t *restrict before)
{
    if (syscall(SYS_rt_sigprocmask, how, set, before, _NSIG / 8) < 0)
        return errno;
    if (before)
        before->__bits[0] &= ~CANCEL_AND_TIMER;
    return 0;
}

struct tm *localtime_r(const time_t *restrict when, struct tm *restrict result) { return gmtime_r(when, result); }

void tzset(void) { }
