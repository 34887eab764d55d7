#include "oci/bundle.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/cleanup.h"
#include "oci/path.h"

int oci_document_read(int dir_fd, const char *path, oci_parse_fn *parse, struct oci_spec **ret, char **ret_text,
                      size_t *ret_len, struct err *e)
{
    AUTO_FREE char *text = NULL;
    struct oci_why why = { 0 };
    size_t len;
    int r = oci_path_read(dir_fd, strcmp(path, "-") == 0 ? "/proc/self/fd/0" : path, OCI_CONFIG_MAX, &text, &len);

    if (r < 0)
        return err_set(e, -r, "%s: cannot be read: %s", path, strerrordesc_np(-r));
    r = parse(text, len, ret, &why);
    if (r == -EINVAL)
        return err_set(e, EINVAL, "%s: %s%s%s", path, why.where, why.where[0] ? " " : "", why.what);
    if (r < 0)
        return err_set(e, -r, "%s: %s", path, strerrordesc_np(-r));
    if (ret_text) {
        *ret_text = STEAL(text);
        *ret_len = len;
    }
    return 0;
}

int oci_bundle_read(int dir_fd, struct oci_spec **ret, char **ret_text, size_t *ret_len, struct err *e)
{
    struct stat st;

    /* A pipe would be waited for without an end. */
    if (fstatat(dir_fd, "config.json", &st, 0) == 0 && !S_ISREG(st.st_mode))
        return err_set(e, EINVAL, "config.json: is not a regular file");
    return oci_document_read(dir_fd, "config.json", oci_spec_parse, ret, ret_text, ret_len, e);
}
