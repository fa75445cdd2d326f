// Speed of light for a swarm on one machine (build: cc -O3 speed_of_light.c -lcrypto -lpthread): S senders that sendfile() pieces over loopback
// TCP, and one receiver that stores them in a file and hashes every piece.
//   sol SOURCE DEST SENDERS THREADS HASH STORE   [PIECE_KIB]
//     THREADS: receiver threads, 1 (poll loop) .. SENDERS
//     HASH:    none | sha1 | sha256 (per piece) | both (SHA-1 per piece and SHA-256 per 16 KiB, as a hybrid torrent)
//     STORE:   mmap (recv straight into the mapped file) | pwrite (recv to a buffer, hash
//              it while it is hot in cache, then pwrite) | drop (no file) | stream (recv at
//              most 128 KiB, hash and pwrite that at once, while it is in the L2 cache)
// Sender i serves the pieces with index % SENDERS == i, in order, with no requests on the wire.
// Prints wall seconds, GB/s, and CPU seconds of receiver and senders per GiB.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <openssl/evp.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static void die(const char *what) { perror(what); exit(1); }
static double now(void) { struct timespec t; clock_gettime(CLOCK_MONOTONIC, &t); return t.tv_sec + t.tv_nsec * 1e-9; }
static double cpu(int who) {
    struct rusage r; getrusage(who, &r);
    return r.ru_utime.tv_sec + r.ru_stime.tv_sec + (r.ru_utime.tv_usec + r.ru_stime.tv_usec) * 1e-6;
}

enum store { MMAP, PWRITE, DROP, STREAM };
enum { CHUNK = 128 << 10, LEAF = 16 << 10 };
static off_t size; static size_t piece = 1 << 20; static int senders, dest = -1; static char *map;
static enum store store; static const EVP_MD *md; static int leaves; static unsigned char *digests;

struct conn { int fd, sender; off_t index; size_t filled; char *buffer; EVP_MD_CTX *ctx; };

static void serve(int fd, int source, int self) {
    for (off_t at = (off_t)self * piece; at < size; at += (off_t)senders * piece) {
        off_t from = at, end = at + (off_t)piece < size ? at + (off_t)piece : size;
        while (from < end) if (sendfile(fd, source, &from, end - from) < 0) die("sendfile");
    }
    shutdown(fd, SHUT_WR);
}

// One recv; hashes and stores a piece that became whole. Returns 0 at end of stream.
static int step(struct conn *c, EVP_MD_CTX *ctx) {
    off_t at = c->index * (off_t)piece;
    size_t length = at >= size ? 1 : (size - at < (off_t)piece ? (size_t)(size - at) : piece);
    if (store == STREAM) {
        ssize_t n = recv(c->fd, c->buffer, length - c->filled < CHUNK ? length - c->filled : CHUNK, 0);
        if (n <= 0) return 0;
        if (md && !c->filled) EVP_DigestInit_ex(c->ctx, md, NULL);
        if (md) EVP_DigestUpdate(c->ctx, c->buffer, n);
        if (pwrite(dest, c->buffer, n, at + c->filled) != n) die("pwrite");
        if ((c->filled += n) < length) return 1;
        if (md) EVP_DigestFinal_ex(c->ctx, digests + 32 * c->index, NULL);
        c->index += senders; c->filled = 0;
        return 1;
    }
    char *into = store == MMAP && at < size ? map + at : c->buffer;
    ssize_t n = recv(c->fd, into + c->filled, length - c->filled, 0);
    if (n < 0) { if (errno == EAGAIN) return 1; die("recv"); }
    if (n == 0) return 0;
    if ((c->filled += n) < length) return 1;
    if (md) {
        EVP_DigestInit_ex(ctx, md, NULL); EVP_DigestUpdate(ctx, into, length);
        EVP_DigestFinal_ex(ctx, digests + 32 * c->index, NULL);
    }
    for (size_t leaf = 0; leaves && leaf < length; leaf += LEAF) {
        unsigned char digest[32];
        EVP_DigestInit_ex(ctx, EVP_sha256(), NULL); EVP_DigestUpdate(ctx, into + leaf, length - leaf < LEAF ? length - leaf : LEAF);
        EVP_DigestFinal_ex(ctx, digest, NULL);
    }
    if (store == PWRITE && pwrite(dest, into, length, at) != (ssize_t)length) die("pwrite");
    c->index += senders; c->filled = 0;
    return 1;
}

