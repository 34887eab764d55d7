/* caisson autostart: whether what ran is started again at boot. With systemd by a unit of ours, for the whole machine
 * where root asks, else for the user. Without systemd the user has to call `caisson start --all --boot` at boot. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fdio.h"
#include "cli/command.h"
#include "cli/instance.h"
#include "proto/exit_code.h"

#define AUTOSTART_UNIT "caisson.service"
#define AUTOSTART_PATH_MAX 4096

struct autostart {
    char program[AUTOSTART_PATH_MAX]; /* this one */
    char dir[AUTOSTART_PATH_MAX];     /* of unit files */
    char unit[AUTOSTART_PATH_MAX + 32], link[AUTOSTART_PATH_MAX + 64];
    bool user;
};

static const char *autostart_target(const struct autostart *a)
{
    return a->user ? "default.target" : "multi-user.target";
}

/* Where the unit belongs. CAISSON_SYSTEMD_DIR: tests. */
static int autostart_places(struct autostart *a, struct err *e)
{
    const char *dir = secure_getenv("CAISSON_SYSTEMD_DIR"), *config = secure_getenv("XDG_CONFIG_HOME"),
               *home = secure_getenv("HOME");
    ssize_t n = readlink("/proc/self/exe", a->program, sizeof(a->program) - 1);
    int len;

    if (n < 0)
        return err_set(e, errno, "cannot find this program's own place: /proc/self/exe: %s; mount /proc",
                       strerror(errno));
    a->program[n] = '\0';
    a->user = geteuid() != 0;
    if (dir)
        len = snprintf(a->dir, sizeof(a->dir), "%s", dir);
    else if (!a->user)
        len = snprintf(a->dir, sizeof(a->dir), "/etc/systemd/system");
    else if (config && config[0] == '/')
        len = snprintf(a->dir, sizeof(a->dir), "%s/systemd/user", config);
    else if (home)
        len = snprintf(a->dir, sizeof(a->dir), "%s/.config/systemd/user", home);
    else
        return err_set(e, ENOENT, "no place for the unit: HOME is not set; set it");
    if (len >= (int)sizeof(a->dir))
        return err_set(e, ENAMETOOLONG,
                       "the path of systemd's units is too long; set XDG_CONFIG_HOME to a shorter one");
    snprintf(a->unit, sizeof(a->unit), "%s/" AUTOSTART_UNIT, a->dir);
    snprintf(a->link, sizeof(a->link), "%s/%s.wants/" AUTOSTART_UNIT, a->dir, autostart_target(a));
    return 0;
}

static void autostart_text(const struct autostart *a, char *text, size_t size)
{
    snprintf(text, size,
             "# Made by 'caisson autostart enable'; 'caisson autostart disable' removes it.\n"
             "[Unit]\n"
             "Description=VMs and containers of Caisson\n"
             "Documentation=man:caisson(1)\n"
             "%s"
             "\n"
             "[Service]\n"
             "Type=oneshot\n"
             "RemainAfterExit=yes\n"
             "ExecStart=%s start --all --boot\n"
             "ExecStop=%s stop --all --shutdown\n"
             "KillMode=process\n"
             "Delegate=yes\n"
             "TimeoutSec=infinity\n"
             "\n"
             "[Install]\n"
             "WantedBy=%s\n",
             a->user ? "" : "After=network.target local-fs.target\n", a->program, a->program, autostart_target(a));
}

static int autostart_write(const struct autostart *a, struct err *e)
{
    char text[3 * AUTOSTART_PATH_MAX], temp[AUTOSTART_PATH_MAX + 48], wants[AUTOSTART_PATH_MAX + 48];
    AUTO_FD int fd = -1;
    int r;

    autostart_text(a, text, sizeof(text));
    snprintf(temp, sizeof(temp), "%s/." AUTOSTART_UNIT ".new", a->dir);
    snprintf(wants, sizeof(wants), "%s/%s.wants", a->dir, autostart_target(a));
    for (char *p = wants + 1; *p; p++) { /* /etc/systemd is others' too: no sys_dirs_make */
        if (*p != '/')
            continue;
        *p = '\0';
        (void)!mkdir(wants, 0755);
        *p = '/';
    }
    if (mkdir(wants, 0755) < 0 && errno != EEXIST)
        return err_set(e, errno, "cannot make %s: %s", wants, strerror(errno));
    fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0644);
    r = fd < 0 ? -errno : fd_write_all(fd, text, strlen(text));
    if (r == 0 && (fsync(fd) < 0 || rename(temp, a->unit) < 0))
        r = -errno;
    if (r == 0 && symlink("../" AUTOSTART_UNIT, a->link) < 0 && errno != EEXIST)
        r = -errno;
    return r < 0 ? err_set(e, -r, "cannot write %s: %s", a->unit, strerror(-r)) : 0;
}

static bool autostart_has_systemd(void)
{
    return secure_getenv("CAISSON_SYSTEMD_DIR") || access("/run/systemd/system", F_OK) == 0;
}

/* systemd reads its units again. It may not run for this user; then it will at the next login. */
static void autostart_reload(const struct autostart *a)
{
    pid_t pid;

    if (secure_getenv("CAISSON_SYSTEMD_DIR"))
        return;
    pid = fork();
    if (pid == 0) {
        int null = open("/dev/null", O_RDWR);

        dup2(null, STDOUT_FILENO);
        dup2(null, STDERR_FILENO);
        if (a->user)
            execlp("systemctl", "systemctl", "--user", "daemon-reload", (char *)NULL);
        else
            execlp("systemctl", "systemctl", "daemon-reload", (char *)NULL);
        _exit(127);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static int autostart_enable(const struct autostart *a, struct err *e)
{
    int r;

    if (!autostart_has_systemd())
        return err_set(e, EOPNOTSUPP,
                       "systemd does not run here; let what starts this machine call '%s start --all --boot', e.g. by "
                       "a line '@reboot %s start --all --boot' in 'crontab -e'",
                       a->program, a->program);
    r = autostart_write(a, e);
    if (r < 0)
        return r;
    autostart_reload(a);
    printf("%s\n", a->unit);
    if (a->user)
        fprintf(stderr, "caisson: they start when you log in; 'loginctl enable-linger' lets them start at boot\n");
    return 0;
}

static int autostart_disable(const struct autostart *a, struct err *e)
{
    if ((unlink(a->link) < 0 && errno != ENOENT) || (unlink(a->unit) < 0 && errno != ENOENT))
        return err_set(e, errno, "cannot remove %s: %s", a->unit, strerror(errno));
    autostart_reload(a);
    return 0;
}

int cli_cmd_autostart(const struct cli_args *args)
{
    const char *what = args->n_operands > 0 ? args->operands[0] : "status";
    AUTO_FREE struct autostart *a = calloc(1, sizeof(*a));
    struct err e = { 0 };
    char text[3 * AUTOSTART_PATH_MAX];
    int r = a ? autostart_places(a, &e) : err_set(&e, ENOMEM, "out of memory");

    if (r < 0)
        return cli_fail(&e);
    if (strcmp(what, "enable") == 0) {
        r = autostart_enable(a, &e);
    } else if (strcmp(what, "disable") == 0) {
        r = autostart_disable(a, &e);
    } else if (strcmp(what, "status") == 0) {
        printf("%s\n", access(a->link, F_OK) == 0 ? "enabled" : "disabled");
    } else if (strcmp(what, "print") == 0) {
        autostart_text(a, text, sizeof(text));
        printf("%s", text);
    } else {
        r = err_set(&e, EINVAL, "unknown '%s'; use enable, disable, status or print", what);
    }
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
