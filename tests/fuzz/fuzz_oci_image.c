/* The documents of images: index, manifest, configuration, manifest.json; and times. */
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include "base/text.h"
#include "wire/oci_image.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static int (*const parse[])(const char *, size_t, struct oci_image *,
                                struct oci_why *) = { oci_index_parse, oci_manifest_parse, oci_config_parse,
                                                      oci_docker_parse };
    char *text = text_copy(data, size);
    int64_t ns;

    for (unsigned i = 0; i < 4; i++) {
        struct oci_image image = { 0 };
        struct oci_why why;

        if (parse[i]((const char *)data, size, &image, &why) == 0)
            oci_image_done(&image);
    }
    if (text && oci_time_parse(text, &ns) == 0 && !oci_digest_ok(text))
        text[0] = '\0';
    free(text);
    return 0;
}
