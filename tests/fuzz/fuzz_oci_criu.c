/* What CRIU answers, and a container's mounts. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "oci/criu_notes.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct oci_spec none;
    struct oci_criu_response m = { .version = -1 };
    struct oci_criu_mount mount;
    char *line = text_copy(data, size);
    struct buf b;

    if (oci_criu_decode(data, size, &m) == 0)
        CHECK(m.version >= 0 && m.version < 1000000 && strlen(m.script) < sizeof(m.script));
    else
        CHECK(m.version == -1);
    buf_init(&b, OCI_CRIU_MESSAGE_MAX);
    oci_criu_encode_request(OCI_CRIU_DUMP, &(struct oci_criu_opts){ .root = line }, &b);
    CHECK(buf_error(&b) < 0 || oci_criu_decode(b.data, b.len, &m) == 0);
    buf_done(&b);
    if (line && oci_criu_mount_line(&none, line, &mount) > 0)
        CHECK(mount.point[0] && strcmp(mount.point, "/") != 0);
    free(line);
    return 0;
}
