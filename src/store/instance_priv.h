/* Shared by the files of store/instance*.c. */
#ifndef STORE_INSTANCE_PRIV_H
#define STORE_INSTANCE_PRIV_H

#include <stdbool.h>

#include "store/instance.h"
#include "store/store_priv.h"

/* A random id. -errno of getrandom. */
int store_instance_new_id(char ret_id[INST_ID_LEN + 1]) MUST_USE;
/* A name that no instance has: "brave-otter", with a number behind it where those are used up. */
int store_instance_new_name(struct store *s, char ret_name[PROTO_NAME_MAX + 1], struct err *e) MUST_USE;
/* Whether an instance has this name. -errno with text. */
int store_instance_name_taken(struct store *s, const char *name, bool *ret_taken, struct err *e) MUST_USE;

#endif
