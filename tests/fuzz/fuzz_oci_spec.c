/* config.json, and the documents of exec and update. */
#include <stddef.h>
#include <stdint.h>

#include "wire/oci_spec.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int (*const parse[])(const char *, size_t, struct oci_spec **,
                                struct oci_why *) = { oci_spec_parse, oci_spec_parse_process,
                                                      oci_spec_parse_resources };

    for (unsigned i = 0; i < 3; i++) {
        struct oci_spec *s = NULL;
        struct oci_why why;

        if (parse[i]((const char *)data, size, &s, &why) == 0)
            oci_spec_free(s);
    }
    return 0;
}
