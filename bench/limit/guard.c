/* The physical limit: what inotify(7), unlinkat(2), rename(2) and posix_spawn(3) themselves cost on this machine.
 *
 * usage: guard [-1] [-s ROOT] [-t SECONDS] [-a APPROVED] links|units FOLDER...
 *        guard [-1] [-t SECONDS] inetd FILE
 *        guard [-1] [-t SECONDS] file FILE CANONICAL
 *
 * It corrects and nothing else: no record, nothing kept for the way back, no proof, no rail. APPROVED names what may
 * stay, one name a line. With -s the stop script of each link that went is started, after all of the batch are gone;
 * ROOT is where init.d lies. -t looks everywhere each so many seconds, -1 once, and ends.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_FOLDERS = 64, MAX_NAMES = 65536, BUFFER = 1 << 16, FILE_MAX = 1 << 20 };

struct folder { int wd, fd; const char *path; };
static struct folder folders[MAX_FOLDERS];
static int folder_count, units, inotify_fd;
static char *approved[MAX_NAMES];
static int approved_count;
static const char *stop_root;
static char *stops[MAX_NAMES];
static int stop_count;
extern char **environ;

static void die(const char *what) { perror(what); exit(1); }

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void read_approved(const char *path) {
    FILE *file = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    if (!file) die(path);
    while (getline(&line, &room, file) > 0 && approved_count < MAX_NAMES) {
        line[strcspn(line, "\n")] = 0;
        approved[approved_count++] = strdup(line);
    }
    free(line);
    fclose(file);
    qsort(approved, approved_count, sizeof *approved, compare);
}

/* Whether a name starts something that may not stay. */
static int stranger(const char *name) {
    const char *key = name;
    if (units ? name[0] == '.' : name[0] != 'S') return 0;
    if (!units && strlen(name) > 3) key = name + 3;
    return !bsearch(&key, approved, approved_count, sizeof *approved, compare);
}

static void remove_link(struct folder *folder, const char *name) {
    if (unlinkat(folder->fd, name, 0) || !stop_root || stop_count >= MAX_NAMES) return;
    const char *script = strlen(name) > 3 ? name + 3 : name;
    stops[stop_count++] = strdup(script);
}

/* One look at a folder: every link is read, as its target decides what it starts. */
static void look(struct folder *folder) {
    char target[PATH_MAX];
    int fd = openat(folder->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    struct dirent *entry;
    if (!list) return;
    while ((entry = readdir(list))) {
        if (entry->d_name[0] == '.') continue;
        if (entry->d_type == DT_LNK && readlinkat(folder->fd, entry->d_name, target, sizeof target) < 0) continue;
        if (stranger(entry->d_name)) remove_link(folder, entry->d_name);
    }
    closedir(list);
}

static void start_stops(void) {
    for (int i = 0; i < stop_count; i++) {
        int again = 0;
        for (int j = 0; j < i && !again; j++) again = !strcmp(stops[i], stops[j]);
        if (again) continue;
        char path[PATH_MAX];
        char *argv[] = {path, "stop", NULL};
        pid_t pid;
        snprintf(path, sizeof path, "%s/etc/init.d/%s", stop_root, stops[i]);
        posix_spawn(&pid, path, NULL, NULL, argv, environ);
    }
    while (stop_count) free(stops[--stop_count]);
}

static void look_everywhere(void) {
    for (int i = 0; i < folder_count; i++) look(&folders[i]);
    start_stops();
}

static void open_folders(char **paths, int count, int watch) {
    for (int i = 0; i < count && folder_count < MAX_FOLDERS; i++) {
        struct folder *folder = &folders[folder_count];
        folder->path = paths[i];
        folder->fd = open(paths[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (folder->fd < 0) continue;
        if (watch) folder->wd = inotify_add_watch(inotify_fd, paths[i], IN_CREATE | IN_MOVED_TO);
        folder_count++;
    }
}

/* --- whole files --- */

static const char *kept_path, *canonical_path;
static char kept_name[NAME_MAX + 1];

static ssize_t content(const char *path, char *text) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t size = fd < 0 ? -1 : read(fd, text, FILE_MAX);
    if (fd >= 0) close(fd);
    return size;
}

static void replace(const char *text, size_t size) {
    char temporary[PATH_MAX];
    const char *slash = strrchr(kept_path, '/');
    snprintf(temporary, sizeof temporary, "%.*s/.limit", (int)(slash - kept_path), kept_path);
    int fd = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, text, size) != (ssize_t)size) die(temporary);
    close(fd);
    if (rename(temporary, kept_path)) die(temporary);
}

