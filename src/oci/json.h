/* Writing JSON into a struct buf: the few documents of the runtime need no tree for that. */
#ifndef OCI_JSON_H
#define OCI_JSON_H

#include "base/buf.h"

/* A string in quotes, escaped. NULL: null. */
void oci_json_string(struct buf *b, const char *text);
/* "name":"text", with a comma in front where comma is not 0. */
void oci_json_member(struct buf *b, int comma, const char *name, const char *text);

#endif
