/* The program caisson-shim: the supervisor of one instance. */
#ifndef SHIM_MAIN_H
#define SHIM_MAIN_H

int shim_main(int argc, char **argv);

#endif
