/* caisson cpu ls: the CPU models, and which of them run here, for people or as JSON. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "instance/spawn.h"
#include "proto/exit_code.h"

#define LACKS_NAMED_MAX 4U

static json_object *cpu_member(json_object *o, const char *key, json_type type)
{
    json_object *v = NULL;

    return json_object_object_get_ex(o, key, &v) && json_object_is_type(v, type) ? v : NULL;
}

static const char *cpu_text(json_object *o, const char *key)
{
    json_object *v = cpu_member(o, key, json_type_string);

    return v ? json_object_get_string(v) : "";
}

static bool cpu_flag(json_object *o, const char *key)
{
    json_object *v = cpu_member(o, key, json_type_boolean);

    return v && json_object_get_boolean(v);
}

/* One model: {name, summary, default, runs, lacks, features}. */
static void cpu_print_row(json_object *o)
{
    json_object *lacks = cpu_member(o, "lacks", json_type_array);
    size_t n = lacks ? json_object_array_length(lacks) : 0;

    printf("%-10s %-5s %-8s %s", cpu_text(o, "name"), cpu_flag(o, "runs") ? "yes" : "no",
           cpu_flag(o, "default") ? "yes" : "", cpu_text(o, "summary"));
    for (size_t i = 0; i < MIN(n, LACKS_NAMED_MAX); i++)
        printf("%s%s", i == 0 ? " (lacks " : ", ", json_object_get_string(json_object_array_get_idx(lacks, i)));
    if (n > LACKS_NAMED_MAX)
        printf(" and %zu more", n - LACKS_NAMED_MAX);
    printf("%s\n", n > 0 ? ")" : "");
}

static int cpu_print(const char *text, struct err *e)
{
    json_object *models = json_tokener_parse(text);

    if (!models || !json_object_is_type(models, json_type_array)) {
        json_object_put(models);
        return err_set(e, EIO,
                       "caisson-vmm gave an answer that is not understood; install both programs from one build");
    }
    printf("%-10s %-5s %-8s %s\n", "NAME", "RUNS", "DEFAULT", "DESCRIPTION");
    for (size_t i = 0; i < json_object_array_length(models); i++)
        cpu_print_row(json_object_array_get_idx(models, i));
    json_object_put(models);
    return 0;
}

int cli_cmd_cpu_ls(const struct cli_args *args)
{
    const char *engine = cli_value(args, "engine");
    AUTO_FREE char *text = NULL;
    struct err e = { 0 };
    int r = inst_vmm_report("--cpu-models", engine ? engine : "auto", &text, &e);

    if (r != 0)
        return r < 0 ? cli_fail(&e) : r;
    if (cli_value(args, "json"))
        printf("%s", text);
    else if (cpu_print(text, &e) < 0)
        return cli_fail(&e);
    return EXIT_CODE_OK;
}
