/* The application of the container tests: tells what it was started with, and ends as it is told.
 *
 *     application show CODE    one line for each thing, then exit CODE
 *     application wait         "ready", then the number of the first signal that comes, and exit with it
 *     application die NUMBER   of a signal
 *     application orphan       leaves a grandchild behind that ends later, and waits until it has been reaped
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int show(int argc, char **argv)
{
    for (int index = 0; index < argc; index++)
        printf("argument %s\n", argv[index]);
    for (char **variable = environ; *variable; variable++)
        printf("variable %s\n", *variable);
    FILE *given = fopen("/proc/self/environ", "r"); /* what the kernel was given for this program */
    int letter, before = 0;
    while (given && (letter = getc(given)) != EOF) {
        if (letter && !before)
            printf("given ");
        putchar(letter ? letter : '\n');
        before = letter;
    }
    if (given)
        fclose(given);
    char place[4096];
    printf("directory %s\n", getcwd(place, sizeof place) ? place : "?");
    printf("parent %d\nuser %d\ngroup %d\n", (int)getppid(), (int)getuid(), (int)getgid());
    printf("seccomp %d\n", prctl(PR_GET_SECCOMP, 0, 0, 0, 0));
    printf("no_new_privs %d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    unsigned int header[2] = {0x20080522, 0}, capabilities[6] = {0};
    syscall(SYS_capget, header, capabilities);
    printf("capabilities %u\n", capabilities[0] | capabilities[1] | capabilities[3] | capabilities[4]);
    printf("proc %s\n", access("/proc/self", F_OK) ? "absent" : "there");
    printf("writable %s\n", access("/", W_OK) ? "no" : "yes");
    for (int fd = 3; fd < 64; fd++)
        if (lseek(fd, 0, SEEK_CUR) >= 0 || errno != EBADF)
            printf("descriptor %d\n", fd);
    fflush(stdout);
    return atoi(argv[2]);
}

static int wait_for_signal(void)
{
    sigset_t all;
    int number = 0;
    sigfillset(&all);
    sigdelset(&all, SIGURG); /* Go sends it to its own threads: the container may start with one of runc pending */
    sigprocmask(SIG_BLOCK, &all, NULL);
    puts("ready");
    fflush(stdout);
    sigwait(&all, &number);
    printf("signal %d\n", number);
    fflush(stdout);
    return number;
}

static int orphan(void)
{
    int gate[2], told[2];
    if (pipe(gate) || pipe(told))
        return 1;
    pid_t child = fork();
    if (child == 0) {
        pid_t grandchild = fork();
        if (grandchild == 0) {
            char byte;
            close(gate[1]);
            _exit((int)read(gate[0], &byte, 1)); /* until the application lets go */
        }
        _exit(write(told[1], &grandchild, sizeof grandchild) == sizeof grandchild ? 0 : 1);
    }
    pid_t grandchild = 0;
    waitpid(child, NULL, 0);
    if (read(told[0], &grandchild, sizeof grandchild) != sizeof grandchild)
        return 1;
    close(gate[1]);
    while (kill(grandchild, 0) == 0)
        usleep(1000); /* a zombie still has its number: it is gone when somebody waited for it */
    puts("reaped");
    fflush(stdout);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    if (!strcmp(what, "show") && argc > 2)
        return show(argc, argv);
    if (!strcmp(what, "wait"))
        return wait_for_signal();
    if (!strcmp(what, "die") && argc > 2) {
        raise(atoi(argv[2]));
        return 1;
    }
    if (!strcmp(what, "orphan"))
        return orphan();
    return 64;
}
