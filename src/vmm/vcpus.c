#include "vmm/vcpus.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#include "vmm/cpu_model.h"

struct vmm_vcpu {
    struct vmm_vcpus *all;
    struct cpu_vcpu *vcpu;
    unsigned id;
    bool running; /* its thread exists and was not joined */
    pthread_t thread;
};

struct vmm_vcpus {
    struct vmm_vcpus_config config;
    _Atomic bool stop;
    struct vmm_vcpu vcpus[CPU_VCPUS_MAX];
};

static int vcpus_set_cpuid(struct vmm_vcpus *v, unsigned id)
{
    struct kvm_cpuid_entry2 entries[VMM_CPUID_MAX];

    vmm_cpu_topology(v->config.cpu, id, v->config.n, entries);
    return v->config.ops->vcpu_set_cpuid(v->vcpus[id].vcpu, entries, v->config.cpu->n_cpuid);
}

/* What firmware would do: switch the MTRRs on with write-back as the default, without which Linux does without PAT.
 * Engines that refuse the register have their own idea of memory types. */
static int vcpus_set_mtrr(struct vmm_vcpus *v, unsigned id)
{
    const struct cpu_msr_entry def_type = { .index = 0x2ff, .value = 0xc06 };
    int r = v->config.ops->set_msrs(v->vcpus[id].vcpu, &def_type, 1);

    return r < 0 ? r : 0;
}

int vmm_vcpus_new(const struct vmm_vcpus_config *config, struct vmm_vcpus **ret_vcpus)
{
    AUTO(vmm_vcpus) struct vmm_vcpus *v = calloc(1, sizeof(*v));

    if (!v)
        return -ENOMEM;
    v->config = *config;
    for (unsigned id = 0; id < config->n; id++) {
        struct vmm_vcpu *t = &v->vcpus[id];
        int r;

        t->all = v;
        t->id = id;
        r = config->ops->vcpu_new(config->vm, id, &t->vcpu);
        if (r >= 0)
            r = vcpus_set_cpuid(v, id);
        if (r >= 0)
            r = vcpus_set_mtrr(v, id);
        if (r < 0)
            return r;
    }
    *ret_vcpus = STEAL(v);
    return 0;
}

struct cpu_vcpu *vmm_vcpus_get(struct vmm_vcpus *v, unsigned id)
{
    return v->vcpus[id].vcpu;
}

static void *vcpus_thread(void *opaque)
{
    struct vmm_vcpu *t = opaque;
    struct vmm_vcpus *v = t->all;
    struct cpu_exit exit;

    while (!atomic_load(&v->stop)) {
        int r = v->config.ops->vcpu_run(t->vcpu, &exit);

        if (r < 0) {
            exit = (struct cpu_exit){ .reason = CPU_EXIT_INTERNAL_ERROR };
            snprintf(exit.internal.why, sizeof(exit.internal.why), "run failed with error %d", -r);
        }
        if (exit.reason != CPU_EXIT_KICK) {
            v->config.stopped(v->config.opaque, t->id, &exit);
            break;
        }
    }
    return NULL;
}

int vmm_vcpus_start(struct vmm_vcpus *v)
{
    for (unsigned id = 0; id < v->config.n; id++) {
        struct vmm_vcpu *t = &v->vcpus[id];
        sigset_t all, old;
        char name[16];
        int r;

        /* The process's signals belong to the loop thread. Faults and the engines' own signals stay open: an engine
         * unblocks those that it needs. */
        sigemptyset(&all);
        sigaddset(&all, SIGTERM);
        sigaddset(&all, SIGINT);
        sigaddset(&all, SIGHUP);
        sigaddset(&all, SIGCHLD);
        pthread_sigmask(SIG_BLOCK, &all, &old);
        r = pthread_create(&t->thread, NULL, vcpus_thread, t);
        pthread_sigmask(SIG_SETMASK, &old, NULL);
        if (r != 0) {
            vmm_vcpus_stop(v);
            return -r;
        }
        t->running = true;
        snprintf(name, sizeof(name), "vcpu%u", id);
        pthread_setname_np(t->thread, name);
    }
    return 0;
}

void vmm_vcpus_stop(struct vmm_vcpus *v)
{
    atomic_store(&v->stop, true);
    for (unsigned id = 0; id < v->config.n; id++) {
        if (v->vcpus[id].running)
            v->config.ops->vcpu_kick(v->vcpus[id].vcpu);
    }
    for (unsigned id = 0; id < v->config.n; id++) {
        if (v->vcpus[id].running)
            pthread_join(v->vcpus[id].thread, NULL);
        v->vcpus[id].running = false;
    }
    atomic_store(&v->stop, false);
}

void vmm_vcpus_free(struct vmm_vcpus *v)
{
    if (!v)
        return;
    vmm_vcpus_stop(v);
    for (unsigned id = 0; id < v->config.n; id++) {
        if (v->vcpus[id].vcpu)
            v->config.ops->vcpu_free(v->vcpus[id].vcpu);
    }
    free(v);
}
