/* Load for a TLS relay: pairs of connections through it, driven by one thread and epoll.
 *
 * Built and run by compare.py. The relay is either a beacon (both ends dial it and say a 40-byte hello) or a proxy
 * (one end dials it, it dials our backend); both mean the same cryptography for every byte. Prints one JSON object.
 *
 *   load MODE PORT BACKEND_PORT PAIRS SECONDS CHUNK BOTH_WAYS CERT KEY PID
 *
 * MODE          bulk | handshake | pingpong | idle
 * BACKEND_PORT  0 for a beacon
 * PID           whose processor time is measured (schedstat of all its threads)
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/rand.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

typedef struct {
    int fd;
    SSL *tls;
    int sends, receives;
} End;

static SSL_CTX *client, *server;
static int port, backend, listener = -1, pairs, chunk, both, pid;
static double seconds;
static const double warm_up = 0.4;

static void die(const char *what) {
    perror(what);
    ERR_print_errors_fp(stderr);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double own_cpu(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return t.tv_sec + t.tv_nsec * 1e-9;
}

static double relay_cpu(void) {
    char path[300];
    double total = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    if (!tasks)
        die("the relay is gone");
    for (struct dirent *task; (task = readdir(tasks));) {
        unsigned long long ns;
        if (task->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r");
        if (file && fscanf(file, "%llu", &ns) == 1)
            total += ns * 1e-9;
        if (file)
            fclose(file);
    }
    closedir(tasks);
    return total;
}

static void no_delay(int fd) {
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static struct sockaddr_in loopback(int number) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(number)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int dial(void) {
    struct sockaddr_in address = loopback(port);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    no_delay(fd);
    if (connect(fd, (void *)&address, sizeof address))
        die("connect");
    return fd;
}

static void listen_as_backend(void) {
    struct sockaddr_in address = loopback(backend);
    int one = 1;
    listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (void *)&address, sizeof address) || listen(listener, 1024))
        die("listen");
}

static void write_all(SSL *tls, const void *data, int size) {
    for (const char *from = data; size > 0;) {
        int done = SSL_write(tls, from, size);
        if (done <= 0)
            die("write");
        from += done;
        size -= done;
    }
}

static void read_all(SSL *tls, void *data, int size) {
    for (char *to = data; size > 0;) {
        int done = SSL_read(tls, to, size);
        if (done <= 0)
            die("read");
        to += done;
        size -= done;
    }
}

static End dialled(void) {
    End end = {.fd = dial(), .tls = SSL_new(client)};
    SSL_set_fd(end.tls, end.fd);
    if (SSL_connect(end.tls) != 1)
        die("handshake");
    return end;
}

static void make_pair(End *one, End *other) {
    char answer;
    if (!backend) {
        unsigned char hello[40] = "CTB1";
        RAND_bytes(hello + 8, 32);
        *one = dialled();
        hello[4] = 1;
        write_all(one->tls, hello, sizeof hello);
        read_all(one->tls, &answer, 1); /* W: parked */
        *other = dialled();
        hello[4] = 2;
        write_all(other->tls, hello, sizeof hello);
        read_all(one->tls, &answer, 1);
        if (answer != 'M')
            die("no match");
        read_all(other->tls, &answer, 1);
        return;
    }
    *one = dialled();
    write_all(one->tls, "x", 1); /* some proxies dial only when there is something to say */
    other->fd = accept(listener, NULL, NULL);
    no_delay(other->fd);
    other->tls = SSL_new(server);
    SSL_set_fd(other->tls, other->fd);
    if (SSL_accept(other->tls) != 1)
        die("handshake of the backend");
    read_all(other->tls, &answer, 1);
}

static void bulk(void) {
    End *ends = calloc(2 * pairs, sizeof *ends);
    char *out = malloc(chunk), *in = malloc(65536);
    int poll = epoll_create1(0);
    RAND_bytes((void *)out, chunk);
    for (int i = 0; i < 2 * pairs; i += 2) {
        make_pair(&ends[i], &ends[i + 1]);
        ends[i].sends = ends[i + 1].receives = 1;
        ends[i].receives = ends[i + 1].sends = both;
    }
    for (int i = 0; i < 2 * pairs; i++) {
        struct epoll_event event = {.events = EPOLLIN | (ends[i].sends ? EPOLLOUT : 0), .data.u32 = i};
        fcntl(ends[i].fd, F_SETFL, O_NONBLOCK);
        epoll_ctl(poll, EPOLL_CTL_ADD, ends[i].fd, &event);
    }
    double begin = now(), start = 0, relay = 0, own = 0, end;
    unsigned long received = 0, before = 0;
    for (;;) {
        end = now();
        if (!start && end - begin >= warm_up) {
            start = end, relay = relay_cpu(), own = own_cpu(), before = received;
        }
        if (start && end - start >= seconds)
            break;
        struct epoll_event events[256];
        int count = epoll_wait(poll, events, 256, 50);
        for (int i = 0; i < count; i++) {
            End *e = &ends[events[i].data.u32];
            if (e->receives && events[i].events & EPOLLIN) {
                for (int turn = 0; turn < 16 || SSL_has_pending(e->tls); turn++) {
                    int size = SSL_read(e->tls, in, 65536);
                    if (size <= 0) {
                        if (SSL_get_error(e->tls, size) != SSL_ERROR_WANT_READ)
                            die("bulk read");
                        break;
                    }
                    received += size;
                }
            }
            if (e->sends && events[i].events & EPOLLOUT) {
                for (int turn = 0; turn < 8; turn++) {
                    int size = SSL_write(e->tls, out, chunk);
                    if (size <= 0) {
                        if (SSL_get_error(e->tls, size) != SSL_ERROR_WANT_WRITE)
                            die("bulk write");
                        break;
                    }
                }
            }
        }
    }
    double gb = (received - before) / 1e9;
    printf("{\"rate\": %.2f, \"cpu\": %.5f, \"busy\": %.3f, \"own_busy\": %.3f}\n", gb * 1000 / (end - start),
           (relay_cpu() - relay) / gb, (relay_cpu() - relay) / (end - start), (own_cpu() - own) / (end - start));
}

