/* The guest code of the engine probe: what a stock kernel does on its way up, in small. It enters in real mode, builds page
 * tables, goes through protected mode to long mode, takes exceptions, system calls and a timer interrupt, uses the vector
 * units, and leaves what it found at PROBE_RESULTS for the host to compare. Runs at PROBE_BASE, whatever address the linker
 * gave it: AT(label) is a label's address in the guest. */
#include "probe_guest.h"

#define AT(label) (PROBE_BASE + label - vmm_probe_guest)
#define RESULT(i) (PROBE_RESULTS + 8 * (i))

#define PML4 0x20000
#define PDPT 0x21000
#define PD0 0x22000
#define PT0 0x23000
#define PD3 0x24000
#define IDT 0x25000
#define TSS 0x26000
#define FXAREA 0x27000
#define STACK 0x2f000
#define TSS_STACK 0x2e000
#define USER_STACK 0x2d000
#define LAPIC 0xfee00000
#define TIMER_VECTOR 0x20
#define VECTORS 0x21

#define SEL_CODE32 0x08
#define SEL_CODE64 0x10
#define SEL_DATA 0x18
#define SEL_USER32 0x23
#define SEL_USER_DATA 0x2b
#define SEL_USER64 0x33
#define SEL_TSS 0x38

    .macro step n
    movb $\n, %al
    outb %al, $PROBE_PORT_STEP
    .endm

    .section .rodata.vmm_probe_guest, "a", @progbits
    .balign 32
    .globl vmm_probe_guest
    .globl vmm_probe_guest_end
vmm_probe_guest:
    .code16
    cli
    cld
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $0x7c00, %sp
    step PROBE_STEP_REAL
    /* 64 words 1, 3, 5... written by STOSW, summed by LODSW: 4096. */
    movw $PROBE_SCRATCH, %di
    movw $1, %ax
    movw $64, %cx
1:  stosw
    addw $2, %ax
    loop 1b
    movw $PROBE_SCRATCH, %si
    movw $64, %cx
    xorw %bx, %bx
2:  lodsw
    addw %ax, %bx
    loop 2b
    movw %bx, RESULT(PROBE_R_REAL)

    lgdtl %cs:(gdt_pointer - vmm_probe_guest)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $SEL_CODE32, $AT(protected)

    .code32
protected:
    movw $SEL_DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl $STACK, %esp
    step PROBE_STEP_PROTECTED
    /* Page tables: 4 KiB pages for the first 2 MiB, without PROBE_HOLE; one 2 MiB page each for the rest and the LAPIC. */
    movl $PML4, %edi
    xorl %eax, %eax
    movl $(5 * 1024), %ecx
    rep stosl
    movl $(PDPT + 7), PML4
    movl $(PD0 + 7), PDPT
    movl $(PD3 + 7), PDPT + 3 * 8
    movl $(PT0 + 7), PD0
    movl $(0x200000 + 0x87), PD0 + 8
    movl $(LAPIC + 0x9f), PD3 + ((LAPIC >> 21) & 511) * 8
    movl $7, %eax
    movl $PT0, %edi
    xorl %ebx, %ebx
1:  movl %eax, (%edi)
    addl %eax, %ebx
    addl $0x1000, %eax
    addl $8, %edi
    cmpl $0x200007, %eax
    jb 1b
    movl $0, PT0 + (PROBE_HOLE >> 12) * 8
    movl %ebx, RESULT(PROBE_R_PROTECTED)
    /* PAE, OSFXSR, OSXMMEXCPT; LME, SCE, NXE; PG, WP, NE, MP, PE. */
    movl $0x620, %eax
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x901, %eax
    wrmsr
    movl $0x80010023, %eax
    movl %eax, %cr0
    ljmpl $SEL_CODE64, $AT(long_mode)

    .code64
long_mode:
    step PROBE_STEP_LONG
    movl $SEL_DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    movl $STACK, %esp
    xorl %eax, %eax
    movl %eax, %fs
    movl %eax, %gs
    call make_idt
    lidtq AT(idt_pointer)
    movl $TSS_STACK, TSS + 4
    movl $0, TSS + 8
    movl $SEL_TSS, %eax
    ltr %ax
    /* x = x * 6364136223846793005 + 1442695040888963407, 64 times from 1. */
    movl $1, %eax
    movabsq $6364136223846793005, %rbx
    movabsq $1442695040888963407, %rdx
    movl $64, %ecx
