/* caisson image login and logout. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cli/registry.h"
#include "cli/secret.h"
#include "image/registry_auth.h"
#include "proto/exit_code.h"
#include "sys/dirs.h"

#define LOGIN_LINE_MAX 4096

/* A line from the terminal, without echo where it is a secret. -EINVAL with text: there is no terminal. */
static int login_ask(const char *prompt, bool secret, char ret[LOGIN_LINE_MAX], struct err *e)
{
    struct termios before, quiet;
    char *line;

    if (!isatty(STDIN_FILENO) || tcgetattr(STDIN_FILENO, &before) < 0)
        return err_set(e, EINVAL, "no terminal to ask for the %s on; give --username and --password-stdin", prompt);
    fprintf(stderr, "%s: ", prompt);
    quiet = before;
    quiet.c_lflag &= ~(tcflag_t)ECHO;
    if (secret)
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &quiet);
    line = fgets(ret, LOGIN_LINE_MAX, stdin);
    if (secret) {
        tcsetattr(STDIN_FILENO, TCSAFLUSH, &before);
        fputc('\n', stderr);
    }
    if (!line)
        return err_set(e, EINVAL, "no %s was typed", prompt);
    ret[strcspn(ret, "\r\n")] = '\0';
    return 0;
}

/* From --password, --password-stdin or the terminal. */
static int login_password(const struct cli_args *args, char ret[LOGIN_LINE_MAX], struct err *e)
{
    const char *from = cli_value(args, "password");
    struct cli_secret secret = { 0 };
    int r;

    if (cli_value(args, "password-stdin"))
        from = "fd:0";
    if (!from)
        return login_ask("password", true, ret, e);
    r = cli_secret_read("--password", from, &secret, e);
    if (r == 0 && (secret.len == 0 || secret.len >= LOGIN_LINE_MAX || memchr(secret.data, '\0', secret.len)))
        r = err_set(e, EINVAL, "the password is empty, longer than %d bytes, or has zero bytes", LOGIN_LINE_MAX - 1);
    if (r == 0) {
        memcpy(ret, secret.data, secret.len);
        ret[secret.len] = '\0';
        ret[strcspn(ret, "\r\n")] = '\0';
    }
    cli_secret_done(&secret);
    return r;
}

static int login_host(const struct cli_args *args, char ret[REGISTRY_HOST_MAX], struct err *e)
{
    return registry_host_parse(args->n_operands > 0 ? args->operands[0] : REGISTRY_DEFAULT_HOST, ret, e);
}

int cli_cmd_image_login(const struct cli_args *args)
{
    char host[REGISTRY_HOST_MAX], user[LOGIN_LINE_MAX], password[LOGIN_LINE_MAX] = "";
    const char *name = cli_value(args, "username");
    struct registry_config config = { 0 };
    struct err e = { 0 };
    int r = login_host(args, host, &e);

    if (r == 0)
        r = cli_registry_config(args, &config, &e);
    if (r == 0 && !name) {
        r = login_ask("user name", false, user, &e);
        name = user;
    }
    if (r == 0 && (!name[0] || strchr(name, ':')))
        r = err_set(&e, EINVAL, "the user name is empty, or has a ':', which no registry can take");
    if (r == 0)
        r = login_password(args, password, &e);
    config.user = name;
    config.password = password;
    if (r == 0)
        r = registry_login(host, &config, &e);
    if (r == 0)
        r = registry_auth_save(host, name, password, &e);
    explicit_bzero(password, sizeof(password));
    if (r < 0)
        return cli_fail(&e);
    printf("logged in to %s as %s\n", host, name);
    return EXIT_CODE_OK;
}

int cli_cmd_image_logout(const struct cli_args *args)
{
    char host[REGISTRY_HOST_MAX], path[SYS_DIR_MAX];
    struct err e = { 0 };
    int r = login_host(args, host, &e);

    if (r == 0)
        r = registry_auth_remove(host, &e);
    if (r == 1) {
        r = registry_auth_path(path, sizeof(path), &e);
        if (r == 0)
            r = err_set(&e, ENOENT, "not logged in to %s, as far as %s says", host, path);
    }
    if (r < 0)
        return cli_fail(&e);
    printf("logged out of %s\n", host);
    return EXIT_CODE_OK;
}
