/* The program caisson-switch. */
#ifndef NETD_MAIN_H
#define NETD_MAIN_H

/* Returns the exit code (proto/exit_code.h). */
int netd_main(int argc, char **argv);

#endif
