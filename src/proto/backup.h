/* The manifest of a directory with backups of one VM: which points in time there are, and which file holds which disk
 * as of which point. A JSON document, DIR/manifest.json; caisson-vmm writes it, the CLI reads it. A point stands in it
 * only once all of its files are complete and on stable storage.
 *
 *   {"caisson_backup": 1, "vm": "web1", "chain": "default", "points": [
 *     {"point": 1, "id": "5f3c...", "time": "2026-01-31T12:00:00Z", "disks": [
 *       {"disk": "disk0", "index": 0, "kind": "full", "base": null, "file": "disk0-0001-full.qcow2", "size": 1048576,
 *        "copied": 65536}]}, ...]}
 *
 * "base": the point whose file of the same disk an increment stands on. What a manifest says is checked as what a
 * stranger wrote: file names are plain ones, bases are earlier points. Any thread. */
#ifndef PROTO_BACKUP_H
#define PROTO_BACKUP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "base/err.h"
#include "proto/name.h"

struct json_object;

#define BACKUP_DISKS_MAX 16
#define BACKUP_POINTS_MAX 10000
#define BACKUP_NUMBER_MAX 999999u
#define BACKUP_DEPTH_MAX 60 /* files that stand on one another, below what an image's chain may have */
#define BACKUP_ID_MAX 33    /* 32 hexadecimal digits */
#define BACKUP_DISK_MAX 24  /* a disk's name here: its serial, or "disk" and its index */
#define BACKUP_FILE_MAX 64
#define BACKUP_TIME_MAX 40
#define BACKUP_MANIFEST "manifest.json"

struct backup_disk {
    char name[BACKUP_DISK_MAX];
    unsigned index; /* among the VM's disks, at that time */
    bool full;
    uint32_t base; /* point number; 0 where full */
    char file[BACKUP_FILE_MAX];
    uint64_t size, copied; /* bytes of the disk; of what was copied for this point */
};

struct backup_point {
    uint32_t number; /* 1.., ascending, not always without gaps */
    char id[BACKUP_ID_MAX];
    char time[BACKUP_TIME_MAX]; /* RFC 3339 */
    struct backup_disk disks[BACKUP_DISKS_MAX];
    unsigned n_disks;
};

struct backup_manifest {
    char vm[PROTO_NAME_MAX + 1], chain[PROTO_NAME_MAX + 1];
    struct backup_point *points; /* owned */
    unsigned n_points;
};

/* Accepts one that is all zero. */
void backup_manifest_done(struct backup_manifest *m);

/* Read DIR/manifest.json; dir_fd is the directory's. path: DIR, for errors. -ENOENT without text: there is none;
 * -EINVAL and others with text. m is all zero before, and is ended by the caller in any case. */
int backup_manifest_load(int dir_fd, const char *path, struct backup_manifest *m, struct err *e) MUST_USE;
/* Write it in the place of the old one, atomically and to stable storage. */
int backup_manifest_save(int dir_fd, const char *path, const struct backup_manifest *m, struct err *e) MUST_USE;
/* The documents themselves. *ret_text: malloc'd. -ENOMEM. */
int backup_manifest_to_json(const struct backup_manifest *m, char **ret_text) MUST_USE;
/* As backup_manifest_load, from a text. -EINVAL with text. */
int backup_manifest_from_json(const char *text, struct backup_manifest *m, struct err *e) MUST_USE;
/* Append a point (copied). -ENOMEM; -ENOSPC: BACKUP_POINTS_MAX. */
int backup_manifest_add(struct backup_manifest *m, const struct backup_point *point) MUST_USE;

/* NULL: none. Borrowed until the manifest changes. number 0: the last one. */
const struct backup_point *backup_manifest_point(const struct backup_manifest *m, uint32_t number);
const struct backup_disk *backup_point_disk(const struct backup_point *point, const char *name);
/* The last point that has the disk; NULL: none. */
const struct backup_point *backup_manifest_last(const struct backup_manifest *m, const char *disk);
/* How many files the disk as of point consists of, 1 for a full one. */
unsigned backup_manifest_depth(const struct backup_manifest *m, const struct backup_point *point, const char *disk);

/* A point as in the manifest. NULL: out of memory. */
struct json_object *backup_point_to_json(const struct backup_point *point);

#endif
