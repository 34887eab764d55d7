#!/bin/sh
# Build one guest program: build.sh CC BITS OUT SOURCE... makes the flat image OUT and OUT.elf for debugging.
# Flags are the program's own, not the project's: a guest has no sanitizers, stack protector or vector registers.
set -eu
cc=$1 bits=$2 out=$3
shift 3
dir=$(dirname "$0")
model=
# clang 14's own assembler refuses 32-bit addresses in 16-bit code.
case $($cc --version) in *clang*) assembler=-fno-integrated-as ;; *) assembler= ;; esac
[ "$bits" = 32 ] || model="-mcmodel=small -mno-red-zone"
# shellcheck disable=SC2086
$cc -m"$bits" $model $assembler -std=gnu17 -O1 -g -Wall -Wextra -Werror -Wno-unused-parameter -Wno-frame-address -Wno-unknown-warning-option -Wno-unused-command-line-argument \
    -ffreestanding -fno-pic -fno-pie -no-pie -fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables \
    -fno-omit-frame-pointer -fno-strict-aliasing -mgeneral-regs-only -mno-sse -mno-mmx -mno-80387 \
    -nostdlib -static -Wl,--build-id=none -Wl,-z,noexecstack -Wl,-T,"$dir/lib/image.ld" -Wl,-m,"$([ "$bits" = 32 ] && echo elf_i386 || echo elf_x86_64)" \
    -I"$dir/lib" -o "$out.elf" "$@"
objcopy -O binary "$out.elf" "$out"
