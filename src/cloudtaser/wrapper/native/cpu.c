/* What the processor says of the virtual machine it runs: for the protection score. */

#include "native.h"

#include <string.h>

#if defined(__x86_64__)
#include <cpuid.h>

#define AMD_ENCRYPTION 0x8000001F /* AMD64 Architecture Programmer's Manual, volume 3, E.4.17 */
#define SEV_SNP (1u << 4)
#define TDX 0x21 /* Intel TDX Module, "CPUID Virtualization" */
#define HYPERVISOR (1u << 31)

static const char *
confidential(void)
{
    unsigned int a, b, c, d;
    char name[13] = "";

    /* The same bit on bare metal says what the processor could do for guests: only a guest counts. */
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & HYPERVISOR))
        return "";
    if (__get_cpuid_max(0, NULL) >= TDX) {
        __cpuid_count(TDX, 0, a, b, c, d);
        memcpy(name, &b, 4);
        memcpy(name + 4, &d, 4);
        memcpy(name + 8, &c, 4);
        if (strcmp(name, "IntelTDX    ") == 0)
            return "Intel TDX";
    }
    if (__get_cpuid_max(0x80000000, NULL) >= AMD_ENCRYPTION) {
        __cpuid(AMD_ENCRYPTION, a, b, c, d);
        if (a & SEV_SNP)
            return "AMD SEV-SNP";
    }
    return "";
}
#endif

PyDoc_STRVAR(confidential_doc,
             "confidential_machine(): the technology that hides this virtual machine's memory from its host, by what\n"
             "CPUID says; \"\" for none, None where the processor has no such question. No proof: a host can lie.");

static PyObject *
confidential_machine(PyObject *module, PyObject *unused)
{
#if defined(__x86_64__)
    return PyUnicode_FromString(confidential());
#else
    Py_RETURN_NONE;
#endif
}

static PyMethodDef methods[] = {
    {"confidential_machine", confidential_machine, METH_NOARGS, confidential_doc},
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_cpu(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
