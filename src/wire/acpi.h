/* ACPI tables as bytes: table headers with checksums, and an encoder for the part of AML that static hardware
 * descriptions need. Pure. All functions append to a struct buf whose error sticks: append freely, check buf_error once
 * at the end.
 *
 * Example, a device with a name:
 *     struct aml a = { .out = &buf };
 *     aml_scope_open(&a, "\\_SB");
 *     aml_device_open(&a, "COM1");
 *     aml_name(&a, "_HID");
 *     aml_eisa_id(&a, "PNP0501");
 *     aml_close(&a);
 *     aml_close(&a);
 * Spec: ACPI 6.4, sections 5.2 (tables), 6.4 (resources), 20 (AML). */
#ifndef WIRE_ACPI_H
#define WIRE_ACPI_H

#include <stdint.h>

#include "base/attr.h"
#include "base/buf.h"

#define ACPI_HEADER_SIZE 36U
#define AML_DEPTH_MAX 8U

/* Begin a table: its header with signature (4 characters) and revision. Returns its place for acpi_table_end. */
size_t acpi_table_begin(struct buf *out, const char *signature, uint8_t revision);
/* End it: length and checksum. */
void acpi_table_end(struct buf *out, size_t place);
/* The byte that makes the sum of all bytes 0, for a structure whose checksum field is 0 now. */
uint8_t acpi_checksum(const void *data, size_t len);

/* Little-endian numbers, for table fields. */
void acpi_put(struct buf *out, uint64_t value, unsigned bytes);
/* Generic address structure of a register in port space; width in bits (8, 16 or 32); port 0: an absent register. */
void acpi_put_port(struct buf *out, uint16_t port, unsigned width);

struct aml {
    struct buf *out;
    unsigned depth;
    size_t open[AML_DEPTH_MAX]; /* where the bodies of the open packages begin */
};

/* Objects with a body, ended by aml_close. path: "\\_SB.PCI0", "^X", "NAME"; segments of 1 to 4 characters. */
void aml_scope_open(struct aml *a, const char *path);
void aml_device_open(struct aml *a, const char *path);
void aml_method_open(struct aml *a, const char *path, uint8_t n_args); /* not serialised */
void aml_package_open(struct aml *a, uint8_t n_elements);
void aml_close(struct aml *a);

/* Name (path, ...): the object that follows is its value. */
void aml_name(struct aml *a, const char *path);
void aml_integer(struct aml *a, uint64_t value);
void aml_string(struct aml *a, const char *text);
/* "PNP0501": three capital letters and four hexadecimal digits. */
void aml_eisa_id(struct aml *a, const char *id);
/* Notify (path, value): a term of a method. */
void aml_notify(struct aml *a, const char *path, uint8_t value);
void aml_buffer(struct aml *a, const void *data, size_t len);

/* Resource descriptors for _CRS; they go to a struct buf of their own, which aml_resources then encloses. */
enum acpi_space { ACPI_SPACE_MEMORY = 0, ACPI_SPACE_IO = 1, ACPI_SPACE_BUS = 2 };
void acpi_res_io(struct buf *res, uint16_t base, uint8_t len);
void acpi_res_irq(struct buf *res, unsigned irq); /* 0..15, edge */
void acpi_res_memory(struct buf *res, uint32_t base, uint32_t len);
/* A window [first, last] that a bridge passes on, as 2-, 4- or 8-byte address descriptor. */
void acpi_res_window(struct buf *res, enum acpi_space space, unsigned bytes, uint64_t first, uint64_t last);
/* Name (_CRS, ResourceTemplate () {...}). */
void aml_resources(struct aml *a, const struct buf *res);

#endif
