/* Cryptography of the sealed mode, on OpenSSL's libcrypto. */

#include "native.h"

static PyMethodDef methods[] = {
    {NULL, NULL, 0, NULL},
};

int
cloudtaser_add_crypto(PyObject *module)
{
    return PyModule_AddFunctions(module, methods);
}
