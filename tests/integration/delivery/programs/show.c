/* Shows where SECRET is seen: getenv, environ, secure_getenv's twin, main's third argument; then waits. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static const char *find(char **in)
{
    for (; *in; in++)
        if (!strncmp(*in, "SECRET=", 7))
            return *in + 7;
    return "none";
}

int main(int count, char **arguments, char **given)
{
    const char *by_getenv = getenv("SECRET"), *by_secure = secure_getenv("SECRET");
    printf("%s %s %s %s\n", by_getenv ? by_getenv : "none", by_secure ? by_secure : "none", find(environ), find(given));
    for (char **at = environ; *at; at++)
        if (!strncmp(*at, "LD_PRELOAD", 10) || !strncmp(*at, "CLOUDTASER", 10))
            printf("left over: %s\n", *at);
    printf("done\n");
    fflush(stdout);
    if (count > 1)
        pause();
    return 0;
}
