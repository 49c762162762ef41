/* A disk that forgets what was not synced, for tests: LD_PRELOAD puts it between the program and libc.
 *
 * Files whose name begins with `hub.db` (without SQLite's -shm, which is memory, and the .lock) get a shadow
 * in the folder MAILSPAN_SHIM_DIR: a copy of the file as it was at its last fsync or fdatasync. What was
 * written, cut or removed since is not in it. A start from the shadows is a start after a power cut.
 *  - Each sync copies the whole file, then renames the copy: a kill meanwhile leaves the old shadow whole.
 *    (SQLite starts its log again at 16 MiB, so a copy is short.)
 *  - The shadow of a file that was removed goes when its folder is synced, as on a disk.
 * While a file `hold` is in that folder no sync of them ends: a disk that hangs.
 * MAILSPAN_SHIM_SWALLOW=1 makes syncs lie: they return 0 and nothing reaches a shadow.
 *
 * `order.log` in the same folder tells what happened in which order, one line each:
 *   W offset length   bytes were written to the log (a name that ends in -wal)
 *   S                 a sync of the log is done and about to return
 *   R port            bytes that begin with `HTTP/1.1 200` are about to be sent to the peer at that port */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define PATH_LEN 4096
#define SYNC_US 2000 /* a sync takes so long at least: an answer that does not wait for it is seen */
/* Calls libc's function of this name: ours hide it. */
#define LIBC(result, name, types, ...) (((result (*) types)dlsym(RTLD_NEXT, name))(__VA_ARGS__))
#define CHECK(holds) do { if (!(holds)) { perror("sync_shim: " #holds); abort(); } } while (0)

/* Held to write shadows and order.log, never during a sync itself: answers must not wait for one here. */
static pthread_mutex_t gate = PTHREAD_MUTEX_INITIALIZER;

static int ends(const char *s, const char *with) {
    return strlen(s) >= strlen(with) && !strcmp(s + strlen(s) - strlen(with), with);
}

static char *join(char path[PATH_LEN], const char *folder, const char *name) {
    CHECK(snprintf(path, PATH_LEN, "%s/%s", folder, name) < PATH_LEN);
    return path;
}

/* Where `fd` is open, or an empty text. */
static char *path_of(int fd, char path[PATH_LEN]) {
    char link[32];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = getenv("MAILSPAN_SHIM_DIR") ? readlink(link, path, PATH_LEN - 1) : 0;
    path[n > 0 ? n : 0] = 0;
    return path;
}

/* The name of a watched file, or NULL. A removed file ends in ` (deleted)`. */
static const char *watched(const char *path) {
    const char *name = strrchr(path, '/');
    if (!name || strncmp(++name, "hub.db", 6)) return NULL;
    return ends(name, "-shm") || ends(name, ".lock") || ends(name, " (deleted)") ? NULL : name;
}

static void note(const char *format, long a, long b) {
    static int log = -1;
    char line[64], path[PATH_LEN];
    pthread_mutex_lock(&gate);
    join(path, getenv("MAILSPAN_SHIM_DIR"), "order.log");
    if (log < 0) log = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    int n = snprintf(line, sizeof line, format, a, b);
    CHECK(LIBC(ssize_t, "write", (int, const void *, size_t), log, line, n) == n);
    pthread_mutex_unlock(&gate);
}

static void written(int fd, off_t at, ssize_t n) {
    char path[PATH_LEN];
    const char *name = n > 0 ? watched(path_of(fd, path)) : NULL;
    if (name && ends(name, "-wal")) note("W %ld %ld\n", at, n);
}

/* The file as it is now becomes its shadow. One thread of the program writes a file, and it is here now. */
static void save(int fd, const char *name) {
    static char buffer[1 << 20];
    char fresh[PATH_LEN], path[PATH_LEN];
    off_t at = 0;
    ssize_t n;
    pthread_mutex_lock(&gate);
    int to = open(join(fresh, getenv("MAILSPAN_SHIM_DIR"), "fresh"), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    for (; (n = pread(fd, buffer, sizeof buffer, at)) > 0; at += n)
        CHECK(LIBC(ssize_t, "write", (int, const void *, size_t), to, buffer, n) == n);
    CHECK(n == 0 && close(to) == 0);
    CHECK(rename(fresh, join(path, getenv("MAILSPAN_SHIM_DIR"), name)) == 0);
    pthread_mutex_unlock(&gate);
}

/* Shadows of watched files that are in `folder` no more. */
static void forget_removed(const char *folder) {
    char path[PATH_LEN];
    DIR *shadows = opendir(getenv("MAILSPAN_SHIM_DIR"));
    for (struct dirent *entry; shadows && (entry = readdir(shadows));)
        if (!strncmp(entry->d_name, "hub.db", 6) && access(join(path, folder, entry->d_name), F_OK))
            unlink(join(path, getenv("MAILSPAN_SHIM_DIR"), entry->d_name));
    if (shadows) closedir(shadows);
}

static void wait_while_held(void) {
    char path[PATH_LEN];
    join(path, getenv("MAILSPAN_SHIM_DIR"), "hold");
    while (!access(path, F_OK)) usleep(1000);
}

static int synced(int fd, const char *call) {
    char path[PATH_LEN];
    struct stat st;
    if (getenv("MAILSPAN_SHIM_SWALLOW")) return 0;
    const char *name = watched(path_of(fd, path));
    if (name) wait_while_held();
    int result = LIBC(int, call, (int), fd);
    if (result) return result;
    if (name) usleep(SYNC_US), save(fd, name);
    if (name && ends(name, "-wal")) note("S\n", 0, 0);
    if (path[0] && !fstat(fd, &st) && S_ISDIR(st.st_mode)) forget_removed(path);
    return 0;
}

static void sending(int fd, const void *bytes, size_t n) {
    struct sockaddr_in peer;
    socklen_t size = sizeof peer;
    if (n < 12 || memcmp(bytes, "HTTP/1.1 200", 12) || !getenv("MAILSPAN_SHIM_DIR")) return;
    if (getpeername(fd, (struct sockaddr *)&peer, &size) || peer.sin_family != AF_INET) return;
    note("R %ld\n", ntohs(peer.sin_port), 0);
}

/* What the program calls instead of libc's: each does what it was asked for, and tells the above. */
int fsync(int fd) { return synced(fd, "fsync"); }
int fdatasync(int fd) { return synced(fd, "fdatasync"); }
ssize_t pwrite64(int fd, const void *bytes, size_t n, off_t at) {
    ssize_t done = LIBC(ssize_t, "pwrite64", (int, const void *, size_t, off_t), fd, bytes, n, at);
    written(fd, at, done);
    return done;
}
ssize_t pwrite(int fd, const void *bytes, size_t n, off_t at) { return pwrite64(fd, bytes, n, at); }
ssize_t write(int fd, const void *bytes, size_t n) {
    off_t at = lseek(fd, 0, SEEK_CUR);
    sending(fd, bytes, n);
    ssize_t done = LIBC(ssize_t, "write", (int, const void *, size_t), fd, bytes, n);
    written(fd, at, done);
    return done;
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
    if (n > 0) sending(fd, parts[0].iov_base, parts[0].iov_len);
    return LIBC(ssize_t, "writev", (int, const struct iovec *, int), fd, parts, n);
}
ssize_t send(int fd, const void *bytes, size_t n, int flags) {
    sending(fd, bytes, n);
    return LIBC(ssize_t, "send", (int, const void *, size_t, int), fd, bytes, n, flags);
}
