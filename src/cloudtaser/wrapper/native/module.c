/* `_cloudtaser`: the module itself, put together from its themes (native.h). */

#include "native.h"

static int
execute(PyObject *module)
{
    if (cloudtaser_add_chunks(module) < 0 || cloudtaser_add_memory(module) < 0 || cloudtaser_add_guards(module) < 0 ||
        cloudtaser_add_report(module) < 0 || cloudtaser_add_environ(module) < 0 ||
        cloudtaser_add_text(module) < 0 || cloudtaser_add_json(module) < 0 || cloudtaser_add_spawn(module) < 0 ||
        cloudtaser_add_kin(module) < 0 || cloudtaser_add_descriptor(module) < 0 || cloudtaser_add_crypto(module) < 0 ||
        cloudtaser_add_cpu(module) < 0)
        return -1;
    return 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, (void *)execute},
#if PY_VERSION_HEX >= 0x030C0000
    {Py_mod_multiple_interpreters, Py_MOD_MULTIPLE_INTERPRETERS_NOT_SUPPORTED},
#endif
    {0, NULL},
};

PyDoc_STRVAR(doc, "Secret memory, a start from it, and cryptography on it, for cloudtaser-wrapper.");

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_cloudtaser",
    .m_doc = doc,
    .m_slots = slots,
};

PyMODINIT_FUNC
PyInit__cloudtaser(void)
{
    return PyModuleDef_Init(&definition);
}