1:  imulq %rbx, %rax
    addq %rdx, %rax
    decl %ecx
    jnz 1b
    movq %rax, RESULT(PROBE_R_LONG)

    step PROBE_STEP_INT3
    int3
    int3

    step PROBE_STEP_PAGE_FAULT
    movl $0x1234567, PROBE_HOLE_TARGET
    movl PROBE_HOLE, %eax
    movq %rax, RESULT(PROBE_R_PF_VALUE)

    step PROBE_STEP_INVLPG
    movl $0x89abcde, PROBE_HOLE_TARGET + 0x1000
    movl PROBE_HOLE, %eax
    movq %rax, RESULT(PROBE_R_INVLPG_OLD)
    movl $(PROBE_HOLE_TARGET + 0x1007), PT0 + (PROBE_HOLE >> 12) * 8
    invlpg PROBE_HOLE
    movl PROBE_HOLE, %eax
    movq %rax, RESULT(PROBE_R_INVLPG_NEW)

    step PROBE_STEP_MSR
    movl $0xc0000102, %ecx /* KERNEL_GS_BASE */
    movl $0x11223344, %eax
    movl $0xffff8000, %edx
    wrmsr
    swapgs
    movl $0xc0000101, %ecx
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, RESULT(PROBE_R_MSR_GS)
    swapgs
    movl $0xc0000101, %ecx
    rdmsr
    shlq $32, %rdx
    orq %rdx, %rax
    movq %rax, RESULT(PROBE_R_MSR_SWAPGS)

    step PROBE_STEP_CMPXCHG16B
    movq $0x1111, PROBE_SCRATCH
    movq $0x2222, PROBE_SCRATCH + 8
    movl $0x1111, %eax
    movl $0x2222, %edx
    movabsq $0xaaaabbbbccccdddd, %rbx
    movabsq $0x123456789abcdef0, %rcx
    lock cmpxchg16b PROBE_SCRATCH
    setz %dil
    movzbl %dil, %edi
    movq %rdi, RESULT(PROBE_R_CX16_HIT)
    movq PROBE_SCRATCH, %rax
    movq %rax, RESULT(PROBE_R_CX16_LO)
    movq PROBE_SCRATCH + 8, %rax
    movq %rax, RESULT(PROBE_R_CX16_HI)
    movl $5, %eax
    movl $6, %edx
    lock cmpxchg16b PROBE_SCRATCH
    setz %dil
    movzbl %dil, %edi
    movq %rdi, RESULT(PROBE_R_CX16_MISS)
    movq %rax, RESULT(PROBE_R_CX16_MISS_RAX)

    call vector_units
    call user_mode

    step PROBE_STEP_TIMER
    movl $0xfffffff, %eax
    movl $LAPIC, %ebx
    movl $0x1ff, 0xf0(%rbx) /* software enable */
    movl $0, 0x80(%rbx)
    movl $TIMER_VECTOR, 0x320(%rbx) /* one shot */
    movl $0xb, 0x3e0(%rbx) /* divide by 1 */
    movl $20000, 0x380(%rbx)
1:  cli
    cmpq $0, RESULT(PROBE_R_TIMER)
    jne 2f
    sti
    hlt
    jmp 1b
2:
    call speed

    outb %al, $PROBE_PORT_DONE
3:  cli
    hlt
    jmp 3b

speed:
    movl $1, %r9d
    movl $PROBE_SPEED_ROUNDS, %r8d
1:  step PROBE_STEP_SPEED
    movl $PROBE_SPEED_LOOPS, %ecx
2:  pushq %r9
    addq %rcx, %r9
    movq %r9, PROBE_SCRATCH(,%rcx,8)
    xorq PROBE_SCRATCH + 8, %r9
    popq %rdx
    leaq 3(%rdx,%r9), %r9
    rorq $7, %r9
    testb $1, %r9b
    decl %ecx
    jnz 2b
    decl %r8d
    jnz 1b
    step PROBE_STEP_SPEED
    movq %r9, RESULT(PROBE_R_SPEED)
    ret

vector_units:
    step PROBE_STEP_SSE
    /* Packed integers: 4 x (7 + i * 3), multiplied and added; scalar doubles: sqrt(2) * 3 + 0.1. */
    movl $7, %eax
    movd %eax, %xmm0
    pshufd $0, %xmm0, %xmm0
    paddd AT(vector_data), %xmm0
    pmuludq %xmm0, %xmm0
    paddq %xmm0, %xmm0
    movhlps %xmm0, %xmm1
    paddq %xmm1, %xmm0
    movq %xmm0, RESULT(PROBE_R_SSE_INT)
    sqrtsd AT(double_two), %xmm2
    mulsd AT(double_three), %xmm2
    addsd AT(double_tenth), %xmm2
    movq %xmm2, RESULT(PROBE_R_SSE_FP)

    step PROBE_STEP_XSAVE
    movl $1, %eax
    cpuid
    movl %ecx, %esi
    btl $26, %esi
    jnc 9f
    movq $1, RESULT(PROBE_R_HAS_XSAVE)
    movq %cr4, %rax
    orl $0x40000, %eax
    movq %rax, %cr4
    movl $3, %eax
    btl $28, %esi
    jnc 1f
    movl $7, %eax