static void restore_file(void) {
    static char is[FILE_MAX], should[FILE_MAX];
    ssize_t have = content(kept_path, is), want = content(canonical_path, should);
    if (want >= 0 && (have != want || memcmp(is, should, want))) replace(should, want);
}

/* Each active line becomes a comment. */
static void restore_inetd(void) {
    static char is[FILE_MAX], should[2 * FILE_MAX];
    ssize_t size = content(kept_path, is);
    size_t out = 0;
    int changed = 0, fresh = 1;
    for (ssize_t i = 0; i < size; i++) {
        if (fresh && is[i] != '#' && is[i] != '\n') { should[out++] = '#'; changed = 1; }
        should[out++] = is[i];
        fresh = is[i] == '\n';
    }
    if (changed) replace(should, out);
}

static void restore(void) { canonical_path ? restore_file() : restore_inetd(); }

static void watch_file(const char *path) {
    char folder[PATH_MAX];
    const char *slash = strrchr(path, '/');
    kept_path = path;
    snprintf(kept_name, sizeof kept_name, "%s", slash + 1);
    snprintf(folder, sizeof folder, "%.*s", (int)(slash - path), path);
    if (inotify_add_watch(inotify_fd, folder, IN_CLOSE_WRITE | IN_MOVED_TO | IN_DELETE) < 0) die(folder);
}

/* --- the loop --- */

static void on_event(struct inotify_event *event) {
    if (event->mask & IN_Q_OVERFLOW) {
        kept_path ? restore() : look_everywhere();
    } else if (kept_path) {
        if (event->len && !strcmp(event->name, kept_name)) restore();
    } else {
        for (int i = 0; i < folder_count; i++)
            if (folders[i].wd == event->wd && event->len && stranger(event->name)) remove_link(&folders[i], event->name);
    }
}

static void drain(void) {
    static char buffer[BUFFER] __attribute__((aligned(8)));
    ssize_t size;
    while ((size = read(inotify_fd, buffer, sizeof buffer)) > 0)
        for (char *at = buffer; at < buffer + size;) {
            struct inotify_event *event = (struct inotify_event *)at;
            on_event(event);
            at += sizeof *event + event->len;
        }
    start_stops();
}

int main(int argc, char **argv) {
    int option, once = 0, seconds = 0;
    while ((option = getopt(argc, argv, "1s:t:a:")) != -1) {
        if (option == '1') once = 1;
        else if (option == 's') stop_root = optarg;
        else if (option == 't') seconds = atoi(optarg);
        else if (option == 'a') read_approved(optarg);
        else return 64;
    }
    if (argc - optind < 2) return 64;
    const char *mode = argv[optind++];
    inotify_fd = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    signal(SIGCHLD, SIG_IGN);
    units = !strcmp(mode, "units");
    if (units || !strcmp(mode, "links")) open_folders(argv + optind, argc - optind, !once);
    else watch_file(argv[optind]);
    if (!strcmp(mode, "file")) canonical_path = argv[optind + 1];
    for (;;) {
        struct pollfd ready = {inotify_fd, POLLIN, 0};
        kept_path ? restore() : look_everywhere();
        if (once) return 0;
        while (poll(&ready, 1, seconds ? seconds * 1000 : -1) > 0) drain();
    }
}
