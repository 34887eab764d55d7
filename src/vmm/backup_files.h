/* The directory of a backup while a point is made in it: its manifest, and one new qcow2 file for each disk. The calls
 * block (worker thread), one at a time. */
#ifndef VMM_BACKUP_FILES_H
#define VMM_BACKUP_FILES_H

#include "base/attr.h"
#include "base/err.h"
#include "proto/backup.h"
#include "proto/vm_msg.h"

struct blk_node;
struct blk_watch;

struct backup_files_disk {
    /* Filled by the caller. */
    struct blk_watch *watch;
    const char *path; /* of the VM's disk, for errors */
    char name[BACKUP_DISK_MAX];
    unsigned index;
    /* Filled by open. */
    char prev_id[BACKUP_ID_MAX]; /* the record that counts from the last point; "": none that can be trusted */
    struct blk_node *target;
};

struct backup_files {
    /* Filled by the caller; borrowed. */
    const struct vm_msg_backup *request;
    const char *vm;
    struct backup_files_disk disks[BACKUP_DISKS_MAX];
    unsigned n_disks;
    /* Filled by open. */
    int dir_fd; /* locked; -1 at first */
    struct backup_manifest manifest;
    struct backup_point point; /* the new one, complete but for `copied` */
    char note[256];            /* why a disk is copied in full although there is a point before it; "": not so */
};

/* Make the directory where it is missing, lock it, decide what is full and what incremental, make and open the files.
 * -EBUSY: another backup is being made there; -EINVAL: it has backups of another VM or chain, or an increment is not
 * possible. In any case backup_files_close comes at the end. */
int backup_files_open(struct backup_files *f, struct err *e) MUST_USE;
/* The new point is of now. */
void backup_files_stamp(struct backup_files *f);
/* Everything is copied: put it on stable storage and write the point into the manifest. On failure there is none. */
int backup_files_commit(struct backup_files *f, struct err *e) MUST_USE;
/* Close everything; keep: the point is complete, else its files are removed. */
void backup_files_close(struct backup_files *f, bool keep);
/* The path of disk i's file. */
void backup_files_path(const struct backup_files *f, unsigned i, char *ret_path, size_t size);

#endif
