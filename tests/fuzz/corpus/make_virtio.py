#!/usr/bin/env python3
"""Make the seed inputs of fuzz_virtio_{pci,blk,net} (see fuzz_virtio.h for their form): valid requests in both formats."""
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
NEXT, WRITE, INDIRECT, AVAIL = 1, 2, 4, 1 << 7
QUEUE = 0x200


def put(memory, at, data):
    memory[at:at + len(data)] = data


def chain(memory, queue, packed, descs, slot=0):
    """descs: (address, length, flags). Packed rings take their avail bit; split rings one entry of the available ring."""
    base = QUEUE * queue
    for i, (addr, length, flags) in enumerate(descs):
        flags |= NEXT if i + 1 < len(descs) else 0
        at = base + 16 * (slot + i)
        if packed:
            put(memory, at, struct.pack("<QIHH", addr, length, slot, flags | AVAIL))
        else:
            put(memory, at, struct.pack("<QIHH", addr, length, flags, slot + i + 1))
    if not packed:
        index = struct.unpack_from("<H", memory, base + 0x102)[0]
        put(memory, base + 0x104 + 2 * index, struct.pack("<H", slot))
        put(memory, base + 0x102, struct.pack("<H", index + 1))
    return slot + len(descs)


def save(name, item, first, memory):
    folder = os.path.join(HERE, name)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, item), "wb") as f:
        f.write(bytes([first]) + bytes(memory).rstrip(b"\0") + b"\0")


def blk(packed):
    memory, slots = bytearray(0x1000), [0, 0]
    put(memory, 0x900, struct.pack("<QII", 16, 8, 0))
    for i, (kind, sector, length) in enumerate(((1, 8, 1024), (0, 8, 1024), (4, 0, 0), (8, 0, 20), (13, 0, 16), (11, 0, 16))):
        header, queue = 0x800 + 32 * i, i & 1
        put(memory, header, struct.pack("<IIQ", kind, 0, sector))
        body = [(0x900 if kind in (11, 13) else 0xa00, length, WRITE if kind in (0, 8) else 0)] if length else []
        slots[queue] = chain(memory, queue, packed, [(header, 16, 0)] + body + [(header + 24, 1, WRITE)], slots[queue])
    save("virtio_blk", "packed" if packed else "split", 7 if packed else 1, memory)


def net(packed, pairs):
    memory = bytearray(0x4000)
    ctrl = 4 if pairs > 1 else 2
    for queue in range(0, ctrl, 2):
        for i in range(4):
            chain(memory, queue, packed, [(0x2000 + 0x800 * queue + 0x400 * i, 0x200, WRITE)], i)
    macs = b"\x52\x54\0\0\0\1" * 2
    put(memory, 0xa00, struct.pack("<BBHHHHH", 1, 0, 0, 0, 14, 6, 0) + macs + b"\x88\x88" + b"x" * 600)
    chain(memory, 1, packed, [(0xa00, 12, 0), (0xa0c, 614, 0)])
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 3, 4, 5 << 4, 0x99, 500, 0, 0) + b"y" * 900
    ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(tcp), 1, 0x4000, 64, 6, 0) + b"\x0a\0\0\1\x0a\0\0\2" + tcp
    put(memory, 0x1000, struct.pack("<BBHHHHH", 1, 1, 54, 200, 34, 16, 0) + macs + b"\x08\0" + ip)
    chain(memory, 3 if pairs > 1 else 1, packed, [(0x1000, 12, 0), (0x100c, 14 + len(ip), 0)], 0 if pairs > 1 else 2)
    commands = [b"\1\0" + struct.pack("<II", 0, 1) + b"\1\2\3\4\5\6", b"\5\0" + struct.pack("<Q", 2 | 1 << 7), b"\0\0\0"]
    commands += [b"\4\0\2\0"] if pairs > 1 else []
    slot = 0
    for i, command in enumerate(commands):
        put(memory, 0x1800 + 32 * i, command)
        slot = chain(memory, ctrl, packed, [(0x1800 + 32 * i, len(command), 0), (0x1900, 1, WRITE)], slot)
    name = ("packed" if packed else "split") + (str(pairs) if pairs > 1 else "")
    save("virtio_net", name, (7 if packed else 3) | (0 if pairs > 1 else 8), memory)


def pci():
    def access(off, length, value, read=False, config=False):
        shift = {1: 0, 2: 1, 4: 2, 8: 3}[length]
        return struct.pack("<HBBQ", off, shift | (4 if read else 0) | (8 if config else 0), 0, value)

    ops = [access(0x14, 1, 3), access(0x08, 4, 1), access(0x0c, 4, 1), access(0x14, 1, 11), access(0x16, 2, 0),
           access(0x18, 2, 8), access(0x20, 8, 0x1000), access(0x28, 8, 0x2000), access(0x30, 8, 0x3000),
           access(0x1a, 2, 1), access(0x1c, 2, 1), access(0x14, 1, 15), access(0x3000, 2, 0), access(0x1000, 1, 0, True),
           access(0x2000, 4, 0, True), access(0x10, 4, 4, config=True), access(0x14, 1, 0)]
    save("virtio_pci", "start", ops[0][0], bytearray(b"".join(ops)[1:]))


for is_packed in (False, True):
    blk(is_packed)
    net(is_packed, 1)
    net(is_packed, 2)
pci()
