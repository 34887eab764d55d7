/* Instructions that change an image's configuration, as `commit --change` and Containerfiles have them. */
#include <ctype.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/cleanup.h"
#include "image/commit.h"
#include "image/image_priv.h"

enum change_form {
    CHANGE_ARGV,  /* JSON array, or a line for the shell */
    CHANGE_TEXT,  /* the rest of the line */
    CHANGE_PAIRS, /* K=V ...: an object */
    CHANGE_ENV,   /* K=V ...: an array of "K=V", a later one replaces an earlier one */
    CHANGE_SET,   /* words: an object whose members are empty objects */
    CHANGE_LIST,  /* appended as one string */
};

static const struct change {
    const char *word, *member;
    enum change_form form;
} change_words[] = {
    { "CMD", "Cmd", CHANGE_ARGV },
    { "ENTRYPOINT", "Entrypoint", CHANGE_ARGV },
    { "ENV", "Env", CHANGE_ENV },
    { "EXPOSE", "ExposedPorts", CHANGE_SET },
    { "LABEL", "Labels", CHANGE_PAIRS },
    { "ONBUILD", "OnBuild", CHANGE_LIST },
    { "STOPSIGNAL", "StopSignal", CHANGE_TEXT },
    { "USER", "User", CHANGE_TEXT },
    { "VOLUME", "Volumes", CHANGE_SET },
    { "WORKDIR", "WorkingDir", CHANGE_TEXT },
};

/* The next word of text, without its quotes; NULL: none. *text goes behind it. */
static char *change_next(const char **text)
{
    const char *t = *text;
    char *word, quote = 0;
    size_t n = 0;

    while (isspace((unsigned char)*t))
        t++;
    if (!*t)
        return NULL;
    word = malloc(strlen(t) + 1);
    for (; word && *t && (quote || !isspace((unsigned char)*t)); t++) {
        if (quote ? *t == quote : *t == '"' || *t == '\'')
            quote = quote ? 0 : *t;
        else if (*t == '\\' && t[1] && quote != '\'')
            word[n++] = *++t;
        else
            word[n++] = *t;
    }
    if (word)
        word[n] = '\0';
    *text = t;
    return word;
}

static int change_refuse(const char *instruction, const char *why, struct err *e)
{
    return err_set(e, EINVAL, "change '%.100s' is refused: %s", instruction, why);
}

/* A JSON array of strings and nothing behind it. NULL: it is none. */
static json_object *change_list(const char *rest)
{
    size_t len = strlen(rest), end;
    json_tokener *tokener;
    json_object *a;
    bool good;

    if (*rest != '[' || len > INT32_MAX)
        return NULL;
    tokener = json_tokener_new();
    if (!tokener)
        return NULL;
    a = json_tokener_parse_ex(tokener, rest, (int)len);
    end = json_tokener_get_parse_end(tokener);
    json_tokener_free(tokener);
    good = json_object_is_type(a, json_type_array) && strspn(rest + end, " \t") == len - end;
    for (size_t i = 0; good && i < json_object_array_length(a); i++)
        good = json_object_is_type(json_object_array_get_idx(a, i), json_type_string);
    if (good)
        return a;
    json_object_put(a);
    return NULL;
}

/* A list, or a line for the shell. */
static json_object *change_argv(const char *rest)
{
    json_object *a = change_list(rest);

    if (a)
        return a;
    a = json_object_new_array();
    json_object_array_add(a, json_object_new_string("/bin/sh"));
    json_object_array_add(a, json_object_new_string("-c"));
    json_object_array_add(a, json_object_new_string(rest));
    return a;
}

/* A word of VOLUME or EXPOSE. */
static void change_set(json_object *into, const struct change *c, const char *word)
{
    char text[256];

    snprintf(text, sizeof(text), "%.240s%s", word, strcmp(c->word, "EXPOSE") == 0 && !strchr(word, '/') ? "/tcp" : "");
    json_object_object_add(into, text, json_object_new_object());
}

static int change_words_of(json_object *config, const struct change *c, const char *rest, const char *instruction,
                           struct err *e)
{
    json_object *into = c->form == CHANGE_ENV ? image_doc_list(config, c->member) : image_doc_object(config, c->member);
    json_object *list = c->form == CHANGE_SET ? change_list(rest) : NULL;

    for (size_t i = 0; list && i < json_object_array_length(list); i++)
        change_set(into, c, json_object_get_string(json_object_array_get_idx(list, i)));
    if (list) {
        json_object_put(list);
        return 0;
    }
    for (;;) {
        AUTO_FREE char *word = change_next(&rest);
        char *equals = word ? strchr(word, '=') : NULL;

        if (!word)
            return 0;
        if (c->form == CHANGE_SET) {
            change_set(into, c, word);
            continue;
        }
        if (!equals || equals == word)
            return change_refuse(instruction, "it must be of KEY=VALUE", e);
        if (c->form == CHANGE_ENV) {
            image_doc_env(into, word);
        } else {
            *equals = '\0';
            json_object_object_add(into, word, json_object_new_string(equals + 1));
        }
    }
}

int image_config_change(struct json_object *document, const char *instruction, struct err *e)
{
    json_object *config = image_doc_object(document, "config");
    size_t len = strcspn(instruction, " \t=");
    const char *rest = instruction + len;
    const struct change *c = NULL;

    for (size_t i = 0; i < ARRAY_SIZE(change_words); i++) {
        if (strlen(change_words[i].word) == len && strncasecmp(change_words[i].word, instruction, len) == 0)
            c = &change_words[i];
    }
    if (!c)
        return change_refuse(instruction,
                             "the first word must be CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, ONBUILD, STOPSIGNAL, "
                             "USER, VOLUME or WORKDIR",
                             e);
    if (*rest == '=') /* CMD=... as Podman has it */
        rest++;
    while (isspace((unsigned char)*rest))
        rest++;
    if (!*rest && c->form != CHANGE_ARGV)
        return change_refuse(instruction, "it has no value", e);
    switch (c->form) {
    case CHANGE_ARGV:
        json_object_object_add(config, c->member, *rest ? change_argv(rest) : NULL);
        return 0;
    case CHANGE_TEXT:
        json_object_object_add(config, c->member, json_object_new_string(rest));
        return 0;
    case CHANGE_LIST:
        json_object_array_add(image_doc_list(config, c->member), json_object_new_string(rest));
        return 0;
    default:
        return change_words_of(config, c, rest, instruction, e);
    }
}
