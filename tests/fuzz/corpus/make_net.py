#!/usr/bin/env python3
"""Make the seed inputs of fuzz_net_offload: what the next one accepts (1 byte), struct net_hdr, a frame."""
import os
import struct

FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), 'net_offload')
MACS = b'\2\0\0\0\0\1\2\0\0\0\0\2'
TCP = struct.pack('>HHIIBBHHH', 1, 2, 3, 4, 5 << 4, 0x99, 500, 0, 0)


def ipv4(proto, rest):
    return struct.pack('>BBHHHBBH', 0x45, 0, 20 + len(rest), 1, 0x4000, 64, proto, 0) + b'\x0a\0\0\1\x0a\0\0\2' + rest


def ipv6(proto, rest, extension=b''):
    return struct.pack('>IHBB', 6 << 28, len(extension + rest), 60 if extension else proto, 64) + bytes(32) + extension + rest


def save(name, allowed, hdr, frame):
    os.makedirs(FOLDER, exist_ok=True)
    with open(os.path.join(FOLDER, name), 'wb') as f:
        f.write(bytes([allowed]) + struct.pack('<BBHHHH', *hdr) + frame)


save('plain', 0, (1, 0, 0, 0, 34, 16), MACS + b'\x08\0' + ipv4(6, TCP + b'x' * 99))
save('tso4', 0, (1, 1, 54, 200, 34, 16), MACS + b'\x08\0' + ipv4(6, TCP + b'x' * 999))
save('tso6', 1, (1, 0x84, 82, 200, 62, 16), MACS + b'\x86\xdd' + ipv6(6, TCP + b'x' * 999, b'\6\0\1\4\0\0\0\0'))
save('uso', 3, (1, 5, 46, 300, 38, 6), MACS + b'\x81\0\0\5\x08\0' + ipv4(17, struct.pack('>HHHH', 1, 2, 1008, 0) + b'x' * 1000))
