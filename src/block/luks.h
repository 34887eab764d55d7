/* LUKS1: the header that keeps a volume's key under passphrases, and the encryption of sectors by that key. As a format
 * of its own (blk_format_luks: header, then the encrypted disk) and as qcow2 uses it (header anywhere in the file,
 * clusters encrypted where they stand).
 *
 * What is in clear: the size of the disk, which clusters are in use, and that something was written. Nothing
 * authenticates the data: who can write the file can garble sectors of 512 bytes or put back older ones, but not choose
 * what they decrypt to (XTS).
 * Spec: LUKS On-Disk Format Specification 1.2.3. Must not know qcow2. */
#ifndef BLOCK_LUKS_H
#define BLOCK_LUKS_H

#include <stddef.h>
#include <stdint.h>

#include "base/attr.h"
#include "base/cleanup.h"
#include "block/node.h"

/* Bytes that blk_luks_make fills: the header and places for eight keys. */
#define BLK_LUKS_AREA (4040u * BLK_SECTOR)

/* The most rounds of HMAC that opening a header may cost, over all of its key slots. A header that was written with the
 * usual 2 s has 2 to 10 million rounds a slot; this bound allows eight slots of 16 million of two hash blocks each, and
 * holds us for minutes where the fields of a hostile header (8 slots of 2^32 rounds of 4 blocks) would for days. */
#define BLK_LUKS_ROUNDS_MAX (UINT64_C(1) << 28)

struct blk_luks; /* an unlocked volume */

/* Read the header at off of file and unlock the volume. len: bytes of the header area, key material included; nothing
 * outside [off, off + len) is read. secret: the passphrase (no terminating zero), NULL: none. Takes seconds: that is
 * the purpose of the key derivation. -ENOKEY: no or a wrong passphrase; -EMEDIUMTYPE: no header, or one that makes no
 * sense; -ENOTSUP: LUKS2, an unknown cipher or hash, or more rounds than BLK_LUKS_ROUNDS_MAX; why says which. Any
 * thread. */
int blk_luks_unlock(struct blk_node *file, uint64_t off, uint64_t len, const uint8_t *secret, size_t secret_len,
                    struct blk_luks **ret_luks, struct blk_why *why) MUST_USE;
/* Only look at the header: a volume that stays locked, whose sectors can be neither encrypted nor decrypted (-ENOKEY).
 * No passphrase and no time needed. Errors as above. */
int blk_luks_look(struct blk_node *file, uint64_t off, uint64_t len, struct blk_luks **ret_luks,
                  struct blk_why *why) MUST_USE;
/* Clears the key. NULL accepted. Nothing is in flight. */
void blk_luks_free(struct blk_luks *luks);
DEFINE_AUTO(blk_luks, struct blk_luks, blk_luks_free)

/* Encrypt or decrypt whole sectors; in and out may be the same memory, but must not overlap otherwise. off: place of
 * the first byte, a multiple of BLK_SECTOR as len is; the number of a sector, which goes into its encryption, is off /
 * BLK_SECTOR. For qcow2, off is the place in the FILE THAT HOLDS THE CLUSTER (host offset), not that on the disk.
 * -EINVAL: not whole sectors; -ENOMEM; -EIO: libcrypto failed. Any thread, no blocking beyond the arithmetic. */
int blk_luks_encrypt(struct blk_luks *luks, uint64_t off, const void *in, void *out, size_t len) MUST_USE;
int blk_luks_decrypt(struct blk_luks *luks, uint64_t off, const void *in, void *out, size_t len) MUST_USE;

/* Where the encrypted disk begins, bytes from the header; for the format of its own. */
uint64_t blk_luks_payload(const struct blk_luks *luks);

/* Make a volume: aes-256-xts-plain64, sha256, one key slot, a random key. area: BLK_LUKS_AREA bytes, filled for the
 * caller to write where the header is to stand. iter_ms: how long a try of a passphrase should take on this machine
 * (CPU time), 0: 2000. ret_luks: the volume, unlocked (NULL: not wanted). -EINVAL: no secret; -ENOMEM; -EIO: libcrypto
 * failed. */
int blk_luks_make(const uint8_t *secret, size_t secret_len, unsigned iter_ms, uint8_t *area,
                  struct blk_luks **ret_luks) MUST_USE;

#endif
