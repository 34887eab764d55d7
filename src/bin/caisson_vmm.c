/* The VM process. */
#include "vmm/main.h"

int main(int argc, char **argv)
{
    return vmm_main(argc, argv);
}