struct job { struct conn *conns; int count; };
static void *receive(void *arg) {
    struct job *job = arg; EVP_MD_CTX *ctx = EVP_MD_CTX_new(); int open = job->count;
    struct pollfd p[16];
    for (int i = 0; i < job->count; i++) p[i] = (struct pollfd){job->conns[i].fd, POLLIN, 0};
    while (open) {
        if (job->count > 1 && poll(p, job->count, -1) < 0) die("poll");
        for (int i = 0; i < job->count; i++)
            if (p[i].fd >= 0 && (job->count == 1 || p[i].revents) && !step(&job->conns[i], ctx)) { p[i].fd = -1; open--; }
    }
    EVP_MD_CTX_free(ctx);
    return NULL;
}

int main(int argc, char **argv) {
    if (argc < 7) { fprintf(stderr, "usage: sol SOURCE DEST SENDERS THREADS HASH STORE [PIECE_KIB]\n"); return 2; }
    senders = atoi(argv[3]); int threads = atoi(argv[4]);
    leaves = !strcmp(argv[5], "both");
    md = leaves || !strcmp(argv[5], "sha1") ? EVP_sha1() : !strcmp(argv[5], "sha256") ? EVP_sha256() : NULL;
    store = !strcmp(argv[6], "mmap") ? MMAP : !strcmp(argv[6], "pwrite") ? PWRITE : !strcmp(argv[6], "stream") ? STREAM : DROP;
    if (leaves && store == STREAM) { fprintf(stderr, "both hashes whole pieces: mmap, pwrite or drop\n"); return 2; }
    if (argc > 7) piece = (size_t)atoi(argv[7]) << 10;
    int source = open(argv[1], O_RDONLY); struct stat st; if (source < 0 || fstat(source, &st)) die("source");
    size = st.st_size; digests = calloc(size / piece + 2, 32);

    int listener = socket(AF_INET, SOCK_STREAM, 0), one = 1; struct sockaddr_in a = {.sin_family = AF_INET};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK); socklen_t al = sizeof a;
    if (bind(listener, (void *)&a, al) || listen(listener, 64) || getsockname(listener, (void *)&a, &al)) die("listen");
    int go[2]; if (pipe(go)) die("pipe");
    for (int i = 0; i < senders; i++) if (!fork()) {
        int fd = socket(AF_INET, SOCK_STREAM, 0); char c;
        if (connect(fd, (void *)&a, al)) die("connect");
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        if (write(fd, &i, sizeof i) != sizeof i || read(go[0], &c, 1) != 1) die("go");
        serve(fd, source, i); _exit(0);
    }
    struct conn *conns = calloc(senders, sizeof *conns);
    for (int i = 0; i < senders; i++) {
        int fd = accept(listener, NULL, NULL), who; if (recv(fd, &who, sizeof who, MSG_WAITALL) != sizeof who) die("hello");
        conns[i] = (struct conn){fd, who, who, 0, aligned_alloc(4096, piece), EVP_MD_CTX_new()}; memset(conns[i].buffer, 1, piece);
    }
    double begin = now(), self = cpu(RUSAGE_SELF);
    if (store != DROP) {
        dest = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0644); if (dest < 0) die("dest");
        if (store == MMAP) {
            if (ftruncate(dest, size)) die("ftruncate");
            map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, dest, 0); if (map == MAP_FAILED) die("mmap");
        }
    }
    if (write(go[1], "................", senders) != senders) die("go");
    pthread_t ids[16]; struct job jobs[16];
    for (int t = 0, first = 0; t < threads; t++) {
        int count = senders / threads + (t < senders % threads);
        jobs[t] = (struct job){conns + first, count}; first += count;
        pthread_create(&ids[t], NULL, receive, &jobs[t]);
    }
    for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL);
    double wall = now() - begin; self = cpu(RUSAGE_SELF) - self;
    while (wait(NULL) > 0) {}
    double gib = size / 1073741824.0, sent = cpu(RUSAGE_CHILDREN);
    printf("S=%d threads=%d %-6s %-6s piece=%zuK wall %.3f s  %.3f GB/s  recv %.3f + send %.3f = %.3f CPU-s/GiB\n", senders,
           threads, argv[5], argv[6], piece >> 10, wall, size / wall / 1e9, self / gib, sent / gib, (self + sent) / gib);
    return 0;
}
