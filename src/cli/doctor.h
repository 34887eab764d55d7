/* Parts of `caisson doctor`. */
#ifndef CLI_DOCTOR_H
#define CLI_DOCTOR_H

struct json_object;

/* Append findings about containers to the list: objects with name, status ("ok", "no", "warn") and detail. */
void cli_doctor_containers(struct json_object *list);

#endif
