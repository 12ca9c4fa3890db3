/*
 * A tracer sets the extended state of a traced process's CPU in one piece: XSAVE's whole area, as large as this CPU makes it.
 * User-mode Linux of 6.1 has room for the area of CPUs before AMX, hands over that much, is refused with EINVAL and gives up
 * before its first process runs. Preloaded into it, this completes a shorter area by what the process has at the time.
 * Elsewhere nothing is shorter, and this changes nothing.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

typedef long (*ptrace_function)(int request, pid_t process, void *address, void *data);

/* More than any CPU has: AMX brings it to some eleven kilobytes. */
static unsigned char area[1 << 15];

static ptrace_function original(void)
{
    static ptrace_function found;
    if (found == NULL)
        found = (ptrace_function)dlsym(RTLD_NEXT, "ptrace");
    return found;
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list rest;
    va_start(rest, request);
    pid_t process = va_arg(rest, pid_t);
    void *address = va_arg(rest, void *);
    void *data = va_arg(rest, void *);
    va_end(rest);

    int is_xstate = request == PTRACE_SETREGSET && address == (void *)(unsigned long)NT_X86_XSTATE;
    if (is_xstate) {
        const struct iovec *part = data;
        struct iovec whole = { .iov_base = area, .iov_len = sizeof area };
        long read = original()(PTRACE_GETREGSET, process, address, &whole);
        if (read == 0 && part->iov_len < whole.iov_len) {
            memcpy(area, part->iov_base, part->iov_len);
            return original()(PTRACE_SETREGSET, process, address, &whole);
        }
    }
    return original()(request, process, address, data);
}
