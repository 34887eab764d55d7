/* The OCI runtime: everything is in oci/. */
#include "oci/main.h"

int main(int argc, char **argv)
{
    return oci_main(argc, argv);
}
