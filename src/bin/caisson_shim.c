/* The supervisor of an instance. */
#include "shim/main.h"

int main(int argc, char **argv)
{
    return shim_main(argc, argv);
}
