/* Shell completion. The shells' scripts are a few lines that ask `caisson __complete WORD...` (the words typed so far,
 * the last one perhaps begun) at each press of the key, so that one description, the command table, serves all of them,
 * and names of objects can be offered. An answer is a line for each word: the word, and behind a tab what it is about;
 * the line ":file" asks the shell for names of files. Nothing here may fail loudly or change anything. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "image/image.h"
#include "proto/exit_code.h"
#include "store/instance.h"
#include "store/network.h"
#include "store/snapshot.h"

/* What has been typed of the word, and where the answer goes. */
struct complete {
    const char *begun;
    size_t len;
    FILE *out;
};

static void complete_offer(const struct complete *c, const char *word, const char *about)
{
    if (strncmp(word, c->begun, c->len) == 0)
        fprintf(c->out, "%s%s%s\n", word, about ? "\t" : "", about ? about : "");
}

/* ---- names of objects ---- */

static int complete_network(void *opaque, const struct store_network *network)
{
    complete_offer(opaque, network->spec.name, "network");
    return 0;
}

static int complete_instance(void *opaque, const struct store_instance *i)
{
    complete_offer(opaque, i->name, inst_kind_name(i->spec.kind));
    return 0;
}

static int complete_vm(void *opaque, const struct store_instance *i)
{
    return i->spec.kind == INST_VM ? complete_instance(opaque, i) : 0;
}

static int complete_container(void *opaque, const struct store_instance *i)
{
    return i->spec.kind == INST_CONTAINER ? complete_instance(opaque, i) : 0;
}

static int complete_snapshot(void *opaque, const struct store_snapshot *x)
{
    complete_offer(opaque, x->name, "snapshot");
    return 0;
}

/* With its whole name, and without the registry of what was made here. */
static int complete_image(void *opaque, const struct image *i)
{
    for (size_t n = 0; n < i->n_names; n++) {
        const char *name = i->names[n];

        complete_offer(opaque, name, "image");
        if (strncmp(name, "localhost/", 10) == 0)
            complete_offer(opaque, name + 10, "image");
    }
    return 0;
}

/* Nothing here changes anything, and what fails offers nothing. */
static int complete_stored(const struct complete *c, const char *kind, struct store *s, struct err *e)
{
    void *opaque = (void *)(uintptr_t)c;

    if (strcmp(kind, "@network") == 0)
        return store_network_each(s, complete_network, opaque, e);
    if (strcmp(kind, "@instance") == 0)
        return store_instance_each(s, complete_instance, opaque, e);
    if (strcmp(kind, "@vm") == 0)
        return store_instance_each(s, complete_vm, opaque, e);
    if (strcmp(kind, "@container") == 0)
        return store_instance_each(s, complete_container, opaque, e);
    if (strcmp(kind, "@image") == 0)
        return image_each(s, complete_image, opaque, e);
    if (strcmp(kind, "@snapshot") == 0) {
        int r = store_instance_each(s, complete_instance, opaque, e);

        return r < 0 ? r : store_snapshot_each(s, NULL, complete_snapshot, opaque, e);
    }
    return 0;
}

static void complete_objects(const struct complete *c, const char *kind)
{
    AUTO(store) struct store *store = NULL;
    const struct cli_command *command;
    struct err ignored = { 0 };

    if (strcmp(kind, "@command") == 0) {
        for (size_t i = 0; (command = cli_command_at(i)); i++) {
            if (!command->hidden && !strchr(command->path, ' '))
                complete_offer(c, command->path, command->summary);
        }
        return;
    }
    if (store_open(STORE_READ, &store, &ignored) == 0)
        (void)!complete_stored(c, kind, store, &ignored);
}

void cli_complete_values(const char *kind, const char *begun, FILE *out)
{
    const struct complete c = { begun, strlen(begun), out };
    char word[64];

    for (const char *p = kind; *p; p += strspn(p, " ")) {
        size_t len = strcspn(p, " ");

        snprintf(word, sizeof(word), "%.*s", (int)len, p);
        p += len;
        if (word[0] == '@')
            complete_objects(&c, word);
        else if (strcmp(word, "file") == 0)
            fprintf(out, ":file\n");
        else
            complete_offer(&c, word, NULL);
    }
}

/* ---- commands and options ---- */

