/* Prints SECRET and what an early pointer to it shows now, at the start and at each SIGHUP, and what a child finds;
 * threads read it all the while and must never see anything but a whole value. */
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *read_on(void *nothing)
{
    (void)nothing;
    for (;;) {
        const char *value = getenv("SECRET");
        size_t length = value ? strlen(value) : 0;
        if (length < 8 || strspn(value, (char[]){value[0], 0}) != length)
            _exit(90);
    }
}

int main(void)
{
    const char *early = getenv("SECRET");
    sigset_t set;
    pthread_t thread;
    int number;
    sigemptyset(&set);
    sigaddset(&set, SIGHUP);
    sigprocmask(SIG_BLOCK, &set, NULL);
    for (int count = 0; count < 3; count++)
        pthread_create(&thread, NULL, read_on, NULL);
    for (;;) {
        printf("%s %s\n", getenv("SECRET"), early);
        fflush(stdout);
        if (system("echo child $SECRET; grep -c -e AAAA -e BBBB /proc/$$/environ; :"))
            return 91;
        sigwait(&set, &number);
    }
}
