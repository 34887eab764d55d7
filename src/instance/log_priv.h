/* Shared by writer and reader of logs. */
#ifndef INSTANCE_LOG_PRIV_H
#define INSTANCE_LOG_PRIV_H

#define INST_LOG_DIR_MAX 1100
#define INST_LOG_PATH_MAX (INST_LOG_DIR_MAX + 32)

/* Piece 0 is the one that is written. */
void inst_log_path(const char *dir, unsigned piece, char ret_path[INST_LOG_PATH_MAX]);

#endif