/* The words that can follow words (n of them, all whole) on the way to a command. */
static void complete_words(const struct complete *c, int n, char **words)
{
    const struct cli_command *command;
    char before[64] = "";

    for (size_t i = 0; (command = cli_command_at(i)); i++) {
        const char *p = command->path;
        char word[64] = "";
        int k = 0;

        while (k < n && strlen(words[k]) == strcspn(p, " ") && strncmp(p, words[k], strcspn(p, " ")) == 0) {
            p += strcspn(p, " ");
            p += strspn(p, " ");
            k++;
        }
        if (command->hidden || k < n || !*p)
            continue;
        memcpy(word, p, MIN(strcspn(p, " "), sizeof(word) - 1));
        if (strcmp(word, before) != 0) /* a noun's commands stand together */
            complete_offer(c, word, strchr(p, ' ') ? NULL : command->summary);
        memcpy(before, word, sizeof(before));
    }
}

static void complete_options(const struct complete *c, const struct cli_command *command)
{
    char word[64];

    for (size_t i = 0; i < command->n_options; i++) {
        snprintf(word, sizeof(word), "--%s", command->options[i].name);
        complete_offer(c, word, command->options[i].help);
    }
    complete_offer(c, "--help", "describe the command");
}

static const struct cli_option *complete_option(const struct cli_command *command, const char *word, size_t len)
{
    for (size_t i = 0; i < command->n_options; i++) {
        const struct cli_option *o = &command->options[i];

        if ((len > 2 && word[0] == '-' && word[1] == '-' && strlen(o->name) == len - 2 &&
             strncmp(o->name, word + 2, len - 2) == 0) ||
            (len == 2 && word[0] == '-' && o->letter && word[1] == o->letter))
            return o;
    }
    return NULL;
}

/* --name=VALUE, begun: the answers are whole words. */
static bool complete_joined(const struct complete *c, const struct cli_command *command)
{
    const char *equal = strchr(c->begun, '=');
    const struct cli_option *o = equal ? complete_option(command, c->begun, (size_t)(equal - c->begun)) : NULL;
    AUTO_FREE char *text = NULL;
    size_t size = 0;
    FILE *list;

    if (!o || !o->complete)
        return equal != NULL;
    list = open_memstream(&text, &size);
    if (!list)
        return true;
    cli_complete_values(o->complete, equal + 1, list);
    if (fclose(list) != 0)
        return true;
    for (char *line = text; line && *line;) {
        char *end = strchr(line, '\n');

        fprintf(c->out, "%.*s%.*s\n", line[0] == ':' ? 0 : (int)(equal - c->begun) + 1, c->begun,
                (int)(end ? end - line : (long)strlen(line)), line);
        line = end ? end + 1 : NULL;
    }
    return true;
}

static void complete_operand(const struct complete *c, const struct cli_command *command)
{
    char words[256];

    if (command->complete) {
        cli_complete_values(command->complete, c->begun, c->out);
        return;
    }
    if (!strchr(command->operands, '|')) { /* "FILE", "SOURCE TARGET": of the disk's commands */
        if (strstr(command->operands, "FILE") || strstr(command->operands, "SOURCE") ||
            strstr(command->operands, "DIR"))
            fprintf(c->out, ":file\n");
        return;
    }
    snprintf(words, sizeof(words), "%s", command->operands); /* "bash|zsh|fish" */
    for (char *p = words; *p; p++)
        *p = *p == '|' ? ' ' : *p;
    cli_complete_values(words, c->begun, c->out);
}

/* The last of the words, when those before it are command and what follows it. */
static void complete_argument(const struct complete *c, const struct cli_command *command, int n, char **words)
{
    const struct cli_option *o = n > 0 ? complete_option(command, words[n - 1], strlen(words[n - 1])) : NULL;

    if (o && o->value) {
        if (o->complete)
            cli_complete_values(o->complete, c->begun, c->out);
    } else if (c->begun[0] == '-') {
        if (!complete_joined(c, command))
            complete_options(c, command);
    } else {
        complete_operand(c, command);
    }
}

int cli_cmd_complete(const struct cli_args *args)
{
    int n = args->n_operands - 1, path;
    AUTO_FREE char **words = NULL;
    const struct cli_command *command;
    struct complete c;

    if (n < 0)
        return EXIT_CODE_OK;
    c = (struct complete){ args->operands[n], strlen(args->operands[n]), stdout };
    words = calloc((size_t)n + CLI_ALIAS_GROWTH, sizeof(*words));
    if (!words)
        return EXIT_CODE_FAILED;
    n = cli_alias_apply(n, args->operands, words);
    command = cli_command_find(n, words, &path);
    if (command)
        complete_argument(&c, command, n - path, words + path);
    else
        complete_words(&c, n, words);
    return EXIT_CODE_OK;
}

