/* Start of a 32-bit guest program: Multiboot 1 entry, own GDT, exception stubs, and the way out of an expected exception. Paging
 * is off until the program turns it on. */
    .set MB_MAGIC, 0x1badb002
    .set MB_FLAGS, 0x00010000

    .section .text.boot, "ax", @progbits
    .code32
    .globl _start
mb_header:
    .long MB_MAGIC, MB_FLAGS, -(MB_MAGIC + MB_FLAGS)
    .long mb_header, image_start, image_data_end, image_bss_end, _start
_start:
    cli
    cld
    movl %ebx, boot_info
    lgdtl gdt_pointer
    ljmpl $0x08, $1f
1:  movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl $boot_stack_end, %esp
    call guest_start
    ud2

    .macro vector_stub n
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    pushl $0
    .endif
    pushl $\n
    jmp exception_common
    .endm
    .text
    .balign 16
    .globl exception_stubs
exception_stubs:
    .set vector, 0
    .rept 256
    vector_stub vector
    .set vector, vector + 1
    .endr

exception_common:
    pushl %ds
    pushl %es
    pushal
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    cld
    movl %esp, %eax
    movl %esp, %ebp
    andl $-16, %esp
    subl $12, %esp
    pushl %eax
    call guest_exception
    movl %ebp, %esp
    testl %eax, %eax
    jnz guest_recover_now
    popal
    popl %es
    popl %ds
    addl $8, %esp
    iretl

/* Back to the kernel's segments, stack and frame pointer, and to the place that TRY or guest_iret_to left. */
    .globl guest_recover_now
guest_recover_now:
    movl $0x10, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %fs
    movl %eax, %gs
    movl %eax, %ss
    movl guest_recover_esp, %esp
    movl guest_recover_ebp, %ebp
    pushl $2
    popfl
    jmpl *guest_recover_to

/* void guest_iret_to(const uint32_t *words, unsigned n, const uint32_t regs[8]): push n words (the last first... words[0] is
 * EIP), load the general registers (PUSHA order, edi first) and IRET. Comes back by a recorded exception. */
    .globl guest_iret_to, guest_iret_insn
guest_iret_to:
    pushl %ebp
    movl %esp, %ebp
    pushl %ebx
    pushl %esi
    pushl %edi
    movl 8(%ebp), %esi
    movl 12(%ebp), %ecx
    movl 16(%ebp), %eax
    movl %esp, guest_recover_esp
    movl %ebp, guest_recover_ebp
    movl $9f, guest_recover
1:  pushl -4(%esi,%ecx,4)
    loop 1b
    subl $32, %esp
    movl %eax, %esi
    movl %esp, %edi
    movl $8, %ecx
    rep movsl
    popal
guest_iret_insn:
    iretl
9:  popl %edi
    popl %esi
    popl %ebx
    popl %ebp
    ret

/* uint32_t real_mode_call(uint16_t offset): run 16-bit code at REAL_CS:offset in real mode; it ends with a far jump (RETF) to
 * where the stack says. Interrupts off. Returns EAX of that code. The code below is copied to 0x1000. */
    .globl real_mode_call, real_switch, real_switch_end
real_mode_call:
    pushal
    movl %esp, real_saved_esp
    movl 36(%esp), %ebx
    sgdtl real_gdtr
    sidtl real_idtr
    ljmpl $0x18, $(real_to - real_switch + 0x1000)
real_back:
    movl $0x10, %ecx
    movl %ecx, %ds
    movl %ecx, %es
    movl %ecx, %fs
    movl %ecx, %gs
    movl %ecx, %ss
    movl real_saved_esp, %esp
    lgdtl real_gdtr
    lidtl real_idtr
    movl %eax, real_result
    popal
    movl real_result, %eax
    ret

    .code16
real_switch:
real_to:
    movw $0x20, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movl %cr0, %eax
    andl $0x7ffffffe, %eax
    movl %eax, %cr0
    ljmpw $0, $(1f - real_switch + 0x1000)
1:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %fs
    movw %ax, %gs
    movw %ax, %ss
    movw $0x7000, %sp
    lidtl (real_ivt - real_switch + 0x1000)
    pushw $0
    pushw $(real_from - real_switch + 0x1000)
    pushw $0x0800
    pushw %bx
    lretw
real_from:
    movl %eax, %edx
    cli
    xorw %ax, %ax
    movw %ax, %ds
    lgdtl (real_gdt_low - real_switch + 0x1000)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    movl %edx, %eax
    ljmpl $0x08, $real_back
real_ivt:
    .word 0x3ff
    .long 0
real_gdt_low:
    .word gdt_limit
    .long gdt
real_switch_end:
    .code32

    .data
    .balign 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08 code, 32-bit, flat */
    .quad 0x00cf93000000ffff /* 10 data */
    .quad 0x00009b000000ffff /* 18 code, 16-bit, base 0 */
    .quad 0x000093000000ffff /* 20 data, 64 KiB */
    .quad 0x00cffb000000ffff /* 2b user code */
    .quad 0x00cff3000000ffff /* 33 user data */
    .fill 25, 8, 0           /* 38: TSS; 40..f8: tests */
    .set gdt_limit, . - gdt - 1
gdt_pointer:
    .word gdt_limit
    .long gdt

    .bss
    .balign 16
boot_stack:
    .skip 65536
    .globl boot_stack_end, boot_info
boot_stack_end:
boot_info:
    .skip 4
real_saved_esp:
    .skip 4
real_result:
    .skip 4
real_gdtr:
    .skip 8
real_idtr:
    .skip 8

    .section .note.GNU-stack, "", @progbits
