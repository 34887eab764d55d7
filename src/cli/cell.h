/* How single values look to people: sizes, times, ages, words with a colour. Private to the tables of cli/. */
#ifndef CLI_CELL_H
#define CLI_CELL_H

#include <stdbool.h>
#include <stddef.h>

#include "cli/table.h"

/* Write a value as cell says. False: it is not of that kind, print it as it is. */
bool cli_cell_text(enum cli_cell cell, struct json_object *v, char *out, size_t size);
/* The escape sequence for the colour of a status word, "" for none. */
const char *cli_cell_color(const char *status);

#endif