/* ---- the shells ---- */

static const char complete_bash[] = "# completion of caisson for bash: the program itself knows the words\n"
                                    "_caisson() {\n"
                                    "    local word cur=${COMP_WORDS[COMP_CWORD]} line\n"
                                    "    local -a words=(\"${COMP_WORDS[@]:1:COMP_CWORD}\")\n"
                                    "    COMPREPLY=()\n"
                                    "    # bash cuts words at = and :, which belong to ours\n"
                                    "    word=${COMP_LINE:0:COMP_POINT}\n"
                                    "    word=${word##*[[:space:]]}\n"
                                    "    if [[ $word != \"$cur\" ]]; then\n"
                                    "        read -ra words <<<\"${COMP_LINE:0:COMP_POINT}\"\n"
                                    "        words=(\"${words[@]:1}\")\n"
                                    "    fi\n"
                                    "    while IFS= read -r line; do\n"
                                    "        if [[ $line == :file ]]; then\n"
                                    "            compopt -o filenames 2>/dev/null\n"
                                    "            mapfile -t -O ${#COMPREPLY[@]} COMPREPLY < <(compgen -f -- \"$cur\")\n"
                                    "        else\n"
                                    "            line=${line%%$'\\t'*}\n"
                                    "            COMPREPLY+=(\"${line#\"${word%\"$cur\"}\"}\")\n"
                                    "        fi\n"
                                    "    done < <(\"${COMP_WORDS[0]}\" __complete -- \"${words[@]}\" 2>/dev/null)\n"
                                    "}\n"
                                    "complete -F _caisson caisson\n";

static const char complete_zsh[] =
    "#compdef caisson\n"
    "# completion of caisson for zsh: the program itself knows the words\n"
    "_caisson() {\n"
    "    local line\n"
    "    local -a found about\n"
    "    while IFS= read -r line; do\n"
    "        if [[ $line == :file ]]; then\n"
    "            _files\n"
    "        else\n"
    "            found+=(\"${line%%$'\\t'*}\")\n"
    "            about+=(\"${line/$'\\t'/  -- }\")\n"
    "        fi\n"
    "    done < <(\"${words[1]}\" __complete -- \"${(@)words[2,CURRENT]}\" 2>/dev/null)\n"
    "    (( ${#found} )) && compadd -l -d about -a found\n"
    "}\n"
    "if [[ $funcstack[1] == _caisson ]]; then\n"
    "    _caisson \"$@\"\n"
    "else\n"
    "    compdef _caisson caisson\n"
    "fi\n";

static const char complete_fish[] = "# completion of caisson for fish: the program itself knows the words\n"
                                    "function __caisson_complete\n"
                                    "    set -l words (commandline -opc) (commandline -ct)\n"
                                    "    for line in ($words[1] __complete -- $words[2..-1] 2>/dev/null)\n"
                                    "        if test \"$line\" = :file\n"
                                    "            __fish_complete_path (commandline -ct)\n"
                                    "        else\n"
                                    "            echo $line\n"
                                    "        end\n"
                                    "    end\n"
                                    "end\n"
                                    "complete -c caisson -f -a '(__caisson_complete)'\n";

int cli_print_completion(const char *shell, FILE *out)
{
    static const struct {
        const char *shell, *script;
    } scripts[] = { { "bash", complete_bash }, { "zsh", complete_zsh }, { "fish", complete_fish } };

    for (size_t i = 0; i < ARRAY_SIZE(scripts); i++) {
        if (strcmp(shell, scripts[i].shell) == 0) {
            fputs(scripts[i].script, out);
            return 0;
        }
    }
    return -EINVAL;
}

int cli_cmd_completion(const struct cli_args *args)
{
    struct err e = { 0 };

    if (args->n_operands != 1 || cli_print_completion(args->operands[0], stdout) < 0) {
        err_set(&e, EINVAL, "completion for which shell? Give one of bash, zsh, fish");
        return cli_fail(&e);
    }
    return EXIT_CODE_OK;
}
