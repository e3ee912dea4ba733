// The application of `compare.py`: says first of all what processor time it cost to get here, in its own process and
// in its parent's, and how long the secret is. With an argument it stays until it is told to go.
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

// Nanoseconds on a processor of all threads of a process.
static unsigned long long spent(int process) {
    char path[300];
    unsigned long long sum = 0;
    snprintf(path, sizeof path, "/proc/%d/task", process);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        if (task->d_name[0] == '.') // `..` is the process, whose main thread counts already
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", process, task->d_name);
        FILE *file = fopen(path, "r");
        unsigned long long time;
        if (!file)
            continue;
        if (fscanf(file, "%llu", &time) == 1)
            sum += time;
        fclose(file);
    }
    if (tasks)
        closedir(tasks);
    return sum;
}

int main(int count, char **arguments) {
    (void)arguments;
    unsigned long long own = spent(getpid()), parent = spent(getppid());
    const char *value = getenv("VALUE");
    printf("%llu %llu %zu\n", own, parent, value ? strlen(value) : 0);
    fflush(stdout);
    while (count > 1)
        pause();
    return 0;
}