1:  xorl %ecx, %ecx
    xorl %edx, %edx
    xsetbv
    /* Save x87 and SSE, spoil them, restore. The header of the image is zero: the page was never used. */
    fninit
    fldpi
    movabsq $0x5152535455565758, %rax
    movq %rax, %xmm5
    movl $3, %eax
    xorl %edx, %edx
    xsave64 FXAREA
    fninit
    pxor %xmm5, %xmm5
    movl $3, %eax
    xrstor64 FXAREA
    movq %xmm5, RESULT(PROBE_R_XSAVE_LO)
    fstpl RESULT(PROBE_R_XSAVE_X87)

    step PROBE_STEP_AVX
    btl $28, %esi
    jnc 9f
    movq $1, RESULT(PROBE_R_HAS_AVX)
    vmovups AT(vector_data), %ymm0
    vaddps %ymm0, %ymm0, %ymm1
    vextractf128 $1, %ymm1, %xmm1
    vmovq %xmm1, RESULT(PROBE_R_AVX)
    vzeroupper
9:  ret

/* Ring 3 and back: SYSRET, SYSCALL, INT3 over the TSS's stack, SYSCALL. */
user_mode:
    step PROBE_STEP_USER
    movl $0xc0000081, %ecx /* STAR */
    xorl %eax, %eax
    movl $((SEL_USER32 << 16) | SEL_CODE64), %edx
    wrmsr
    incl %ecx /* LSTAR */
    movl $AT(syscall_entry), %eax
    xorl %edx, %edx
    wrmsr
    movl $0xc0000084, %ecx /* FMASK */
    movl $0x700, %eax
    wrmsr
    movq %rsp, %rbp
    movl $AT(user_code), %ecx
    movl $2, %r11d
    movl $USER_STACK, %esp
    sysretq
user_code:
    movl %cs, %eax
    movq %rax, RESULT(PROBE_R_USER_CS)
    movl $0x51, %edi
    syscall
    int3
    movl $0x52, %edi
    syscall
syscall_entry:
    addq %rdi, RESULT(PROBE_R_USER_SYSCALLS)
    cmpl $0x52, %edi
    je 1f
    sysretq
1:  movq %rbp, %rsp
    ret

    .macro vector_stub n
    .balign 16
    .if (\n == 8) || (\n >= 10 && \n <= 14) || (\n == 17) || (\n == 21)
    .else
    pushq $0
    .endif
    pushq $\n
    jmp exception
    .endm
    .balign 16
stubs:
    .set vector, 0
    .rept VECTORS
    vector_stub vector
    .set vector, vector + 1
    .endr

/* Stack: rax, rdx, vector, error code, rip, cs... */
exception:
    pushq %rdx
    pushq %rax
    movl 16(%rsp), %eax
    cmpl $3, %eax
    je exception_int3
    cmpl $14, %eax
    je exception_page_fault
    cmpl $TIMER_VECTOR, %eax
    je exception_timer
exception_unexpected:
    outb %al, $PROBE_PORT_FAULT
1:  hlt
    jmp 1b
exception_int3:
    incq RESULT(PROBE_R_INT3_COUNT)
    movq 40(%rsp), %rax
    testb $3, %al
    jnz 1f
    movq %rax, RESULT(PROBE_R_INT3_CS)
    jmp exception_return
1:  movq %rax, RESULT(PROBE_R_USER_INT3_CS)
    jmp exception_return
exception_page_fault:
    movq %cr2, %rdx
    cmpq $PROBE_HOLE, %rdx
    jne exception_unexpected
    movq %rdx, RESULT(PROBE_R_PF_CR2)
    movq 24(%rsp), %rdx
    incq %rdx /* so that 0, the expected code, is told from "never came" */
    movq %rdx, RESULT(PROBE_R_PF_ERROR)
    movl $(PROBE_HOLE_TARGET + 7), PT0 + (PROBE_HOLE >> 12) * 8
    jmp exception_return
exception_timer:
    incq RESULT(PROBE_R_TIMER)
    movl $LAPIC, %edx
    movl $0, 0xb0(%rdx)
exception_return:
    popq %rax
    popq %rdx
    addq $16, %rsp
    iretq

/* VECTORS interrupt gates; #BP may be called from ring 3. */
make_idt:
    movl $IDT, %edi
    movl $AT(stubs), %eax
    xorl %ecx, %ecx
1:  movw %ax, (%rdi)
    movw $SEL_CODE64, 2(%rdi)
    movw $0x8e00, 4(%rdi)
    movl %eax, %edx
    shrl $16, %edx
    movl %edx, 6(%rdi)
    movl $0, 10(%rdi)
    movw $0, 14(%rdi)
    addl $16, %eax
    addl $16, %edi
    incl %ecx
    cmpl $VECTORS, %ecx
    jb 1b
    movb $0xee, IDT + 3 * 16 + 5
    ret

    .balign 32
vector_data:
    .long 0, 3, 6, 9
    .float 1.5, 2.5, 3.5, 4.5
double_two:
    .double 2.0
double_three:
    .double 3.0
double_tenth:
    .double 0.1
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cffb000000ffff
    .quad 0x00cff3000000ffff
    .quad 0x00affb000000ffff
    .quad (0x0000890000000067 | ((TSS & 0xffffff) << 16))
    .quad 0
gdt_end:
gdt_pointer:
    .word gdt_end - gdt - 1
    .long AT(gdt)
idt_pointer:
    .word VECTORS * 16 - 1
    .quad IDT
vmm_probe_guest_end:

    .section .note.GNU-stack, "", @progbits
