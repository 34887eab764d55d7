/* ACPI table and AML encoder; see acpi.h. A package's length stands before its body and includes itself, in 1 to 4
 * bytes, so it is put in when the package is closed, by moving the body up. */
#include "wire/acpi.h"

#include <string.h>

#include "base/bits.h"
#include "base/check.h"

enum { AML_NAME = 0x08, AML_BYTE = 0x0a, AML_WORD = 0x0b, AML_DWORD = 0x0c, AML_STRING = 0x0d, AML_QWORD = 0x0e };
enum { AML_METHOD = 0x14, AML_NOTIFY = 0x86 };
enum { AML_SCOPE = 0x10, AML_BUFFER = 0x11, AML_PACKAGE = 0x12, AML_DUAL_NAME = 0x2e, AML_MULTI_NAME = 0x2f };
enum { AML_EXT = 0x5b, AML_EXT_DEVICE = 0x82 };

size_t acpi_table_begin(struct buf *out, const char *signature, uint8_t revision)
{
    size_t place = out->len;

    CHECK(strlen(signature) == 4);
    buf_append(out, signature, 4);
    acpi_put(out, 0, 4); /* length */
    acpi_put(out, revision, 1);
    acpi_put(out, 0, 1);                   /* checksum */
    buf_append(out, "CAISSNCAISSON ", 14); /* OEM and OEM table */
    acpi_put(out, 1, 4);
    buf_append(out, "CSSN", 4);
    acpi_put(out, 1, 4);
    return place;
}

void acpi_table_end(struct buf *out, size_t place)
{
    size_t len = out->len - place;

    if (buf_error(out) < 0)
        return;
    store_le32(out->data + place + 4, (uint32_t)len);
    out->data[place + 9] = acpi_checksum(out->data + place, len);
}

