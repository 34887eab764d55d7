/* The process of a network. */
#include "netd/main.h"

int main(int argc, char **argv)
{
    return netd_main(argc, argv);
}
