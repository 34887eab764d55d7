/* The OCI runtime as a program: verbs are functions of one signature. */
#ifndef OCI_MAIN_H
#define OCI_MAIN_H

#include "base/attr.h"
#include "base/err.h"
#include "oci/cli.h"

/* Run the program; returns its exit status: 0, 1 for an error (255 of exec), the payload's for run and exec. */
int oci_main(int argc, char **argv);

struct buf;
/* Write all of it to the standard output. */
int oci_print(const struct buf *b, struct err *e) MUST_USE;

/* A verb: >= 0 is the exit status, -errno an error with a text in e. */
int oci_verb_create(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_run(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_start(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_state(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_kill(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_delete(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_list(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_exec(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_pause(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_resume(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_update(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_events(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_ps(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_checkpoint(const struct oci_args *a, struct err *e) MUST_USE;
int oci_verb_restore(const struct oci_args *a, struct err *e) MUST_USE;

#endif
