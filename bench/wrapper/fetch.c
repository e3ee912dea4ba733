// The yardstick for `compare.py`: what the wrapper does at a start, by hand in C with OpenSSL and no care at all.
// Logs in with the pod's token, reads one secret, puts its field `value` into the environment, starts the program,
// waits for it and exits as it does. Reads VAULT_ADDR, CLOUDTASER_CA, VAULT_JWT_FILE, BENCH_NAME and BENCH_PATH.
#define _GNU_SOURCE
#include <netdb.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

static void die(const char *what) {
    fprintf(stderr, "fetch: %s\n", what);
    exit(1);
}

static const char *setting(const char *name) {
    const char *value = getenv(name);
    if (!value)
        die(name);
    return value;
}

static int dial(const char *address) {
    char host[256];
    const char *start = strstr(address, "://");
    snprintf(host, sizeof host, "%s", start ? start + 3 : address);
    char *port = strrchr(host, ':');
    if (!port)
        die("no port");
    *port++ = 0;
    struct addrinfo *found, hints = {.ai_socktype = SOCK_STREAM};
    if (getaddrinfo(host, port, &hints, &found))
        die("no such host");
    int sock = socket(found->ai_family, SOCK_STREAM, 0);
    if (sock < 0 || connect(sock, found->ai_addr, found->ai_addrlen))
        die("cannot connect");
    freeaddrinfo(found);
    return sock;
}

static SSL *secure(int sock, const char *name) {
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, NULL);
    BIO *pem = BIO_new_mem_buf(setting("CLOUDTASER_CA"), -1);
    X509 *ca = PEM_read_bio_X509(pem, NULL, NULL, NULL);
    if (!ca || !X509_STORE_add_cert(SSL_CTX_get_cert_store(context), ca))
        die("no CA");
    X509_free(ca);
    BIO_free(pem);
    SSL *tls = SSL_new(context);
    SSL_CTX_free(context);
    SSL_set_tlsext_host_name(tls, name);
    SSL_set1_host(tls, name);
    SSL_set_fd(tls, sock);
    if (SSL_connect(tls) != 1)
        die("no TLS");
    return tls;
}

// One request and its answer, which has a Content-Length.
static char *ask(SSL *tls, const char *request) {
    static char buffer[1 << 17];
    if (SSL_write(tls, request, strlen(request)) <= 0)
        die("cannot write");
    size_t got = 0, wanted = sizeof buffer;
    while (got < wanted) {
        int count = SSL_read(tls, buffer + got, sizeof buffer - 1 - got);
        if (count <= 0)
            die("the answer ends early");
        got += count;
        buffer[got] = 0;
        char *body = strstr(buffer, "\r\n\r\n"), *length = strcasestr(buffer, "\r\ncontent-length:");
        if (body && length && length < body)
            wanted = body + 4 - buffer + strtoul(length + 17, NULL, 10);
    }
    if (strncmp(buffer, "HTTP/1.1 200", 12))
        die(buffer);
    return strstr(buffer, "\r\n\r\n") + 4;
}

// The string behind `"name":"` in `json`, up to the next quote.
static char *field(const char *json, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\":\"", name);
    char *start = strstr(json, key);
    if (!start)
        die(name);
    start += strlen(key);
    return strndup(start, strcspn(start, "\""));
}

int main(int count, char **arguments) {
    if (count < 2)
        die("no command");
    static char jwt[8192], request[16384], body[9000];
    FILE *file = fopen(setting("VAULT_JWT_FILE"), "r");
    if (!file)
        die("no token file");
    jwt[fread(jwt, 1, sizeof jwt - 1, file)] = 0;
    jwt[strcspn(jwt, "\r\n")] = 0;
    fclose(file);
    int sock = dial(setting("VAULT_ADDR"));
    const char *name = setting("BENCH_NAME");
    SSL *tls = secure(sock, name);
    snprintf(body, sizeof body, "{\"role\":\"default\",\"jwt\":\"%s\"}", jwt);
    snprintf(request, sizeof request, "POST /v1/auth/jwt/login HTTP/1.1\r\nHost: %s\r\nContent-Length: %zu\r\n\r\n%s",
             name, strlen(body), body);
    char *token = field(ask(tls, request), "client_token");
    snprintf(request, sizeof request, "GET /v1/%s HTTP/1.1\r\nHost: %s\r\nX-Vault-Token: %s\r\n\r\n",
             setting("BENCH_PATH"), name, token);
    char *value = field(ask(tls, request), "value");
    setenv("VALUE", value, 1);
    SSL_free(tls);
    close(sock);
    pid_t child = fork();
    if (child == 0) {
        execv(arguments[1], arguments + 1);
        _exit(127);
    }
    int status;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
