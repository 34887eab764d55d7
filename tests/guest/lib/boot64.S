/* Start of a 64-bit guest program: Multiboot 1 entry (runner.c and QEMU load the flat image by the header's addresses), the
 * way to long mode with the first 4 GiB mapped one to one, the start of further CPUs, and the exception stubs. */
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
1:  movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $boot_stack_end, %esp
    /* 2 MiB pages: PML4 -> PDPT -> 4 directories. */
    movl $(boot_pdpt + 7), boot_pml4
    movl $boot_pdpt, %edi
    movl $(boot_pd + 7), %eax
    movl $4, %ecx
2:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x1000, %eax
    loop 2b
    movl $boot_pd, %edi
    movl $0x83, %eax
    movl $(4 * 512), %ecx
3:  movl %eax, (%edi)
    addl $8, %edi
    addl $0x200000, %eax
    loop 3b
    /* The last GiB holds devices: uncached. */
    movl $(boot_pd + 3 * 4096), %edi
    movl $512, %ecx
4:  orl $0x10, (%edi)
    addl $8, %edi
    loop 4b
    call enter_long_mode
    ljmpl $0x10, $5f
    .code64
5:  movl $boot_stack_end, %esp
    call guest_start
    ud2

    .code32
/* Paging and long mode on, still in 32-bit code. Clobbers eax, ecx, edx. */
enter_long_mode:
    movl $0x6a0, %eax /* OSXMMEXCPT, OSFXSR, PGE, PAE */
    movl %eax, %cr4
    movl $boot_pml4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax /* NXE, LME, SCE */
    wrmsr
    movl $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    movl %eax, %cr0
    ret

/* Further CPUs: copied to AP_TRAMPOLINE, entered in real mode. */
    .code16
    .globl ap_trampoline, ap_trampoline_end
ap_trampoline:
    cli
    cld
    lgdtl %cs:(ap_gdt_pointer - ap_trampoline)
    movl $0x11, %eax
    movl %eax, %cr0
    ljmpl $0x08, $ap_protected
ap_gdt_pointer:
    .word gdt_limit
    .long gdt
ap_trampoline_end:
    .code32
ap_protected:
    movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movl %ebx, %edi
    leal 1(%ebx), %esp
    shll $14, %esp
    addl $ap_stacks, %esp
    call enter_long_mode
    ljmpl $0x10, $1f
    .code64
1:  movl %edi, %edi
    movl %esp, %esp
    call ap_start
    ud2

/* 256 stubs of 16 bytes. */
    .macro vector_stub n
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21) || (\n == 29) || (\n == 30)
    .else
    pushq $0
    .endif
    pushq $\n
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
    pushq %rax
    pushq %rcx
    pushq %rdx
    pushq %rbx
    pushq %rbp
    pushq %rsi
    pushq %rdi
    pushq %r8
    pushq %r9
    pushq %r10
    pushq %r11
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, %rdi
    cld
    movq %rsp, %rbp
    andq $-16, %rsp
    call guest_exception
    movq %rbp, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %r11
    popq %r10
    popq %r9
    popq %r8
    popq %rdi
    popq %rsi
    popq %rbp
    popq %rbx
    popq %rdx
    popq %rcx
    popq %rax
    addq $16, %rsp
    iretq

/* void guest_iret_to(const struct iret_frame *to, const uint64_t regs[16]): leave through IRETQ with the registers in regs
 * (rax rcx rdx rbx - rbp rsi rdi r8..r15); comes back when an exception is recorded, by guest_recover. */
    .globl guest_iret_to
guest_iret_to:
    pushq %rbx
    pushq %rbp
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    leaq 1f(%rip), %rax
    movq %rsp, guest_recover_rsp(%rip)
    movq %rax, guest_recover(%rip)
    pushq 32(%rdi)
    pushq 24(%rdi)
    pushq 16(%rdi)
    pushq 8(%rdi)
    pushq (%rdi)
    movq 0(%rsi), %rax
    movq 8(%rsi), %rcx
    movq 16(%rsi), %rdx
    movq 24(%rsi), %rbx
    movq 40(%rsi), %rbp
    movq 56(%rsi), %rdi
    movq 64(%rsi), %r8
    movq 72(%rsi), %r9
    movq 80(%rsi), %r10
    movq 88(%rsi), %r11
    movq 96(%rsi), %r12
    movq 104(%rsi), %r13
    movq 112(%rsi), %r14
    movq 120(%rsi), %r15
    movq 48(%rsi), %rsi
    .globl guest_iret_insn
guest_iret_insn:
    iretq
1:  movl $0x18, %eax
    movl %eax, %ds
    movl %eax, %es
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbp
    popq %rbx
    ret

    .data
    .balign 16
    .globl gdt, gdt_pointer
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff /* 08 kernel 32-bit code */
    .quad 0x00af9b000000ffff /* 10 kernel 64-bit code */
    .quad 0x00cf93000000ffff /* 18 kernel data */
    .quad 0x00cffb000000ffff /* 23 user 32-bit code */
    .quad 0x00cff3000000ffff /* 2b user data */
    .quad 0x00affb000000ffff /* 33 user 64-bit code */
    .fill 153, 8, 0          /* 38..ff for tests, 100 + 16n: TSS of CPU n, for 64 CPUs */
    .set gdt_limit, . - gdt - 1
gdt_pointer:
    .word gdt_limit
    .quad gdt

    .bss
    .balign 4096
    .globl boot_pml4, boot_pdpt, boot_pd, boot_stack_end
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4 * 4096
boot_stack:
    .skip 65536
boot_stack_end:
ap_stacks:
    .skip 64 * 16384
    .globl boot_info
boot_info:
    .skip 8

    .section .note.GNU-stack, "", @progbits