static SSL *begin_handshake(int poll, int slot, int *fd) {
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = slot};
    SSL *tls = SSL_new(client);
    *fd = dial();
    fcntl(*fd, F_SETFL, O_NONBLOCK);
    SSL_set_fd(tls, *fd);
    SSL_set_connect_state(tls);
    epoll_ctl(poll, EPOLL_CTL_ADD, *fd, &event);
    SSL_do_handshake(tls);
    return tls;
}

static void handshake(void) {
    SSL **tls = calloc(pairs, sizeof *tls);
    int *fd = calloc(pairs, sizeof *fd), poll = epoll_create1(0);
    for (int i = 0; i < pairs; i++)
        tls[i] = begin_handshake(poll, i, &fd[i]);
    double begin = now(), start = 0, relay = 0, end;
    unsigned long done = 0, before = 0;
    for (;;) {
        end = now();
        if (!start && end - begin >= warm_up)
            start = end, relay = relay_cpu(), before = done;
        if (start && end - start >= seconds)
            break;
        struct epoll_event events[256];
        int count = epoll_wait(poll, events, 256, 50);
        for (int k = 0; k < count; k++) {
            int i = events[k].data.u32, result = SSL_do_handshake(tls[i]);
            if (result != 1) {
                if (SSL_get_error(tls[i], result) != SSL_ERROR_WANT_READ)
                    die("handshake");
                continue;
            }
            struct linger reset = {1, 0}; /* or the ports run out */
            setsockopt(fd[i], SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
            SSL_free(tls[i]);
            close(fd[i]);
            done++;
            tls[i] = begin_handshake(poll, i, &fd[i]);
        }
    }
    printf("{\"rate\": %.1f, \"cpu\": %.7f}\n", (done - before) / (end - start),
           (relay_cpu() - relay) / (done - before));
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void pingpong(void) {
    End one, other;
    enum { MOST = 2000000 };
    double *took = malloc(MOST * sizeof *took), begin = now(), start = 0, relay = 0, sent;
    char *data = malloc(chunk);
    int count = 0;
    memset(data, 7, chunk);
    make_pair(&one, &other);
    while (count < MOST) {
        sent = now();
        if (!start && sent - begin >= warm_up)
            start = sent, relay = relay_cpu();
        if (start && sent - start >= seconds)
            break;
        write_all(one.tls, data, chunk);
        read_all(other.tls, data, chunk);
        write_all(other.tls, data, chunk);
        read_all(one.tls, data, chunk);
        if (start)
            took[count++] = now() - sent;
    }
    double cpu = (relay_cpu() - relay) / count;
    qsort(took, count, sizeof *took, by_size);
    printf("{\"p50\": %.7f, \"p99\": %.7f, \"cpu\": %.7f}\n", took[count / 2], took[count * 99 / 100], cpu);
}

static long resident(void) {
    char path[64];
    long size, pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    FILE *file = fopen(path, "r");
    if (!file || fscanf(file, "%ld %ld", &size, &pages) != 2)
        die("statm");
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE);
}

static void idle(void) {
    End end[2];
    for (int i = 0; i < 50; i++)
        make_pair(&end[0], &end[1]); /* what the first few make the relay load */
    long before = resident();
    for (int i = 0; i < pairs; i++)
        make_pair(&end[0], &end[1]);
    usleep(300000);
    printf("{\"bytes\": %.0f}\n", (double)(resident() - before) / pairs);
}

int main(int count, char **argument) {
    if (count != 11)
        return 2;
    const char *mode = argument[1];
    port = atoi(argument[2]), backend = atoi(argument[3]), pairs = atoi(argument[4]), seconds = atof(argument[5]);
    chunk = atoi(argument[6]), both = atoi(argument[7]), pid = atoi(argument[10]);
    signal(SIGPIPE, SIG_IGN);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    client = SSL_CTX_new(TLS_client_method());
    server = SSL_CTX_new(TLS_server_method());
    SSL_CTX_set_min_proto_version(client, TLS1_3_VERSION);
    SSL_CTX_set_num_tickets(server, 0);
    if (SSL_CTX_use_certificate_chain_file(server, argument[8]) != 1 ||
        SSL_CTX_use_PrivateKey_file(server, argument[9], SSL_FILETYPE_PEM) != 1)
        die("certificate");
    SSL_CTX *both_contexts[] = {client, server};
    for (int i = 0; i < 2; i++) {
        SSL_CTX_set_mode(both_contexts[i], SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER |
                                               SSL_MODE_RELEASE_BUFFERS);
        if (strcmp(mode, "idle")) {
            SSL_CTX_set_read_ahead(both_contexts[i], 1);
            SSL_CTX_set_default_read_buffer_len(both_contexts[i], 65536 + 1024);
        }
    }
    if (backend)
        listen_as_backend();
    if (!strcmp(mode, "bulk"))
        bulk();
    else if (!strcmp(mode, "handshake"))
        handshake();
    else if (!strcmp(mode, "pingpong"))
        pingpong();
    else if (!strcmp(mode, "idle"))
        idle();
    else
        return 2;
    fflush(stdout);
    _exit(0);
}