uint8_t acpi_checksum(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint8_t sum = 0;

    while (len-- > 0)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

void acpi_put(struct buf *out, uint64_t value, unsigned bytes)
{
    uint8_t le[8];

    store_le64(le, value);
    buf_append(out, le, bytes);
}

void acpi_put_port(struct buf *out, uint16_t port, unsigned width)
{
    acpi_put(out, 1, 1); /* system I/O */
    acpi_put(out, port ? width : 0, 1);
    acpi_put(out, 0, 1);                         /* bit offset */
    acpi_put(out, port ? width / 16 + 1 : 0, 1); /* access size: 8, 16, 32 bits are 1, 2, 3 */
    acpi_put(out, port, 8);
}

static void aml_path(struct aml *a, const char *path)
{
    size_t n = 1;

    while (*path == '\\' || *path == '^')
        buf_append(a->out, path++, 1);
    for (const char *p = path; *p; p++)
        n += *p == '.';
    CHECK(*path && n <= 255);
    if (n == 2)
        acpi_put(a->out, AML_DUAL_NAME, 1);
    else if (n > 2)
        acpi_put(a->out, AML_MULTI_NAME | n << 8, 2);
    while (n-- > 0) {
        size_t len = strcspn(path, ".");

        CHECK(len >= 1 && len <= 4);
        buf_append(a->out, path, len);
        buf_append(a->out, "____", 4 - len);
        path += len + 1;
    }
}

static void aml_open(struct aml *a)
{
    CHECK(a->depth < AML_DEPTH_MAX);
    a->open[a->depth++] = a->out->len;
}

void aml_scope_open(struct aml *a, const char *path)
{
    acpi_put(a->out, AML_SCOPE, 1);
    aml_open(a);
    aml_path(a, path);
}

void aml_device_open(struct aml *a, const char *path)
{
    acpi_put(a->out, AML_EXT | AML_EXT_DEVICE << 8, 2);
    aml_open(a);
    aml_path(a, path);
}

void aml_method_open(struct aml *a, const char *path, uint8_t n_args)
{
    acpi_put(a->out, AML_METHOD, 1);
    aml_open(a);
    aml_path(a, path);
    acpi_put(a->out, n_args, 1);
}

void aml_notify(struct aml *a, const char *path, uint8_t value)
{
    acpi_put(a->out, AML_NOTIFY, 1);
    aml_path(a, path);
    aml_integer(a, value);
}

void aml_package_open(struct aml *a, uint8_t n_elements)
{
    acpi_put(a->out, AML_PACKAGE, 1);
    aml_open(a);
    acpi_put(a->out, n_elements, 1);
}

/* PkgLength (section 20.2.4): one byte up to 63, else a nibble and 1 to 3 bytes. Returns its size. */
static unsigned aml_package_length(size_t body, uint8_t out[4])
{
    unsigned bytes = 1;
    size_t len;

    while (bytes < 4 && body + bytes >= (bytes == 1 ? 64U : 1U << (4 + 8 * (bytes - 1))))
        bytes++;
    len = body + bytes;
    CHECK(len < 1U << 28);
    if (bytes == 1) {
        out[0] = (uint8_t)len;
        return 1;
    }
    out[0] = (uint8_t)((bytes - 1) << 6 | (len & 0xf));
    for (unsigned i = 1; i < bytes; i++)
        out[i] = (uint8_t)(len >> (4 + 8 * (i - 1)));
    return bytes;
}

void aml_close(struct aml *a)
{
    uint8_t length[4];
    size_t start, body;
    unsigned bytes;

    CHECK(a->depth > 0);
    start = a->open[--a->depth];
    body = a->out->len - start;
    if (buf_error(a->out) < 0)
        return;
    bytes = aml_package_length(body, length);
    if (!buf_extend(a->out, bytes))
        return;
    memmove(a->out->data + start + bytes, a->out->data + start, body);
    memcpy(a->out->data + start, length, bytes);
}

void aml_name(struct aml *a, const char *path)
{
    acpi_put(a->out, AML_NAME, 1);
    aml_path(a, path);
}

void aml_integer(struct aml *a, uint64_t value)
{
    if (value <= 1) {
        acpi_put(a->out, value, 1); /* ZeroOp, OneOp */
    } else if (value <= UINT8_MAX) {
        acpi_put(a->out, AML_BYTE, 1);
        acpi_put(a->out, value, 1);
    } else if (value <= UINT16_MAX) {
        acpi_put(a->out, AML_WORD, 1);
        acpi_put(a->out, value, 2);
    } else if (value <= UINT32_MAX) {
        acpi_put(a->out, AML_DWORD, 1);
        acpi_put(a->out, value, 4);
    } else {
        acpi_put(a->out, AML_QWORD, 1);
        acpi_put(a->out, value, 8);
    }
}

void aml_string(struct aml *a, const char *text)
{
    acpi_put(a->out, AML_STRING, 1);
    buf_append(a->out, text, strlen(text) + 1);
}

static unsigned aml_hex(char c)
{
    return (unsigned)(c <= '9' ? c - '0' : c - 'A' + 10);
}

/* Three 5-bit letters and four nibbles, the most significant byte first (section 19.6.36). */
void aml_eisa_id(struct aml *a, const char *id)
{
    uint32_t v = 0;

    CHECK(strlen(id) == 7);
    for (unsigned i = 0; i < 3; i++)
        v = v << 5 | (unsigned)(id[i] - '@');
    for (unsigned i = 3; i < 7; i++)
        v = v << 4 | aml_hex(id[i]);
    acpi_put(a->out, AML_DWORD, 1);
    acpi_put(a->out, __builtin_bswap32(v), 4);
}

void aml_buffer(struct aml *a, const void *data, size_t len)
{
    acpi_put(a->out, AML_BUFFER, 1);
    aml_open(a);
    aml_integer(a, len);
    buf_append(a->out, data, len);
    aml_close(a);
}

void acpi_res_io(struct buf *res, uint16_t base, uint8_t len)
{
    acpi_put(res, 0x47, 1);
    acpi_put(res, 1, 1); /* decodes 16 bits */
    acpi_put(res, base, 2);
    acpi_put(res, base, 2);
    acpi_put(res, 1, 1); /* alignment */
    acpi_put(res, len, 1);
}

void acpi_res_irq(struct buf *res, unsigned irq)
{
    CHECK(irq < 16);
    acpi_put(res, 0x22, 1);
    acpi_put(res, BIT(irq), 2);
}

void acpi_res_memory(struct buf *res, uint32_t base, uint32_t len)
{
    acpi_put(res, 0x86, 1);
    acpi_put(res, 9, 2);
    acpi_put(res, 1, 1); /* writable */
    acpi_put(res, base, 4);
    acpi_put(res, len, 4);
}

void acpi_res_window(struct buf *res, enum acpi_space space, unsigned bytes, uint64_t first, uint64_t last)
{
    static const uint8_t specific[] = { [ACPI_SPACE_MEMORY] = 0x01, [ACPI_SPACE_IO] = 0x03, [ACPI_SPACE_BUS] = 0x00 };

    acpi_put(res, bytes == 2 ? 0x88 : bytes == 4 ? 0x87 : 0x8a, 1);
    acpi_put(res, 3 + 5 * bytes, 2);
    acpi_put(res, space, 1);
    acpi_put(res, 0x0c, 1);            /* producer; both ends are fixed */
    acpi_put(res, specific[space], 1); /* memory: writable, not cached; I/O: the entire range */
    acpi_put(res, 0, bytes);           /* granularity */
    acpi_put(res, first, bytes);
    acpi_put(res, last, bytes);
    acpi_put(res, 0, bytes); /* no translation */
    acpi_put(res, last - first + 1, bytes);
}

void aml_resources(struct aml *a, const struct buf *res)
{
    static const uint8_t end_tag[2] = { 0x79, 0 }; /* checksum 0: not checked */

    if (buf_error(res) < 0 && !a->out->error)
        a->out->error = buf_error(res);
    aml_name(a, "_CRS");
    acpi_put(a->out, AML_BUFFER, 1);
    aml_open(a);
    aml_integer(a, res->len + sizeof(end_tag));
    buf_append(a->out, res->data, res->len);
    buf_append(a->out, end_tag, sizeof(end_tag));
    aml_close(a);
}
