/* caisson doctor: what caisson-vmm finds out about this machine, and what there is for containers; for people or as
 * JSON. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "cli/command.h"
#include "cli/doctor.h"
#include "cli/table.h"
#include "instance/spawn.h"
#include "proto/exit_code.h"

static const char *doctor_text(json_object *o, const char *key)
{
    json_object *v = NULL;

    if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
        return "";
    return json_object_get_string(v);
}

/* The findings are an array of {name, status: ok|no|warn, detail}. */
static void doctor_print(json_object *findings)
{
    for (size_t i = 0; i < json_object_array_length(findings); i++) {
        json_object *f = json_object_array_get_idx(findings, i);

        printf("%-5s %-14s %s\n", doctor_text(f, "status"), doctor_text(f, "name"), doctor_text(f, "detail"));
    }
}

int cli_cmd_doctor(const struct cli_args *args)
{
    AUTO_FREE char *text = NULL;
    json_object *findings;
    struct err e = { 0 };
    int r;

    r = inst_vmm_report("--doctor", NULL, &text, &e);
    if (r != 0)
        return r < 0 ? cli_fail(&e) : r;
    findings = json_tokener_parse(text);
    if (!findings || !json_object_is_type(findings, json_type_array)) {
        json_object_put(findings);
        err_set(&e, EIO, "caisson-vmm gave an answer that is not understood; install both programs from one build");
        return cli_fail(&e);
    }
    cli_doctor_containers(findings);
    if (cli_value(args, "json"))
        r = cli_json_print(findings, stdout, &e);
    else
        doctor_print(findings);
    json_object_put(findings);
    return r < 0 ? cli_fail(&e) : EXIT_CODE_OK;
}
