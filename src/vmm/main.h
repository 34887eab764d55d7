/* The program caisson-vmm. */
#ifndef VMM_MAIN_H
#define VMM_MAIN_H

/* Returns the exit code (proto/exit_code.h). */
int vmm_main(int argc, char **argv);

#endif
