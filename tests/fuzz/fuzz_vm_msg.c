/* What a client asks of a VM, and manifests of backups: any text is parsed or refused, and what is accepted survives
 * writing and reading again. The first byte chooses. */
#include <stdlib.h>
#include <string.h>

#include "base/check.h"
#include "base/text.h"
#include "proto/vm_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len);

static int read_and_write(bool manifest, const char *text, char **ret_text, struct err *e)
{
    struct backup_manifest m = { 0 };
    struct vm_msg_request request;
    int r = manifest ? backup_manifest_from_json(text, &m, e) : vm_msg_request_from_json(text, &request, e);

    if (r == 0)
        CHECK((manifest ? backup_manifest_to_json(&m, ret_text) : vm_msg_request_to_json(&request, ret_text)) == 0);
    for (unsigned i = 0; i < m.n_points; i++)
        CHECK(backup_manifest_depth(&m, &m.points[i], m.points[i].disks[0].name) <= m.n_points);
    backup_manifest_done(&m);
    return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t len)
{
    const bool manifest = len > 0 && data[0] == 'm';
    char *text = text_copy(data + (len > 0), len - (len > 0)), *first = NULL, *second = NULL;
    struct err e = { 0 };

    if (text && read_and_write(manifest, text, &first, &e) == 0) {
        CHECK(read_and_write(manifest, first, &second, &e) == 0);
        CHECK(strcmp(first, second) == 0);
    } else if (text) {
        CHECK(e.code != 0 && e.text[0] != '\0');
    }
    free(first);
    free(second);
    free(text);
    return 0;
}
