/* CRC-32C (Castagnoli, RFC 3720 section 12.1), by the CPU's instruction where it has it. */
#ifndef BASE_CRC32C_H
#define BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* Continue a checksum with len bytes; crc: 0 at first. Any thread. */
uint32_t crc32c(uint32_t crc, const void *data, size_t len);

#endif
