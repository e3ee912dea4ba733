/* The tests' application: one static program, no shell and no library in its image.

   Its arguments are steps, taken in order:
     show NAME...  ends at the next `,`; prints NAME=VALUE of each, or "NAME is not set"
     resolve NAME  prints the first IPv4 address
     serve PORT    answers whoever connects with "hello\n", for ever
     fetch HOST PORT prints what it is told there
     until FILE    waits until the file exists
     wait          until SIGTERM, then the next step
     exit NUMBER
   The end of the steps is exit 0; a step that fails says so and is tried again every 200 ms for a minute. */
#define _GNU_SOURCE
#include <netdb.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const int patience = 300, pause_us = 200000;

static int
looked_up(const char *host, const char *port, struct addrinfo **found)
{
    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    int error = 0;
    for (int i = 0; i < patience; i++, usleep(pause_us))
        if ((error = getaddrinfo(host, port, &hints, found)) == 0)
            return 1;
    printf("%s: %s\n", host, gai_strerror(error));
    return 0;
}

static int
resolve(const char *host)
{
    struct addrinfo *found;
    char text[64];
    if (!looked_up(host, NULL, &found))
        return 0;
    getnameinfo(found->ai_addr, found->ai_addrlen, text, sizeof text, NULL, 0, NI_NUMERICHOST);
    printf("%s\n", text);
    return 1;
}

static int
fetch(const char *host, const char *port)
{
    struct addrinfo *found;
    if (!looked_up(host, port, &found))
        return 0;
    for (int i = 0; i < patience; i++, usleep(pause_us)) {
        char text[256];
        int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        ssize_t n = connect(s, found->ai_addr, found->ai_addrlen) ? -1 : read(s, text, sizeof text);
        close(s);
        if (n > 0)
            return printf("%.*s", (int)n, text) > 0;
    }
    printf("%s:%s does not answer\n", host, port);
    return 0;
}

static int
serve(int port)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_port = htons(port)};
    int one = 1, s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(s, (struct sockaddr *)&here, sizeof here) || listen(s, 16)) {
        perror("serve");
        return 0;
    }
    for (;;) {
        int c = accept(s, NULL, NULL);
        if (write(c, "hello\n", 6) < 0)
            perror("write");
        close(c);
    }
}

static void
wait_for_term(const sigset_t *set)
{
    int number;
    while (sigwait(set, &number) || number != SIGTERM)
        ;
}

int
main(int count, char **words)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int i = 1; i < count; i++) {
        const char *step = words[i];
        int more = count - i - 1, done = 1;
        if (!strcmp(step, ","))
            continue;
        if (!strcmp(step, "show")) {
            for (i++; i < count && strcmp(words[i], ","); i++) {
                const char *value = getenv(words[i]);
                if (value)
                    printf("%s=%s\n", words[i], value);
                else
                    printf("%s is not set\n", words[i]);
            }
        } else if (!strcmp(step, "resolve") && more >= 1) {
            done = resolve(words[++i]);
        } else if (!strcmp(step, "serve") && more >= 1) {
            done = serve(atoi(words[++i]));
        } else if (!strcmp(step, "fetch") && more >= 2) {
            done = fetch(words[i + 1], words[i + 2]);
            i += 2;
        } else if (!strcmp(step, "until") && more >= 1) {
            for (i++; access(words[i], F_OK);)
                usleep(pause_us);
        } else if (!strcmp(step, "wait")) {
            sigprocmask(SIG_BLOCK, &set, NULL);
            wait_for_term(&set);
        } else if (!strcmp(step, "exit") && more >= 1) {
            return atoi(words[i + 1]);
        } else {
            printf("no such step: %s\n", step);
            return 64;
        }
        if (!done)
            return 1;
    }
    return 0;
}
